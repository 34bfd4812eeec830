"""What writers note of how they compressed is passed over; what may change voxels and is not known is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore as ts
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from volumetool.errors import InputError
from volumetool.storage.io.arrays import open_array
from volumetool.storage.io.codecs import readable_metadata
from volumetool.storage.open import open_volume

VOXELS = np.random.default_rng(0).integers(0, 9, (5, 12, 17), dtype=np.uint16)
SIZE = (30.0, 8.0, 4.0)


def _edit(path: Path, **members: Any) -> None:
    """Put members into the first codec that has some, or into the array's metadata where they are called so."""
    (file,) = [file for name in (".zarray", "zarr.json", "attributes.json") if (file := path / name).is_file()]
    metadata = json.loads(file.read_text())
    for name, value in members.items():
        if name in ("filters", "consolidated_metadata", "must_know", "need_not", "storage_transformers"):
            metadata[name] = value
        elif file.name == "zarr.json":
            metadata["codecs"][-1].setdefault("configuration", {})[name] = value
        else:
            metadata["compressor" if file.name == ".zarray" else "compression"][name] = value
    file.write_text(json.dumps(metadata))


def _zarr2(path: Path, codec: Any) -> None:
    zarr.create_array(str(path), data=VOXELS, chunks=(2, 5, 6), zarr_format=2, compressors=codec)


def _zarr3(path: Path, codec: Any) -> None:
    zarr.create_array(str(path), data=VOXELS, chunks=(2, 5, 6), compressors=codec)


def _n5(path: Path, compression: dict[str, Any]) -> None:
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": {"compression": compression}}
    ts.open(spec, create=True, dtype="uint16", shape=VOXELS.T.shape).result().write(VOXELS.T).result()


WRITERS = {"zarr2": _zarr2, "zarr3": _zarr3, "n5": _n5}
PASSED_OVER = [
    ("zarr2", numcodecs.Zstd(6), {"checksum": False}),
    ("zarr2", numcodecs.Zstd(6), {"checksum": True, "level": None}),
    ("zarr2", numcodecs.Zstd(6), {"level": -7, "nthreads": 4}),
    ("zarr2", numcodecs.Blosc("lz4", 5, 2), {"typesize": 2, "nthreads": 1}),
    ("zarr2", numcodecs.GZip(6), {"level": -1, "mtime": 0}),
    ("zarr2", numcodecs.BZ2(6), {"level": 0}),
    ("zarr3", ZstdCodec(level=3), {"nthreads": 2}),
    ("zarr3", ZstdCodec(level=3, checksum=True), {"level": 99}),
    ("zarr3", GzipCodec(level=3), {"level": -1}),
    ("zarr3", BloscCodec(cname="zstd"), {"nthreads": 1, "clevel": 42}),
    ("zarr3", GzipCodec(level=3), {"consolidated_metadata": None, "need_not": {"must_understand": False}}),
    ("n5", {"type": "blosc", "cname": "zstd", "clevel": 6, "shuffle": 1, "blocksize": 0}, {"nthreads": 1}),
    ("n5", {"type": "zstd", "level": 3}, {"nbWorkers": 0}),
    ("n5", {"type": "xz", "preset": 6}, {"check": 4}),
    ("n5", {"type": "gzip", "level": 6}, {"level": 77}),
]


@pytest.mark.parametrize(("form", "codec", "members"), PASSED_OVER)
def test_members_that_only_the_encoder_needs_are_passed_over(
    tmp_path: Path, form: str, codec: Any, members: dict[str, Any]
) -> None:
    WRITERS[form](tmp_path / "a", codec)
    _edit(tmp_path / "a", **members)
    np.testing.assert_array_equal(open_volume(tmp_path / "a", voxel_size=SIZE).open().read().result(), VOXELS)


