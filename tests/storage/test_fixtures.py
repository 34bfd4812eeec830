"""Real files of other software: each is read as another library reads it, or refused for the reason in the table."""

from __future__ import annotations

import bz2
import fnmatch
import functools
import gzip
import json
import lzma
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import mrcfile
import numcodecs
import numpy as np
import pytest
import zarr
from ncempy.io.dm import dmReader
from numpy.typing import NDArray
from PIL import Image

from volumetool.errors import InputError
from volumetool.storage.io import retries
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume

ZIPS = (
    "mobie_bdv_n5_segmentation", "mobie_mri_stack.ome.zarr", "n5universe_metadata", "n5zarr_java_zarr", "neuroglancer_n5",
    "neuroglancer_precomputed", "neuroglancer_zarr", "tensorstore_n5", "tiff/tiff_FEI_Helios",
)  # fmt: skip
METADATA = (".zarray", ".zgroup", "zarr.json", "attributes.json", "info")

SIZE = (3.0, 2.0, 1.0)
"""Where a file does not say how large its voxels are."""

# Places of which every one must be refused, with the code and the reason.
REFUSED: dict[str, tuple[str, str]] = {
    "dm/test_STEM_image.dm3": ("input.dtype", "it holds uint32, for which a cast must be asked"),
    "mobie_bdv_n5_segmentation.xml": ("input.not-a-volume", "the container beside which it belongs is in a zip file"),
    "mrc/*.gz": ("input.not-a-volume", "gzip cannot be read from the middle"),
    "*.ocdbt": ("input.not-a-volume", "OCDBT is a database of tensorstore's"),
    "*/1d.*": ("input.axes", "a line is no volume"),
    "*/2d.chunked.U7": ("input.unsupported", "it holds texts"),
    "*/3d.chunked.O": ("input.unsupported", "it holds objects"),
    "*/canonical.n5/axes/xyz": ("input.not-a-volume", "it has no array"),
    "*/canonical.n5/multiscaleAffine": ("input.level-missing", "its levels have no arrays"),
    "*/canonical.n5/spaces/a": ("input.not-a-volume", "it has no array"),
    "*/canonical.n5/transformAxis/czyx_short": ("input.not-a-volume", "it has no array"),
    "*/ngff_grpAttributes": ("input.level-missing", "its levels have no arrays"),
    "*/data.zarr": ("input.not-a-volume", "it is a group of many arrays"),
    "*/metadata.zarr": ("input.not-a-volume", "it is a group of many arrays"),
    "*/metadata.zarr/coordTforms": ("input.not-a-volume", "it is a group of many images"),
    "*/dimensionOrder.zarr": ("input.not-a-volume", "it is a group of many arrays"),
    "*/simple_0.?/scale?": ("input.not-a-volume", "it is a group without metadata around one level"),
}


def test_every_real_file_is_read_as_another_library_reads_it_or_refused_for_a_reason(
    data: Path, fixture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
    opened, refused = [], []
    for name, place in _places(data / "format-fixtures", fixture):
        reason = next((why for pattern, why in REFUSED.items() if fnmatch.fnmatch(name, pattern)), None)
        if reason is None:
            _compare(_open(place))
            opened.append(name)
            continue
        with pytest.raises(InputError) as caught:
            _open(place)
        assert caught.value.code == reason[0], name
        refused.append(name)
    assert (len(opened), len(refused)) == (104, 58)


def _places(folder: Path, fixture: Callable[[str], Path]) -> Iterator[tuple[str, Path]]:
    """Yield every file that is no archive, and every folder below an archive that has metadata, by name."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix not in (".zip", ".md"):
            yield str(file.relative_to(folder)), file
    for name in ZIPS:
        root = fixture(name)
        for place in sorted(root.rglob("*")):
            wanted = place.suffix in (".tif", ".zip", ".ocdbt") if place.is_file() else _has_metadata(place)
            if wanted:
                yield f"{name}/{place.relative_to(root)}", place


def _has_metadata(folder: Path) -> bool:
    return any((folder / key).is_file() for key in METADATA)


def _open(place: Path) -> Volume:
    try:
        return open_volume(place)
    except InputError as error:
        if error.code != "input.no-voxel-size":
            raise
        return open_volume(place, voxel_size=SIZE)


def _compare(volume: Volume) -> None:
    """Hold shape, data type and voxels against another library's; of an array without voxels, some of its zeros."""
    place, path = Path(volume.url), volume.levels[0].path
    expected = READERS[volume.format](place / path if path else place)
    if expected is None:
        assert not np.any(volume.open()[:3, :3, :3].read().result())
        return
    assert (volume.dtype, volume.shape) == (expected.dtype.newbyteorder("="), (1, 1, 1, *expected.shape)[-3:]), place
    equal = np.asarray(volume.open().read().result()) == expected.reshape(volume.shape)
    assert equal.all(), place


def _zarr(place: Path) -> NDArray[Any] | None:
    place = Path(str(place).replace("simple_0.5.zip", "simple_0.5"))  # unpacked, it stands beside
    if place.name == "3d.chunked.mixed.i2.F" and "zarr_v3" in place.parts:  # zarr-python does not know its old codec
        place = place.with_name("3d.chunked.mixed.i2.C")
    if not [file for file in place.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr.json"))]:
        return None
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(zarr.open_array(str(place), mode="r")[...])


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": lambda data: gzip.decompress(data) if data[:2] == b"\x1f\x8b" else zlib.decompress(data),
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "blosc": lambda data: bytes(numcodecs.Blosc().decode(data)),
}


@functools.cache
def _n5(place: Path) -> NDArray[Any] | None:
    """Decode an N5 array, block by block, by the specification."""
    said = json.loads((place / "attributes.json").read_text())
    sizes, steps = said["dimensions"], said["blockSize"]
    dtype, decode, found = np.dtype(said["dataType"]).newbyteorder(">"), _DECODERS[said["compression"]["type"]], False
    voxels = np.zeros(sizes, dtype) if np.prod(sizes) < 2**25 else None
    for position in product(*(range(-(-n // step)) for n, step in zip(sizes, steps, strict=True))):
        file = place.joinpath(*map(str, position))
        if voxels is None or not file.is_file():
            continue
        content, found = file.read_bytes(), True
        _, rank = struct.unpack_from(">HH", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
        block = np.frombuffer(decode(content[4 + 4 * rank :]), dtype).reshape(shape, order="F")
        start = [n * step for n, step in zip(position, steps, strict=True)]
        box = tuple(slice(n, min(n + m, size)) for n, m, size in zip(start, shape, sizes, strict=True))
        voxels[box] = block[tuple(slice(0, part.stop - part.start) for part in box)]
    return voxels.transpose() if voxels is not None and found else None


def _mrc(place: Path) -> NDArray[Any]:
    with warnings.catch_warnings(action="ignore"), mrcfile.open(place, permissive=True) as file:
        return np.array(file.data)


def _tiff(place: Path) -> NDArray[Any]:
    with Image.open(place) as image:
        pages = []
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            pages.append(np.array(image))
    return np.stack(pages)


READERS: dict[str, Callable[[Path], NDArray[Any] | None]] = {
    "zarr": _zarr,
    "ome-zarr-0.4": _zarr,
    "ome-zarr-0.5": _zarr,
    "n5": _n5,
    "precomputed": lambda _: None,  # the one fixture has no chunks
    "mrc": _mrc,
    "tiff": _tiff,
    "dm": lambda place: np.asarray(dmReader(place)["data"]),
}
