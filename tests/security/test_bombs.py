"""S8: chunks and images that are small on disk and huge in memory are refused before they are unpacked."""

from __future__ import annotations

import bz2
import json
import lzma
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import Told
from small_jobs import SMALL, noise, write_input

from volumetool.errors import InputError, ResourceError, VolumetoolError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.models import load_model, save_model
from volumetool.storage.formats import base
from volumetool.storage.images import open_images
from volumetool.storage.io import limits
from volumetool.storage.io.arrays import open_array
from volumetool.storage.open import open_volume
from volumetool.training.config import TrainConfig, make_config
from volumetool.training.train import describe, train

SIDE, BIG = 64, 2**27
READ = """
import pathlib, re, sys
from volumetool.storage.voxels import read_voxels
from volumetool.errors import DataError
from volumetool.geometry import Box
from volumetool.storage.open import open_volume
from volumetool.storage.formats.precomputed import find_precomputed
process = pathlib.Path("/proc/self")
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", (process / "status").read_text())[1])
for path in sys.argv[1:]:
    volume = find_precomputed(path) or open_volume(path, voxel_size=(1.0, 1.0, 1.0))
    array = volume.open()
    (process / "clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    try:
        read_voxels(array, Box((0, 0, 0), (1, 8, 8)), "input")
        code = "read"
    except DataError as error:
        code = error.code
    print(path.rpartition("/")[2], code, (peak() - before) // 1024)
"""


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(data) + packer.flush()


def _zarr3(codecs: list[dict[str, Any]], content: bytes | int) -> Callable[[Path], None]:
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [SIDE] * 3,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SIDE] * 3}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes"}, *codecs],
        "fill_value": 0,
    }
    return lambda path: _store(path, "zarr.json", metadata, "c/0/0/0", content)


def _zarr2(compressor: dict[str, Any], content: bytes | int) -> Callable[[Path], None]:
    metadata = {
        "zarr_format": 2,
        "shape": [SIDE] * 3,
        "chunks": [SIDE] * 3,
        "dtype": "|u1",
        "compressor": compressor,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    return lambda path: _store(path, ".zarray", metadata, "0.0.0", content)


def _n5(compression: dict[str, Any], content: bytes, head: bytes | None = None) -> Callable[[Path], None]:
    metadata = {"dimensions": [SIDE] * 3, "blockSize": [SIDE] * 3, "dataType": "uint8", "compression": compression}
    head = b"\0\0\0\3" + SIDE.to_bytes(4, "big") * 3 if head is None else head
    return lambda path: _store(path, "attributes.json", metadata, "0/0/0", head + content)


def _precomputed(encoding: str, content: bytes | int) -> Callable[[Path], None]:
    scale = {"key": "a", "size": [SIDE] * 3, "resolution": [1, 1, 1], "chunk_sizes": [[SIDE] * 3], "encoding": encoding}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [{**scale, "voxel_offset": [0, 0, 0]}]}
    return lambda path: _store(path, "info", info, "a/0-64_0-64_0-64", content)


def _store(path: Path, key: str, metadata: dict[str, Any], chunk: str, content: bytes | int) -> None:
    (path / chunk).parent.mkdir(parents=True)
    (path / key).write_text(json.dumps(metadata))
    with (path / chunk).open("wb") as file:
        if isinstance(content, int):
            file.truncate(content)  # takes no room on the disk
        else:
            file.write(content)