@pytest.mark.parametrize(
    ("form", "gone", "added"),
    [
        ("n5", "compression", {"compressionType": "gzip"}),
        ("n5", "", {"units": {"x": "nm"}}),
        ("zarr2", "filters", {}),
    ],
    ids=["n5-before-2.0", "n5-units-by-name", "zarr-without-filters"],
)
def test_other_spellings_of_the_same_are_understood(tmp_path: Path, form: str, gone: str, added: dict[str, Any]) -> None:
    WRITERS[form](tmp_path / "a", {"type": "gzip"} if form == "n5" else numcodecs.GZip(6))
    file = tmp_path / "a" / ("attributes.json" if form == "n5" else ".zarray")
    stored = {name: value for name, value in json.loads(file.read_text()).items() if name != gone}
    file.write_text(before := json.dumps(stored | added))
    np.testing.assert_array_equal(open_volume(tmp_path / "a", voxel_size=SIZE).open().read().result(), VOXELS)
    assert file.read_text() == before


def test_a_fill_value_that_is_no_number_may_be_spelled_as_json_does_not_allow(tmp_path: Path) -> None:
    floats = VOXELS.astype(np.float32)
    zarr.create_array(str(tmp_path / "a"), data=floats, chunks=(2, 5, 6), zarr_format=2, fill_value=np.nan)
    file = tmp_path / "a" / ".zarray"
    file.write_text(file.read_text().replace('"NaN"', "NaN"))
    (tmp_path / "a" / "0.0.0").unlink()
    floats[:2, :5, :6] = np.nan
    np.testing.assert_array_equal(open_volume(tmp_path / "a", voxel_size=SIZE).open().read().result(), floats)


def test_a_fill_value_may_be_quoted(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a"), data=VOXELS, chunks=(2, 5, 6), zarr_format=2, fill_value=7)
    file = tmp_path / "a" / ".zarray"
    file.write_text(file.read_text().replace('"fill_value": 7', '"fill_value": "7"'))
    (tmp_path / "a" / "0.0.0").unlink()
    expected = VOXELS.copy()
    expected[:2, :5, :6] = 7
    np.testing.assert_array_equal(open_volume(tmp_path / "a", voxel_size=SIZE).open().read().result(), expected)


REFUSED = [
    ("zarr2", numcodecs.Zstd(6), {"dictionary": "abc"}, "dictionary"),
    ("zarr2", numcodecs.Blosc("lz4"), {"delta": True}, "delta"),
    ("zarr2", numcodecs.LZ4(), {}, "'lz4'"),
    ("zarr2", numcodecs.LZMA(), {}, "'lzma'"),
    ("zarr2", numcodecs.Zstd(6), {"filters": [{"id": "delta", "dtype": "<u2"}]}, "delta"),
    ("zarr3", ZstdCodec(level=3), {"dictionary": "abc"}, "dictionary"),
    ("zarr3", ZstdCodec(level=3), {"must_know": {"x": 1}}, "must_know"),
    ("zarr3", ZstdCodec(level=3), {"storage_transformers": [{"name": "swap"}]}, "swap"),
    ("n5", {"type": "gzip"}, {"offsets": True}, "offsets"),
    ("n5", {"type": "gzip"}, {"type": "lz4", "blockSize": 65536}, "'lz4'"),
]


@pytest.mark.parametrize(("form", "codec", "members", "named"), REFUSED)
def test_what_may_change_voxels_is_refused_by_name(
    tmp_path: Path, form: str, codec: Any, members: dict[str, Any], named: str
) -> None:
    WRITERS[form](tmp_path / "a", codec)
    _edit(tmp_path / "a", **members)
    with pytest.raises(InputError, match=named) as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.unsupported"


def test_codecs_inside_shards_are_looked_at_too(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a"), data=VOXELS, chunks=(2, 4, 4), shards=(4, 12, 8), compressors=ZstdCodec(level=3))
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    inner = document["codecs"][0]["configuration"]["codecs"][-1]["configuration"]
    inner["nthreads"] = 3
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(open_array(str(tmp_path / "a"), "zarr3").read().result(), VOXELS)
    inner["dictionary"] = "abc"
    with pytest.raises(InputError, match="dictionary"):
        readable_metadata("a", "zarr3", document)


def test_a_codec_that_zarr_python_names_for_itself_alone_is_named(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a"), data=VOXELS, chunks=(2, 5, 6))
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    document["codecs"][-1] = {"name": "numcodecs.lz4", "configuration": {"acceleration": 1}}
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"numcodecs\.lz4.*read are") as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.unsupported"
