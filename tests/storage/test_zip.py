"""Volumes in zip files: what is read from them, and which files are refused."""

from __future__ import annotations

import functools
import http.server
import json
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import tensorstore as ts

from volumetool.errors import OutputError, VolumetoolError
from volumetool.storage.convert_volume import convert
from volumetool.storage.info import describe_volume
from volumetool.storage.open import open_volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.arange(1, 1 + 4 * 6 * 10, dtype=np.uint8).reshape(4, 6, 10)


def _write(folder: Path) -> None:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    chunks = ts.ChunkLayout(chunk_shape=(2, 6, 10))
    ts.open(spec, create=True, dtype=ts.uint8, shape=VOXELS.shape, chunk_layout=chunks).result().write(VOXELS).result()


def _zip(folder: Path, file: Path, top: str = "", compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, f"{top}{each.relative_to(folder)}")


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """Return a zip file of a Zarr array."""
    _write(tmp_path / "in.zarr")
    _zip(tmp_path / "in.zarr", tmp_path / "v.zarr.zip")
    return tmp_path / "v.zarr.zip"


def _patched(file: Path, name: str, at: int, form: str, value: int) -> None:
    """Change a member of the entry of a name in a zip file's list."""
    content = bytearray(file.read_bytes())
    entry = content.index(b"PK\1\2")
    while content[entry + 46 : entry + 46 + len(name)] != name.encode():
        entry = content.index(b"PK\1\2", entry + 1)
    struct.pack_into(form, content, entry + at, value)
    file.write_bytes(content)


