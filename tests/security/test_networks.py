"""Files of networks of others that were made to do harm run nothing, read nothing beside them, and end in a named error."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as made
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper

from volumetool.errors import ModelError
from volumetool.models.foreign.program import open_program
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.operation import trust_operation


def _network(folder: Path) -> onnx.ModelProto:
    return onnx.load(made.write_onnx(folder / "plain.onnx", made.conv(2, (1, 1))))


def _leads(folder: Path, location: str, **more: int) -> bytes:
    """Return a network whose weights lie somewhere else."""
    model = _network(folder)
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 4)
    external_data_helper.set_external_data(tensor, location, **more)
    tensor.ClearField("raw_data")
    return model.SerializeToString()


def out_of_the_folder(folder: Path) -> bytes:
    (folder.parent / "secret").write_bytes(bytes(36))
    return _leads(folder, "../secret")


def absolute(folder: Path) -> bytes:
    return _leads(folder, "/etc/passwd")


def through_a_link(folder: Path) -> bytes:
    (folder / "link").symlink_to("/etc/passwd")
    return _leads(folder, "link")


def device(folder: Path) -> bytes:
    (folder / "zero").symlink_to("/dev/zero")
    return _leads(folder, "zero")


def behind_the_end(folder: Path) -> bytes:
    (folder / "weights").write_bytes(bytes(36))
    return _leads(folder, "weights", offset=2**40, length=36)


def missing(folder: Path) -> bytes:
    return _leads(folder, "nothing")


def _with_node(folder: Path, kind: str, domain: str, *, within: bool) -> bytes:
    model = _network(folder)
    node = helper.make_node(kind, ["x"], ["y2"], domain=domain)
    if within:  # of a branch, where a look at the nodes of the graph alone does not find it
        branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("y2", TensorProto.FLOAT, None)])
        node = helper.make_node("If", ["x"], ["y3"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model.SerializeToString()


def custom_operator(folder: Path) -> bytes:
    return _with_node(folder, "Run", "my.operators", within=False)


def compiled_context(folder: Path) -> bytes:
    return _with_node(folder, "EPContext", "com.microsoft", within=False)


def operator_in_a_branch(folder: Path) -> bytes:
    return _with_node(folder, "PyOp", "com.microsoft", within=True)


def huge_weights(folder: Path) -> bytes:
    model = _network(folder)
    model.graph.initializer[0].dims[0] = 2**40
    return model.SerializeToString()


def no_protobuf(_: Path) -> bytes:
    return b"\x80\x04" + b"\xff" * 100


def nested(_: Path) -> bytes:
    """Make a message in a message, 2000 deep: graphs in attributes of nodes."""
    inner = b""
    for _ in range(2000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            length, size = len(inner), b""
            while True:
                length, low = length >> 7, length & 127
                size += bytes([low | (128 if length else 0)])
                if not length:
                    break
            inner = tag + size + inner
    return b"\x3a" + inner[:0] + bytes([len(inner) & 127 | 128, (len(inner) >> 7) & 127 | 128, len(inner) >> 14]) + inner


HOSTILE = (
    out_of_the_folder, absolute, through_a_link, device, behind_the_end, missing, custom_operator, compiled_context,
    operator_in_a_branch, huge_weights, no_protobuf, nested,
)  # fmt: skip


class _FromFile(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("CANARY", True, 4)[0]


class _Saving(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() < 0):
            torch.save(x, "CANARY")
        return x


class _SetsUp(torch.nn.Module):
    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = bool(torch.from_file("CANARY", True, 4).sum() > 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Hooked(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Gadget:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("CANARY", "w")


def _scripted(network: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), file)
    return file.getvalue()


def from_file() -> bytes:
    return _scripted(_FromFile())


def saving_in_a_branch() -> bytes:
    return _scripted(_Saving())


def setting_up() -> bytes:
    return _scripted(_SetsUp())


def hooked() -> bytes:
    network = _Hooked()

    def hook(self: _Hooked, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:  # noqa: ARG001  (as torch wants it)
        return (given[0] + torch.from_file("CANARY", True, 4)[0],)

    network.register_forward_pre_hook(hook)
    return _scripted(network)


def hooked_in_other_words() -> bytes:
    """Name the hooks as nobody's exporter does."""
    return _changed(
        lambda name, data: data.replace(b"__forward_pre_hooks__ = [", b"__forward_pre_hooks__=[") if "/code/" in name else data,
        hooked(),
    )


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(2), "more": Gadget()}, file)
    return file.getvalue()


def bare_pickle() -> bytes:
    return pickle.dumps(Gadget())


def _changed(change: Callable[[str, bytes], bytes], program: bytes | None = None) -> bytes:
    """Return a program, a sound one unless another is given, with other entries."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(program or _scripted(_Hooked()))) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return made.getvalue()


def gadget_as_data() -> bytes:
    return _changed(lambda name, data: pickle.dumps(Gadget(), 2) if name.endswith("/data.pkl") else data)


def bomb() -> bytes:
    return _changed(lambda name, data: bytes(2**29) if name.endswith("/version") else data)


def cut_short() -> bytes:
    return _scripted(_Hooked())[:-100]


PROGRAMS = (
    from_file,
    saving_in_a_branch,
    setting_up,
    hooked,
    hooked_in_other_words,
    pickled,
    bare_pickle,
    gadget_as_data,
    bomb,
    cut_short,
)


@pytest.mark.parametrize("make", PROGRAMS, ids=lambda make: make.__name__)
def test_a_hostile_program_of_torch_runs_and_writes_nothing(
    make: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("volumetool.models.foreign.archive.usable_memory", lambda: 2**28)
    (tmp_path / "network.pt").write_bytes(make())
    monkeypatch.setenv(TRUSTED, hashlib.sha256((tmp_path / "network.pt").read_bytes()).hexdigest())
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "CANARY").unlink()
    with pytest.raises(ModelError) as caught:
        open_program(tmp_path / "network.pt")
    assert caught.value.code == "model.broken"
    assert len(str(caught.value)) < 2000
    assert not (tmp_path / "CANARY").exists()


def test_a_program_of_torch_that_nobody_trusts_is_not_even_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUSTED, raising=False)
    (tmp_path / "network.pt").write_bytes(_scripted(_Hooked()))
    with pytest.raises(ModelError) as caught:
        open_program(tmp_path / "network.pt")
    assert caught.value.code == "model.untrusted"
    trust_operation(str(tmp_path / "network.pt"))
    assert open_program(tmp_path / "network.pt").kind == "TorchScript program"


def test_what_these_programs_do_is_done_where_they_are_loaded_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(io.BytesIO(setting_up()))
    assert (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_onnx_file_is_refused_before_it_runs(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "network.onnx").write_bytes(make(folder))
    before = psutil.Process().memory_info().rss
    with pytest.raises(ModelError) as caught:
        open_program(folder / "network.onnx").open(torch.device("cpu"))(torch.zeros(1, 1, 32, 32))
    assert caught.value.code == "model.broken"
    assert len(str(caught.value)) < 2000
    assert psutil.Process().memory_info().rss - before < 200 * 2**20


def test_weights_in_a_file_beside_are_read_and_count(tmp_path: Path) -> None:
    model = _network(tmp_path)
    before = open_program(tmp_path / "plain.onnx")
    onnx.save(model, tmp_path / "n.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    first, image = open_program(tmp_path / "n.onnx"), torch.rand(1, 1, 32, 32)
    cpu = torch.device("cpu")
    assert torch.equal(first.open(cpu)(image), before.open(cpu)(image))
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[3] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert open_program(tmp_path / "n.onnx").sha256 != first.sha256
