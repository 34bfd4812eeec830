"""S7: no archive is ever unpacked: whatever is in one, it is refused by name and leaves nothing behind."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from volumetool.cli.main import main

LINK = 0o120777 << 16


def _zip(*members: tuple[str, bytes], attributes: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if attributes is not None:
                info.external_attr = attributes
            archive.writestr(info, content)
    return file.getvalue()


def _tar(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return file.getvalue()


PACKAGE = b"format_version: 0.5.4\ntype: model\nweights: {pytorch_state_dict: {source: weights.pt}}\n"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "parent": lambda: _zip(("../canary", b"x")),
    "deep parent": lambda: _zip(("a/../../canary", b"x")),
    "absolute": lambda: _zip(("/tmp/canary", b"x")),  # noqa: S108
    "backslashes": lambda: _zip(("..\\canary", b"x")),
    "drive": lambda: _zip(("C:\\canary", b"x")),
    "link": lambda: _zip(("canary", b"/etc/passwd"), attributes=LINK),
    "bomb": lambda: _zip(("canary", bytes(2**25))),
    "many": lambda: _zip(*((f"canary{n}", b"") for n in range(1500))),
    "cases": lambda: _zip(("canary", b"1"), ("CANARY", b"2")),
    "package": lambda: _zip(("rdf.yaml", PACKAGE), ("weights.pt", b"\x80\x02.")),
    "zarr": lambda: _zip(("zarr.json", b'{"zarr_format": 3, "node_type": "group"}'), ("canary", b"")),
    "tar parent": lambda: _tar("../canary"),
    "tar link": lambda: _tar("canary", tarfile.SYMTYPE, "/etc"),
    "tar hard link": lambda: _tar("canary", tarfile.LNKTYPE, "../../x"),
    "tar device": lambda: _tar("canary", tarfile.CHRTYPE, mode="w:gz"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_is_refused_wherever_it_is_given_and_leaves_nothing(
    make: Callable[[], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    content = make()
    for name in ("model.zip", "model.safetensors", "volume.zarr.zip", "images.tif"):
        file = folder / name
        file.write_bytes(content)
        for command in (["model", "show", str(file)], ["info", str(file)], ["convert", str(file), str(tmp_path / "out.zarr")]):
            with pytest.raises(SystemExit) as ended:
                main(command)
            assert ended.value.code == 2
        file.unlink()
    said = capsys.readouterr().err
    assert said.count("error [model.broken]") == 4
    assert said.count("error [input.") == 8
    assert list(folder.iterdir()) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