def _bombs() -> dict[str, Callable[[Path], None]]:
    zeros = bytes(BIG)
    gzipped = _gzip(zeros)
    blosc = numcodecs.Blosc("zstd", 1).encode(zeros)
    settings = {"cname": "zstd", "clevel": 1, "blocksize": 0}
    return {
        "raw": _zarr3([], 2**29),
        "gzip-long": _zarr3([{"name": "gzip", "configuration": {"level": 1}}], 2**29),
        "gzip": _zarr3([{"name": "gzip", "configuration": {"level": 1}}], gzipped),
        "zstd": _zarr3([{"name": "zstd", "configuration": {"level": 1, "checksum": False}}], numcodecs.Zstd(1).encode(zeros)),
        "blosc": _zarr3([{"name": "blosc", "configuration": {**settings, "shuffle": "noshuffle", "typesize": 1}}], blosc),
        "zarr2-gzip": _zarr2({"id": "gzip", "level": 1}, gzipped),
        "zarr2-bz2": _zarr2({"id": "bz2", "level": 1}, bz2.compress(zeros, 9)),
        "zarr2-blosc": _zarr2({"id": "blosc", **settings, "shuffle": 0}, blosc),
        "n5-xz": _n5({"type": "xz", "preset": 0}, lzma.compress(zeros, preset=0)),
        "n5-blosc": _n5({"type": "blosc", **settings, "shuffle": 0}, blosc),
        "n5-block": _n5({"type": "raw"}, b"", b"\0\0\0\3" + (2**31 - 1).to_bytes(4, "big") * 3),
        "n5-varied": _n5({"type": "raw"}, b"", b"\0\1\0\3" + SIDE.to_bytes(4, "big") * 3 + (2**31 - 1).to_bytes(4, "big")),
        "precomputed": _precomputed("raw", 2**29),
        "precomputed-png": _precomputed("png", _png(60_000)),
    }


def _png(side: int) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(bytes(2**20))) + part(b"IEND", b"")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process's memory is asked of Linux")
def test_no_bomb_goes_off(tmp_path: Path) -> None:
    bombs = _bombs()
    for name, make in bombs.items():
        make(tmp_path / name)
    command = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in bombs)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for name, code, grown in zip(said[::3], said[1::3], said[2::3], strict=True):
        assert code in ("data.oversized", "data.unreadable"), name
        assert int(grown) < 100, name
    assert said[::3] == list(bombs)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process's memory is asked of Linux")
def test_chunks_of_one_read_are_unpacked_a_few_at_a_time(tmp_path: Path) -> None:
    """Each of 8 chunks has 188 MiB out of 6 kB; a machine of two cores would unpack two at once, and so on."""
    _bare(tmp_path / "many", [8, 2**14, 12000], [1, 2**14, 12000])
    chunk = numcodecs.Zstd(1).encode(np.full(2**14 * 12000, 7, np.uint8))
    for z in range(8):
        (tmp_path / "many" / f"{z}.0.0").write_bytes(chunk)
    command = [sys.executable, "-c", READ.replace("(1, 8, 8)", "(8, 8, 8)"), str(tmp_path / "many")]
    _, code, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert code == "read"
    assert int(grown) < limits.UNPACKED // 2**20


def _bare(path: Path, shape: list[int], chunks: list[int]) -> None:
    """Write the metadata of a bare Zarr array without chunks."""
    _zarr2({"id": "zstd", "level": 1}, b"")(path)
    (path / "0.0.0").unlink()
    metadata = json.loads((path / ".zarray").read_text()) | {"shape": shape, "chunks": chunks}
    (path / ".zarray").write_text(json.dumps(metadata))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_read_in_parts_is_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    """Chunked and sharded, of any channel and order of axes, with bounds that allow one chunk or some."""
    monkeypatch.setattr(limits, "UNPACKED", data.draw(st.integers(1, 3 * 10**5)))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 4))
    inner = data.draw(st.tuples(*[st.integers(2, 4)] * 4))
    shard = tuple(2 * n for n in inner) if data.draw(st.booleans()) else None
    voxels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    zarr.create_array(str(place / "array"), data=voxels, chunks=inner, shards=shard)
    array = open_array(str(place / "array"), "zarr3")
    order = tuple(data.draw(st.permutations(range(3))))
    starts = [data.draw(st.integers(0, n - 1)) for n in shape[1:]]
    box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape[1:], strict=True))
    channel = data.draw(st.integers(0, shape[0] - 1))
    found = limits.read_bounded(array[channel][box].transpose(order))
    np.testing.assert_array_equal(found, voxels[channel][box].transpose(order))


