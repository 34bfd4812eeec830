"""Add levels to a volume that was written with its finest level alone."""

from __future__ import annotations

from typing import Any

from volumetool.errors import OutputError
from volumetool.geometry.levels import LevelGrid
from volumetool.storage.create import VolumeLayout, create_levels
from volumetool.storage.formats.base import Json, read_json
from volumetool.storage.formats.ome_zarr import ome_of
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.kvstore import encode_json, write_key
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import ReductionMethod
from volumetool.storage.writing.ome_zarr import said_of_levels


def create_coarser(volume: Volume, levels: tuple[LevelGrid, ...]) -> VolumeLayout:
    """Create the arrays of the coarser levels, empty; the volume's metadata do not name them yet.

    Parameters
    ----------
    volume : Volume
        OME-Zarr 0.5 with one level.
    levels : tuple of LevelGrid
        All levels, that of the volume first; the others will stand in the arrays "1", "2" and so on.

    Returns
    -------
    VolumeLayout
        To open the new arrays with.

    Raises
    ------
    OutputError
        ``output.levels``: the volume cannot be extended in place. Nothing was written.
    """
    layout = VolumeLayout(volume.dtype.name, levels, volume.channels)
    group = read_json(volume.url, "zarr.json") or {}
    if group.get("node_type") != "group":
        raise _impossible(volume, "it is a single array: perhaps one level of a volume")
    axes = WRITTEN[layout.format].axes(layout.channels)
    if volume.axes != axes:
        raise _impossible(volume, f"its axes are {', '.join(volume.axes)} and not {', '.join(axes)}")
    if not any("scale" in each for each in _first(group)["coordinateTransformations"]):
        raise _impossible(volume, "its level 0 has no scale")
    names = [str(number) for number in range(1, len(levels))]
    for name in names:
        if volume.levels[0].path == name:
            raise _impossible(volume, f"its finest level is called {name!r}, as a coarser one would be")
    try:
        create_levels(volume.url, layout, range(1, len(levels)))
    except OutputError as error:
        if error.code != "output.exists":
            raise
        raise _impossible(volume, f"something else stands where a level would: {error.message}") from error
    return layout


def announce_levels(volume: Volume, levels: tuple[LevelGrid, ...], reduction: ReductionMethod) -> None:
    """Write into the metadata of an OME-Zarr the coarser levels, complete by now, and how they were made; the rest stays.

    Consolidated metadata, which would go on hiding new arrays, are dropped.

    Parameters
    ----------
    volume : Volume
        The volume, with one level or with all of them.
    levels : tuple of LevelGrid
        All levels, finest first.
    reduction : {"mean", "mode"}
        How each was made from the one before.
    """
    key = "zarr.json" if volume.driver == "zarr3" else ".zattrs"
    group = read_json(volume.url, key) or {}
    image = ome_of(group["attributes"] if volume.driver == "zarr3" else group)["multiscales"][0]
    first = image["datasets"][0]
    for number, level in enumerate(levels[len(volume.levels) :], start=len(volume.levels)):
        times = [a / b for a, b in zip(level.voxel_size, levels[0].voxel_size, strict=True)]
        image["datasets"].append(_coarser(first, str(number), times))
    image.update(said_of_levels(levels, reduction))
    group.pop("consolidated_metadata", None)
    write_key(volume.url, key, encode_json(group))


def _first(group: Json) -> Json:
    first: Json = group["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    return first


def _coarser(dataset: Json, path: str, times: list[float]) -> dict[str, Any]:
    """Return a level's entry from that of level 0, in whatever unit it is written."""
    scale: list[float] = []
    shift: list[float] = []
    for transformation in dataset["coordinateTransformations"]:
        scale = transformation.get("scale", scale)
        shift = transformation.get("translation", shift)
    factors = [1.0] * (len(scale) - len(times)) + times
    start = shift or [0.0] * len(scale)
    moved = [t + s * (f - 1) / 2 for t, s, f in zip(start, scale, factors, strict=True)]
    transformations = [
        {"type": "scale", "scale": [s * f for s, f in zip(scale, factors, strict=True)]},
        {"type": "translation", "translation": moved},
    ]
    return {"path": path, "coordinateTransformations": transformations}


def _impossible(volume: Volume, why: str) -> OutputError:
    return OutputError(
        "output.levels",
        f"levels cannot be added to {volume.url}: {why}",
        hint="copy it with all its levels: volumetool convert VOLUME NEW.zarr",
        where=volume.url,
    )
