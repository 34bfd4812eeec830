"""Read a volume by the library of the environment that runs this file; `readers.py` calls it. It imports nothing of volumetool.

::

    PYTHON read_in.py READER FORMAT PLACE FOLDER

writes ``voxels.npy`` of the finest level (z, y, x) and ``said.json`` into the folder: voxel size and position, in nm along z,
y, x, as the library gives them through an interface of its own, or null where it has none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Said = tuple[Any, Sequence[float] | None, Sequence[float] | None]
"""Voxels, voxel size and position."""


def zarr_python(_: str, place: str) -> Said:
    """Read the first array of a group; what attributes mean is not zarr's business."""
    import zarr

    return zarr.open_group(place, mode="r")["0"][...], None, None


def ome_zarr_py(_: str, place: str) -> Said:
    """Read the first node."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    node = next(iter(Reader(parse_url(place))()))
    return np.asarray(node.data[0]), *_steps(node.metadata["coordinateTransformations"][0])


def _steps(steps: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    by_type = {step["type"]: step[step["type"]] for step in steps}
    return by_type["scale"], by_type.get("translation", [0.0] * 3)


def ngff_zarr(_: str, place: str) -> Said:
    """Read the first image."""
    from ngff_zarr import from_ngff_zarr

    image = from_ngff_zarr(place).images[0]
    assert set(image.axes_units.values()) == {"nanometer"}
    return np.asarray(image.data), *([by_axis[axis] for axis in "zyx"] for by_axis in (image.scale, image.translation))


def tensorstore(form: str, place: str) -> Said:
    """Read the array, and of formats whose driver knows them, units and origin."""
    import tensorstore as ts

    precomputed = dict.fromkeys(("precomputed", "precomputed-sharded"), "neuroglancer_precomputed")
    driver = {"n5": "n5", "ome-zarr-0.4": "zarr", **precomputed}.get(form, "zarr3")
    level = {"n5": "s0/", **dict.fromkeys(precomputed, "")}.get(form, "0/")
    array = ts.open({"driver": driver, "kvstore": f"file://{place}/{level}"}).result()
    voxels, origin = np.asarray(array.read().result()), list(array.domain.origin)
    if driver.startswith("zarr"):
        return voxels, None, None
    size = [unit.multiplier for unit in array.dimension_units[:3]]
    if driver == "n5":
        return voxels.transpose(), size[::-1], None
    return voxels[..., 0].transpose(), size[::-1], [(n + 0.5) * s for n, s in zip(origin, size, strict=False)][::-1]


def z5py(form: str, place: str) -> Said:
    """Read the array; what attributes mean is not z5py's business."""
    import z5py as z5

    return z5.File(place, mode="r")["s0" if form == "n5" else "0"][:], None, None


def cloud_volume(form: str, place: str) -> Said:
    """Read the finest level; positions are those of corners."""
    from cloudvolume import CloudVolume

    precomputed = dict.fromkeys(("precomputed", "precomputed-sharded"), "precomputed")
    scheme = {"n5": "n5", "ome-zarr-0.4": "zarr2", **precomputed}.get(form, "zarr3")
    volume = CloudVolume(f"{scheme}://file://{place}", mip=0, fill_missing=True, progress=False)
    size, corner = list(map(float, volume.resolution)), list(map(float, volume.voxel_offset))
    voxels = np.asarray(volume[:])[..., 0].transpose()
    return voxels, size[::-1], [(n + 0.5) * s for n, s in zip(corner, size, strict=True)][::-1]


def napari_ome_zarr(_: str, place: str) -> Said:
    """Read the first layer as napari is given it, without a window."""
    from napari_ome_zarr import napari_get_reader

    data, facts, _kind = napari_get_reader(place)(place)[0]
    return np.asarray(data[0]), facts["scale"], facts.get("translate", [0.0] * 3)


def bioio(_: str, place: str) -> Said:
    """Read the first scene; micrometres are what BioIO's own formats have, this one keeps the unit of the file."""
    import bioio_ome_zarr
    from bioio import BioImage

    image = BioImage(place, reader=bioio_ome_zarr.Reader)
    size = image.physical_pixel_sizes
    return image.get_image_data("ZYX"), [size.Z, size.Y, size.X], None


READERS: dict[str, Callable[[str, str], Said]] = {
    "zarr-python": zarr_python,
    "ome-zarr-py": ome_zarr_py,
    "ngff-zarr": ngff_zarr,
    "tensorstore": tensorstore,
    "z5py": z5py,
    "cloud-volume": cloud_volume,
    "napari-ome-zarr": napari_ome_zarr,
    "bioio": bioio,
}


def main() -> None:
    """Read, and leave what was read in the folder."""
    reader, form, place, folder = sys.argv[1:]
    voxels, size, position = READERS[reader](form, place)
    np.save(Path(folder, "voxels.npy"), voxels)
    said = [None if each is None else [float(n) for n in each] for each in (size, position)]
    Path(folder, "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