def _refused(tmp_path: Path, **options: Any) -> VolumetoolError:
    """Return the error of planning a job."""
    options = SMALL | {"model": "em-x4", "force_voxel_size": True, "output": str(tmp_path / "out.zarr")} | options
    with pytest.raises(VolumetoolError) as caught:
        plan(make_job(**options))
    return caught.value


def test_a_card_whose_patches_fill_memory_is_refused_before_one_is_made(tiny_model: Path, tmp_path: Path) -> None:
    source, file = write_input(tmp_path / "in.zarr", noise((2, 40, 40))), tmp_path / "m.safetensors"
    model = load_model(tiny_model)
    for side in (40_000, 2**60):
        save_model(file, model.network(), model.card.model_copy(update={"patch": (1, side, side)}))
        error = _refused(tmp_path, input=str(source), model=str(file))
        assert error.code == "resource.memory"
        assert f"patches of (1, {side}, {side})" in error.message


def test_a_chunk_that_does_not_fit_the_memory_allowed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    _bare(tmp_path / "in.zarr", [1, 2**14, 2**14], [1, 2**14, 2**14])
    error = _refused(tmp_path, input=str(tmp_path / "in.zarr"), voxel_size="30,32,32", memory="600MiB")
    assert error.code == "resource.memory"
    assert "chunks of (1, 16384, 16384)" in error.message


def test_more_sections_than_a_table_can_have_are_refused_at_once(tmp_path: Path) -> None:
    _bare(tmp_path / "in.zarr", [2**26, 16, 16], [1, 16, 16])
    error = _refused(tmp_path, input=str(tmp_path / "in.zarr"), voxel_size="30,32,32")
    assert error.code == "input.too-large"
    assert "67108864 sections" in error.message


def test_a_shard_whose_index_is_larger_than_metadata_may_be_is_refused(tmp_path: Path) -> None:
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    inner = {"chunk_shape": [1, 1, 1], "codecs": [{"name": "bytes"}], "index_codecs": index}
    _zarr3([], b"")(tmp_path / "in.zarr")
    metadata = json.loads((tmp_path / "in.zarr" / "zarr.json").read_text())
    metadata |= {"shape": [1024] * 3, "codecs": [{"name": "sharding_indexed", "configuration": inner}]}
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [256] * 3
    (tmp_path / "in.zarr" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="their index exceeds"):
        open_volume(str(tmp_path / "in.zarr"), voxel_size=(1.0, 1.0, 1.0))


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha"}">' for n in range(10))


@pytest.mark.parametrize(
    "text",
    [
        f"<!DOCTYPE OME [{LAUGHS}]><OME>&l9;</OME>",
        '<!DOCTYPE OME [<!ENTITY x SYSTEM "file:///etc/passwd">]><OME>&x;</OME>',
        "<OME>" * 9,
    ],
    ids=["a billion laughs", "another file", "cut off"],
)
def test_xml_that_declares_something_is_refused(text: str, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((16, 16), np.uint8), description=f'<?xml version="1.0"?>{text}', metadata=None
    )
    with pytest.raises(InputError) as caught:
        open_images(tmp_path / "a.ome.tif")
    assert caught.value.code == "input.broken-metadata"


