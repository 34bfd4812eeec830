"""Packages of networks that were made to do harm run nothing, fetch nothing and leave nothing outside the folder of models."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import stat
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import foreign_networks as made
import numpy as np
import psutil
import pytest
import torch
import zoo_packages as zoo
from onnx import ModelProto, external_data_helper

import volumetool as vt
from volumetool.errors import ModelError
from volumetool.models.foreign.program import open_program
from volumetool.processing.operation import open_operation
from volumetool.processing.operations.imported import list_imported

RUNS = "__import__('pathlib').Path('CANARY').touch()"
Files = dict[str, bytes]
Said = dict[str, Any]


class Gadget:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("CANARY", "w")


@pytest.fixture(scope="module")
def weights() -> bytes:
    return zoo.onnx_bytes(made.conv(2, (1, 1)), "bcyx")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, with a folder of models, and with no network to reach."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("VOLUMETOOL_MODELS", str(tmp_path / "models"))
    return tmp_path / "work"


def sound(weights: bytes) -> tuple[Said, Files]:
    image = zoo.npy(np.zeros((1, 1, 16, 16), np.float32))
    return zoo.version_05(), {"w.onnx": weights, "in.npy": image, "out.npy": image}


def source(name: str) -> Callable[[Said, Files], None]:
    """Make the weights lie somewhere else."""

    def change(said: Said, _: Files) -> None:
        said["weights"]["onnx"]["source"] = name

    return change


def tensor(name: str) -> Callable[[Said, Files], None]:
    def change(said: Said, _: Files) -> None:
        said["inputs"][0]["test_tensor"]["source"] = name

    return change


def entry(name: str, content: bytes = b"x") -> Callable[[Said, Files], None]:
    def change(_: Said, files: Files) -> None:
        files[name] = content

    return change


def with_weights(kind: str, content: bytes) -> Callable[[Said, Files], None]:
    def change(said: Said, files: Files) -> None:
        said["weights"] = {kind: {"source": "w.bin", "architecture": {"callable": "f", "source": "evil.py"}}}
        files |= {"w.bin": content, "evil.py": RUNS.encode()}

    return change


def custom_step(said: Said, files: Files) -> None:
    said["outputs"][0]["postprocessing"] = [{"id": "custom", "callable": "f", "source": "evil.py"}]
    files["evil.py"] = RUNS.encode()


def outside_weights(said: Said, files: Files) -> None:
    model = ModelProto.FromString(files["w.onnx"])
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 4)
    external_data_helper.set_external_data(tensor, "../../secret")
    tensor.ClearField("raw_data")
    files["w.onnx"] = model.SerializeToString()
    said["weights"]["onnx"]["external_data"] = {"source": "../../secret"}


def text(content: bytes) -> Callable[[Said, Files], None]:
    return entry("rdf.yaml", content)


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save(Gadget(), file)
    return file.getvalue()


HOSTILE: dict[str, Callable[[Said, Files], None]] = {
    "weights above": source("../../etc/passwd"),
    "weights at the root": source("/etc/passwd"),
    "weights on a server": source("http://127.0.0.1:9/w.onnx"),
    "weights in a file of the system": source("file:///etc/passwd"),
    "weights on another drive": source("C:w.onnx"),
    "a test tensor above": tensor("../in.npy"),
    "a test tensor on a server": tensor("https://example.org/in.npy"),
    "an entry above": entry("../../CANARY"),
    "an entry at the root": entry("/CANARY"),
    "an entry with backslashes": entry("..\\CANARY"),
    "an entry of control characters": entry("a\x1b[2Jb"),
    "a state dict with code": with_weights("pytorch_state_dict", pickled()),
    "a pickle as TorchScript": with_weights("torchscript", pickled()),
    "a pickle as ONNX": with_weights("onnx", pickle.dumps(Gadget())),
    "a lambda layer of Keras": with_weights("keras_hdf5", b"\x89HDF\r\n\x1a\n"),
    "a step in Python": custom_step,
    "weights of ONNX outside": outside_weights,
    "tags of YAML": text(b"type: model\nformat_version: !!python/object/apply:os.system ['touch CANARY']\n"),
    "aliases without end": text(b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
    "nesting without end": text(b"[" * 200000),
    "a huge description": text(b"#" * 2**20),
    "a huge number": text(b"type: model\nformat_version: 0.5.4\nname: " + b"9" * 10**5),
    "no description": text(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_package_is_refused_runs_nothing_and_leaves_nothing(
    kind: str, weights: bytes, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported and trusted, which is the most that a user can do for it."""

    def refuse(*_: object) -> None:
        raise AssertionError("it reached for the network")

    said, files = sound(weights)
    HOSTILE[kind](said, files)
    path = zoo.write_package(elsewhere / "evil.zip", said, files)
    (elsewhere / "CANARY").unlink(missing_ok=True)
    (tmp_path / "secret").write_bytes(bytes(36))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = sorted(tmp_path.rglob("*"))
    for attempt in (lambda: open_program(path), lambda: vt.import_model(path, trust=True)):
        with pytest.raises(ModelError) as caught:
            attempt()
        assert caught.value.code == "model.broken"
        assert len(str(caught.value)) < 2000
    assert not (elsewhere / "CANARY").exists()
    assert sorted(each for each in tmp_path.rglob("*") if each != tmp_path / "models") == before
    assert list_imported() == ()


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo], None]) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            info = zipfile.ZipInfo(name)
            change(info)
            new.writestr(info, old.read(name))
    path.write_bytes(content.getvalue())