def _add(name: str, content: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def add(file: Path) -> None:
        with zipfile.ZipFile(file, "a", compression) as archive:
            archive.writestr(name, content)

    return add


def _long(file: Path) -> None:
    _add("big", b"some", zipfile.ZIP_DEFLATED)(file)
    _patched(file, "big", 20, "<I", 2**26)
    _patched(file, "big", 24, "<I", 2**26 + 1)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a name above": (_add("../../etc/passwd"), "no path below a folder"),
    "an absolute name": (_add("/etc/passwd"), "no path below a folder"),
    "backslashes": (_add("c\\0\\0\\0"), "no path below a folder"),
    "encrypted": (lambda file: _patched(file, "c/0/0/0", 8, "<H", 1), "is encrypted"),
    "bzip2": (_add("x", b"x" * 100, zipfile.ZIP_BZIP2), "by method 12"),
    "a bomb": (_add("bomb", bytes(2**24), zipfile.ZIP_DEFLATED), "16777216 unpacked; read are at most"),
    "a bomb that lies": (lambda file: _patched(file, "c/0/0/0", 24, "<I", 2**32 - 2), "4294967294 unpacked"),
    "a long packed entry": (_long, "at most 67108864"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_file_is_refused_by_what_is_wrong_with_it(zipped: Path, name: str) -> None:
    change, said = HOSTILE[name]
    change(zipped)
    with pytest.raises(VolumetoolError, match=said) as caught:
        open_volume(zipped, voxel_size=SIZE)
    assert caught.value.code == "input.unsupported"
    assert "zip -0 -r" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(zipped: Path) -> None:
    _add("c/0/0/0", b"other")(zipped)
    with pytest.raises(VolumetoolError, match="'c/0/0/0' twice"):
        open_volume(zipped, voxel_size=SIZE)


def test_an_entry_that_unpacks_to_more_than_is_listed_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "in.zarr")
    chunk = tmp_path / "in.zarr" / "c" / "0" / "0" / "0"
    chunk.write_bytes(np.random.default_rng(1).bytes(2**20))
    _zip(tmp_path / "in.zarr", tmp_path / "v.zip", compression=zipfile.ZIP_DEFLATED)
    _patched(tmp_path / "v.zip", "c/0/0/0", 24, "<I", 120)
    array = open_volume(tmp_path / "v.zip", voxel_size=SIZE).open()
    with pytest.raises(ValueError, match="c/0/0/0"):
        array.read().result()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_zip_file_that_was_cut_off_is_said_to_be(zipped: Path, share: float) -> None:
    content = zipped.read_bytes()
    zipped.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(VolumetoolError, match="damaged or cut off") as caught:
        open_volume(zipped, voxel_size=SIZE)
    assert caught.value.code == "input.unreadable"


def test_compressed_entries_and_a_folder_at_the_top_are_read(tmp_path: Path) -> None:
    _write(tmp_path / "in.zarr")
    _zip(tmp_path / "in.zarr", tmp_path / "v.zip", "v.zarr/", zipfile.ZIP_DEFLATED)
    volume = open_volume(tmp_path / "v.zip", voxel_size=SIZE)
    assert volume.url.endswith("v.zip/v.zarr")
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    assert describe_volume(volume)["bytes_on_disk"] == (tmp_path / "v.zip").stat().st_size


def test_one_of_several_volumes_is_named_by_its_path(tmp_path: Path) -> None:
    _write(tmp_path / "both" / "a.zarr")
    _write(tmp_path / "both" / "b.zarr")
    _zip(tmp_path / "both", tmp_path / "both.zip")
    with pytest.raises(VolumetoolError, match=r"holds a\.zarr, b\.zarr") as caught:
        open_volume(tmp_path / "both.zip", voxel_size=SIZE)
    assert "both.zip/a.zarr" in caught.value.hint
    np.testing.assert_array_equal(open_volume(tmp_path / "both.zip" / "b.zarr", voxel_size=SIZE).open().read().result(), VOXELS)
    with pytest.raises(VolumetoolError) as caught:
        open_volume(tmp_path / "both.zip" / "c.zarr", voxel_size=SIZE)
    assert caught.value.code == "input.not-found"


def test_a_zip_file_behind_http_is_read_where_it_lies(zipped: Path, served: str) -> None:
    for name in ("v.zarr.zip", "w%20%C3%BC.ozx"):
        zipped.with_name(unquote(name)).write_bytes(zipped.read_bytes())
        volume = open_volume(f"{served}/{name}", voxel_size=SIZE)
        np.testing.assert_array_equal(volume.open()[1:3].read().result(), VOXELS[1:3])


def test_a_server_that_gives_out_whole_files_alone_is_said_to_be_the_reason(zipped: Path) -> None:
    _add("note", bytes(2**17))(zipped)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(zipped.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(VolumetoolError) as caught:
            open_volume(f"http://127.0.0.1:{server.server_port}/v.zarr.zip", voxel_size=SIZE)
        server.shutdown()
    assert caught.value.code == "input.unreadable"
    assert "parts of files" in caught.value.hint


def test_a_folder_that_is_named_like_a_zip_file_stays_a_folder(tmp_path: Path) -> None:
    _write(tmp_path / "v.zip")
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zip", voxel_size=SIZE).open().read().result(), VOXELS)


def test_a_zip_file_is_read_alone(zipped: Path, tmp_path: Path) -> None:
    before = zipped.read_bytes()
    for place in (zipped, zipped / "out.zarr", tmp_path / "new.ozx"):
        with pytest.raises(OutputError, match=r"zip|ozx") as caught:
            convert(zipped, place, voxel_size=SIZE)
        assert "volume.zarr" in caught.value.hint
    assert zipped.read_bytes() == before


def test_volumes_of_other_software_are_read_from_their_zip_files(data: Path) -> None:
    fixtures = data / "format-fixtures"
    volume = open_volume(fixtures / "mobie_mri_stack.ome.zarr.zip", voxel_size=SIZE)
    assert [int(volume.open(level).read().result().astype(np.int64).sum()) for level in (0, 1)] == [40784917, 4994371]
    simple = open_volume(fixtures / "neuroglancer_zarr.zip" / "zarr" / "ome_zarr" / "simple_0.5")
    assert int(simple.open().read().result().astype(np.int64).sum()) == sum(range(100))
    assert json.loads(json.dumps(describe_volume(simple)))["format"] == "ome-zarr-0.5"