def test_xml_longer_than_metadata_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        base.parse_xml("<OME>" + "<T/>" * (base.MOST_XML // 4) + "</OME>")


def sparse(file: Path, size: int = 2**42) -> Path:
    """Make a file as long as four terabytes, which takes no room on the disk."""
    with file.open("ab") as opened:
        opened.truncate(size)
    return file


def test_files_longer_than_memory_are_refused_unread(tiny_model: Path, tmp_path: Path) -> None:
    """A table of sections, a model, metadata, and the plan of a job."""
    source = write_input(tmp_path / "in.zarr", noise((2, 40, 40)))
    wanted = {"input": str(source)}
    assert _refused(tmp_path, **wanted, statistics=str(sparse(tmp_path / "table.csv"))).code == "config.statistics"
    (tmp_path / "m.safetensors").write_bytes(tiny_model.read_bytes())
    assert _refused(tmp_path, **wanted, model=str(sparse(tmp_path / "m.safetensors"))).code == "model.broken"
    (tmp_path / "out.zarr.job").mkdir()
    plan = sparse(tmp_path / "out.zarr.job" / "plan.json")
    assert _refused(tmp_path, **wanted).code == "ledger.too-large"
    plan.unlink()
    sparse(source / "0" / "zarr.json")
    assert _refused(tmp_path, **wanted).code == "input.broken-metadata"


def test_a_section_that_memory_does_not_hold_is_refused(tmp_path: Path) -> None:
    file = sparse(_tiff(tmp_path / "a.tif", "ImageWidth", 2**26))
    with tifffile.TiffFile(file, mode="r+b") as opened:
        opened.pages[0].tags["ImageLength"].overwrite(2**22)
    with pytest.raises(ResourceError, match="pixels takes 281474976710656 bytes"):
        open_images(file)


def test_metadata_nested_beyond_measure_end_no_process(tmp_path: Path) -> None:
    """Tensorstore would end the process: where a level's file is so, each command says it."""
    source = write_input(tmp_path / "in.zarr", noise((2, 40, 40)), levels=2)
    (source / "1" / "zarr.json").write_text("[" * 100_000 + "]" * 100_000)
    found = subprocess.run(
        [sys.executable, "-m", "volumetool.cli.main", "validate", str(source)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 4, found.stderr
    assert "1/zarr.json is not JSON" in found.stderr


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("architecture", {"width": 2**12, "pools": [[1, 2, 2]] * 2}),
        ("sampling", {"crop": [1, 2**20, 2**20]}),
        ("validation", {"batches": 10**12}),
    ],
    ids=["weights", "crops", "batches"],
)
@pytest.mark.parametrize("begin", [describe, lambda config: train(config, Path("new"), Told())], ids=["dry run", "run"])
def test_a_training_that_memory_cannot_hold_is_refused_before_it_begins(
    part: str, value: dict[str, Any], begin: Callable[[TrainConfig], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limits, "usable_memory", lambda: 2**33)
    options = {"name": "small", "sources": [{"path": "nowhere.zarr"}], "architecture": {"width": 4, "pools": [[1, 2, 2]]}}
    with pytest.raises(ResourceError):
        begin(make_config(options | {part: value}))
    assert not list(tmp_path.iterdir())


def _tiff(path: Path, tag: str, value: Any) -> Path:
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib", description="x" * 40)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)
    return path


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("ImageWidth", 2**31),
        ("ImageLength", 2**31),
        ("ImageWidth", 2**25),
        ("ImageWidth", 0),
        ("BitsPerSample", 64),
        ("StripOffsets", 2**31),
    ],
)
def test_images_that_declare_more_than_they_hold_are_refused(tag: str, value: int, tmp_path: Path) -> None:
    file = _tiff(tmp_path / "a.tif", tag, value)
    with pytest.raises(InputError):
        open_images(file).read(0, 1)


def test_the_metadata_of_an_image_open_no_other_file(tmp_path: Path) -> None:
    secret = np.full((16, 16), 77, np.uint8)
    (tmp_path / "elsewhere").mkdir()
    tifffile.imwrite(tmp_path / "elsewhere" / "secret.ome.tif", secret, metadata={"axes": "YX"})
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="16" SizeY="16" SizeZ="2" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData FirstZ="0" IFD="0" PlaneCount="1"/>'
        '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="elsewhere/secret.ome.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((16, 16), np.uint8), description=ome, metadata=None)
    try:
        stack = open_images(tmp_path / "a.ome.tif")
        voxels = stack.read(0, stack.shape[0])
    except InputError:
        return
    assert 77 not in voxels