def test_a_link_in_a_zip_file_is_refused(weights: bytes, elsewhere: Path) -> None:
    path = zoo.write_package(elsewhere / "evil.zip", *sound(weights))

    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == "w.onnx":
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    rewritten(path, link)
    with pytest.raises(ModelError, match="is a link"):
        open_program(path)


def test_a_link_out_of_a_folder_is_refused(weights: bytes, elsewhere: Path) -> None:
    path = zoo.write_package(elsewhere / "evil", *sound(weights))
    (path / "w.onnx").unlink()
    (path / "w.onnx").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="lies outside of it"):
        vt.import_model(path)


def test_a_name_that_is_there_twice_is_refused(weights: bytes, elsewhere: Path) -> None:
    path = zoo.write_package(elsewhere / "evil.zip", *sound(weights))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w.onnx", b"another")
    for attempt in (open_program, vt.import_model):
        with pytest.raises(ModelError, match="one name twice"):
            attempt(path)


def test_a_bomb_is_refused_before_it_is_unpacked(weights: bytes, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo.write_package(elsewhere / "evil.zip", *sound(weights))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as file:
        for _ in range(256):
            file.write(bytes(2**20))
    monkeypatch.setattr("volumetool.models.foreign.archive.usable_memory", lambda: 2**29)
    before = psutil.Process().memory_info().rss
    for attempt in (open_program, vt.import_model):
        with pytest.raises(ModelError, match="a quarter of the memory"):
            attempt(path)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_code_beside_the_weights_is_left_behind_and_never_run(weights: bytes, elsewhere: Path) -> None:
    said, files = sound(weights)
    said["attachments"] = [{"source": "evil.py"}, {"source": "https://example.org/evil.py"}]
    said["weights"]["pytorch_state_dict"] = {"source": "w.pt", "architecture": {"callable": "f", "source": "evil.py"}}
    path = zoo.write_package(elsewhere / "Fine One.zip", said, {**files, "evil.py": RUNS.encode(), "w.pt": pickled()})
    (elsewhere / "CANARY").unlink(missing_ok=True)
    kept = vt.import_model(path)
    with zipfile.ZipFile(kept) as archive:
        assert sorted(archive.namelist()) == ["in.npy", "out.npy", "rdf.yaml", "w.onnx"]
    assert list_imported() == ("fine-one",)
    open_operation("fine-one").open(torch.device("cpu"), None)  # type: ignore[arg-type]  # numerics are not asked for
    assert not (elsewhere / "CANARY").exists()


def test_a_program_in_a_package_is_code_and_wants_trust(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLUMETOOL_TRUST", raising=False)
    said, files = sound(b"")
    said["weights"] = {"torchscript": {"source": "w.onnx"}}
    files["w.onnx"] = made.write_torchscript(elsewhere / "w.pt", made.conv(2, (1, 1))).read_bytes()
    path = zoo.write_package(elsewhere / "program.zip", said, files)
    with pytest.raises(ModelError) as caught:
        vt.import_model(path)
    assert caught.value.code == "model.untrusted"
    vt.import_model(path, trust=True)
    assert open_operation("program").card.receptive_field == (0, 1, 1)


@pytest.mark.parametrize("name", ["em-x4", "median", "../up", "Upper", "-", "fine"])
def test_a_name_that_is_taken_or_leads_elsewhere_is_refused(name: str, weights: bytes, elsewhere: Path) -> None:
    path = zoo.write_package(elsewhere / "fine.zip", *sound(weights))
    vt.import_model(path)
    with pytest.raises(ModelError) as caught:
        vt.import_model(path, name)
    assert caught.value.code == "model.exists"
    assert list_imported() == ("fine",)
    assert vt.import_model(path, "fine", overwrite=True).name == "fine.zip"


def test_a_folder_of_models_that_cannot_be_written_is_named(weights: bytes, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"a file")
    with pytest.raises(ModelError, match=r"models cannot be written") as caught:
        vt.import_model(zoo.write_package(elsewhere / "fine.zip", *sound(weights)))
    assert caught.value.code == "model.folder"


class Server(BaseHTTPRequestHandler):
    """Gives a package, or leads somewhere else."""

    content = b""

    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
        else:
            self.send_response(200 if self.path.startswith("/fine") else 404)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_package_is_fetched_from_a_server_alone_and_not_from_where_it_leads(
    weights: bytes, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.content = zoo.write_package(elsewhere / "p.zip", *sound(weights)).read_bytes()
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    try:
        assert vt.import_model(f"{place}/fine%20shark.zip?download=1").name == "fine-shark.zip"
        for wrong in ("away.zip", "missing.zip"):
            with pytest.raises(ModelError) as caught:
                vt.import_model(f"{place}/{wrong}")
            assert caught.value.code == "model.unreadable"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
