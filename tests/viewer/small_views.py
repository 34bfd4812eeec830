"""Volumes in the formats that volumetool reads and does not write, and ways of looking at pictures."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from PIL import Image

from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.storage.open import open_volume
from volumetool.viewer.served_keys import files_of
from volumetool.viewer.server import Serving, bind, build_app


def write_n5(path: Path, voxels: NDArray[Any], voxel_size: tuple[float, float, float] | None) -> Path:
    """Write a volume as one N5 dataset; it may know no voxel size."""
    size = {} if voxel_size is None else {"units": ["nm"] * 3, "resolution": list(reversed(voxel_size))}
    placed = {"axes": ["x", "y", "z"], **size}
    return _write(path, voxels.T, {"driver": "n5", "metadata": {**placed, "blockSize": [8, 4, 2]}})


def write_precomputed(path: Path, voxels: NDArray[Any], voxel_size: tuple[float, float, float]) -> Path:
    """Write a volume as precomputed."""
    scale = {"resolution": list(reversed(voxel_size)), "encoding": "raw", "chunk_size": [8, 4, 2]}
    return _write(path, voxels.T[..., None], {"driver": "neuroglancer_precomputed", "scale_metadata": scale})


def write_zarr2(path: Path, voxels: NDArray[Any]) -> Path:
    """Write a volume as a bare Zarr array, which knows no voxel size."""
    return _write(path, voxels, {"driver": "zarr", "metadata": {"chunks": [2, 4, 8]}})


def without_units(source: Path, target: Path, scale: tuple[float, float, float]) -> Path:
    """Copy an OME-Zarr volume whose finest voxels begin at 0 and take its units away; `scale` is that of its finest level."""
    shutil.copytree(source, target)
    metadata = json.loads((target / "zarr.json").read_text())
    image = metadata["attributes"]["ome"]["multiscales"][0]
    for axis in image["axes"]:
        del axis["unit"]
    finest = image["datasets"][0]["coordinateTransformations"][0]["scale"]
    factors = [new / old for new, old in zip(scale, finest, strict=True)]
    for step in (step for level in image["datasets"] for step in level["coordinateTransformations"]):
        step[step["type"]] = [value * factor for value, factor in zip(step[step["type"]], factors, strict=True)]
    (target / "zarr.json").write_text(json.dumps(metadata))
    return target


def with_unit(source: Path, target: Path, unit: str, nanometres: float) -> Path:
    """Copy an OME-Zarr volume and write its lengths in another unit."""
    without_units(source, target, _finest_scale(source, nanometres))
    metadata = json.loads((target / "zarr.json").read_text())
    for axis in metadata["attributes"]["ome"]["multiscales"][0]["axes"]:
        axis["unit"] = unit
    (target / "zarr.json").write_text(json.dumps(metadata))
    return target


def _finest_scale(source: Path, nanometres: float) -> tuple[float, float, float]:
    z, y, x = open_volume(source).voxel_size
    return z / nanometres, y / nanometres, x / nanometres


class _Everyone(frozenset[str]):
    """Origins of every page."""

    def __contains__(self, origin: object) -> bool:
        return True


@contextmanager
def at_url(path: Path, voxel_size: tuple[float, float, float] | None = None) -> Iterator[str]:
    """Yield a URL under which any page reads a volume as it is stored."""
    with bind() as bound:
        port = bound.getsockname()[1]
        gate = Gate(accepted_hosts("127.0.0.1", port), _Everyone(), "token")
        files = files_of(open_volume(path, voxel_size=voxel_size))
        with Serving(build_app({path.name: files}, gate), bound):
            yield f"{base_url('127.0.0.1', port)}/token/{path.name}"


def _write(path: Path, voxels: NDArray[Any], spec: dict[str, Any]) -> Path:
    place = {"kvstore": {"driver": "file", "path": f"{path}/"}}
    array = ts.open({**spec, **place}, create=True, dtype=voxels.dtype.name, shape=voxels.shape).result()
    array[...] = np.ascontiguousarray(voxels)
    return path


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Return a picture as an array of shape (height, width, 3)."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def bright_box(channel: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return where a picture is brighter than half: top, bottom, left, right, half-open."""
    rows, columns = (np.flatnonzero((channel > 127).any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def alter_levels(source: Path, target: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    """Copy an OME-Zarr volume and change its list of levels."""
    shutil.copytree(source, target)
    metadata = json.loads((target / "zarr.json").read_text())
    image = metadata["attributes"]["ome"]["multiscales"][0]
    image["datasets"] = change(image["datasets"])
    (target / "zarr.json").write_text(json.dumps(metadata))
    return target
