"""S9: a secret that a user needs for reading shows up in nothing that a command prints or writes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import small_options
from small_jobs import SMALL, noise, write_input
from typer.main import get_command
from volumetool.cli.main import app, main

from volumetool.errors import DataError, VolumetoolError
from volumetool.redaction import printable, redact

CANARY = "s3cr3t-canary"
SIGNED = f"https://user:{CANARY}@h.example/v.zarr"
QUERY = f"https://h.example/v.zarr?sv=1&sig={CANARY}"

COMMANDS: dict[str, list[str]] = {
    "info": ["info", "URL"],
    "convert": ["convert", "URL", "out.zarr"],
    "pyramid": ["pyramid", "URL"],
    "crappify": ["crappify", "URL", "out.zarr"],
    "enhance": ["enhance", "URL", "out.zarr"],
    "enhance into": ["enhance", "in.zarr", "URL"],
    "enhance from a file": ["enhance", "--config", "job.yaml"],
    "apply": ["apply", "median", "URL", "out.zarr"],
    "try": ["try", "URL"],
    "status": ["status", "URL"],
    "verify": ["verify", "URL"],
    "attest": ["attest", "URL"],
    "clean": ["clean", "URL"],
    "view": ["view", "URL"],
    "view as a link": ["view", "URL", "--url-only"],
    "publish": ["publish", "URL", "--as", "precomputed"],
    "live": ["live", "URL", "--device", "cpu"],
    "serve": ["serve", "--data", "URL", "--port", "0"],
    "portal doctor": ["portal", "doctor", "--data", "URL"],
    "portal users": ["portal", "users", "--data", "URL"],
    "portal user": ["portal", "user", "ada", "--data", "URL"],
    "portal backup": ["portal", "backup", "b.tar", "--data", "URL"],
    "portal restore": ["portal", "restore", "b.tar", "--data", "URL"],
    "train": ["train", "train.yaml"],
    "evaluate": ["evaluate", "URL", "URL", "--report", "report.html"],
    "advise": ["advise", "URL"],
    "rescan": ["rescan", "URL"],
    "validate": ["validate", "URL"],
    "bench": ["bench", "URL"],
    "model show": ["model", "show", "URL"],
    "model import": ["model", "import", "URL"],
    "model test": ["model", "test", "URL"],
    "model export": ["model", "export", "URL", "--onnx", "out.onnx"],
    "slurm": ["slurm", "URL", "out.zarr"],
    "doctor": ["doctor", "URL"],
}
WITHOUT = {"demo", "schema", "model list"}
"""Commands that take no place."""


def grep(folder: Path) -> list[str]:
    """Return the files below a folder that hold the canary."""
    return sorted(str(file) for file in folder.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes())


def test_the_table_names_every_command() -> None:
    root: Any = get_command(app)
    names = {
        f"{name} {sub}" if sub else name
        for name, command in root.commands.items()
        for sub in getattr(command, "commands", None) or [""]
    }
    tried = {" ".join(words[:2]) if words[0] in ("model", "portal") else words[0] for words in COMMANDS.values()}
    assert names == tried | WITHOUT


@pytest.mark.parametrize("url", [SIGNED, QUERY])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_secret_in_a_url_is_refused_and_not_repeated(
    name: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLUMETOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VOLUMETOOL_TRACEBACK", "1")
    write_input(tmp_path / "in.zarr", noise((4, 16, 16)))
    given = [tmp_path / "job.yaml", tmp_path / "train.yaml"]
    given[0].write_text(yaml.safe_dump({"input": url, "output": "out.zarr"}))
    given[1].write_text(yaml.safe_dump({"name": "x", "sources": [{"path": url}]}))
    with pytest.raises(SystemExit) as ended:
        main([*(word.replace("URL", url) for word in COMMANDS[name]), "-vv", "--log-file", "log"])
    said = capsys.readouterr()
    assert ended.value.code not in (0, None)
    assert CANARY not in said.out + said.err
    assert "***" in said.err
    assert "***" in (tmp_path / "log").read_text()
    assert grep(tmp_path) == [str(file) for file in given if CANARY in file.read_text()]


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Gives files to who signs the request."""

    def do_GET(self) -> None:
        if f"sig={CANARY}" in self.path:
            super().do_GET()
        else:
            self.send_error(401)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a folder that asks for a signature, which is in the environment."""
    (tmp_path / "far").mkdir()
    handler = partial(Guarded, directory=str(tmp_path / "far"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("VOLUMETOOL_SIGNED_URLS", f"{base}/?sig={CANARY}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        monkeypatch.setenv("VOLUMETOOL_CACHE", str(tmp_path / "cache"))
        yield base
        server.shutdown()


def test_commands_that_read_with_a_secret_leave_none_of_it(
    signed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_input(tmp_path / "far" / "in.zarr", noise((10, 37, 45)), levels=2)
    source, out = f"{signed}/in.zarr", str(tmp_path / "out.zarr")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    config = tmp_path / "train.yaml"
    far = {"path": source, "level": 0, "voxel_size": [8, 8, 8]}
    training = small_options(tmp_path, sources=[far], sampling={"crop": [1, 8, 8], "acquisitions": 1, "crops": 1}, steps=1)
    config.write_text(yaml.safe_dump(json.loads(json.dumps(training))))
    commands = [
        ["info", source],
        ["convert", source, str(tmp_path / "copy.zarr")],
        ["crappify", source, str(tmp_path / "coarse.zarr"), "--scale", "1,2,2"],
        ["enhance", source, out, *options, "--log-format", "json", "--json"],
        ["status", out],
        ["verify", out],
        ["attest", out],
        ["clean", out],
        ["validate", source],
        ["evaluate", source, source, "--report", str(tmp_path / "report.html")],
        ["train", str(config), "--allow-host", "127.0.0.1", "--device", "cpu", "--dry-run"],
    ]
    codes = []
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main(command)
        codes.append((command[0], ended.value.code))
    # Level 1 of the volume goes: what is missing is named with its place.
    (tmp_path / "far" / "in.zarr" / "1" / "zarr.json").unlink()
    monkeypatch.setenv("VOLUMETOOL_TRACEBACK", "1")
    for command in (["info", source], ["convert", source, str(tmp_path / "second.zarr")]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err
    assert grep(tmp_path) == []
    assert codes[0] == ("info", 0), said.err
    assert ("enhance", 0) in codes, said.err
    assert ("convert", 0) in codes, said.err
    assert ("verify", 0) in codes, said.err


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("read https://h/v?sig=a&x=b, then", "read https://h/v?*** then"),
        ("'https://h/v?sig=a' failed", "'https://h/v?***' failed"),
        ("https://user:pa/ss@h/v", "https://***@h/v"),
        ("s3://key:secret@bucket/v and s3://bucket/v", "s3://***@bucket/v and s3://bucket/v"),
        ("https://h:8080/v.zarr", "https://h:8080/v.zarr"),
        ("fake:box?scale=1,4,4", "fake:box?scale=1,4,4"),
        ("is it there? https://h/v", "is it there? https://h/v"),
    ],
)
def test_redaction_takes_secrets_and_leaves_the_rest(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_errors_of_any_kind_are_redacted_in_every_form() -> None:
    from distributed.protocol import deserialize, serialize

    for error in (DataError("data.x", QUERY, hint=SIGNED, where=QUERY), VolumetoolError("x.y", f"\x1b[2J{SIGNED}")):
        for form in (error, deserialize(*serialize(error))):  # as between worker and driver
            assert CANARY not in f"{form} {form!r} {form.args} {form.as_dict()}"
            assert "\x1b" not in str(form)
    assert printable("a\x1b[31mb\u202ec\n\td") == "a\\x1b[31mb\\u202ec\n\td"
