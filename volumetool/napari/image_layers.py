"""Volumes as layers of napari: the layers of `volumetool view`, whose voxels are read where one looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from volumetool.errors import InputError
from volumetool.geometry import Size
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.viewer.contrast import sampled_window
from volumetool.viewer.layers import Layer, make_layers

LayerData = tuple[Any, dict[str, Any], str]
"""Voxels, options and kind of a layer, as napari takes them from readers."""

VOLUME, CHANNEL = "volumetool", "channel"
"""What the metadata of a layer hold: its volume, and its index on the c axis."""


def find_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Return what reads the volume at a place; None where none is, or where several files are to be one stack.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.open_volume`, of a volume that cannot be opened.
    """
    if not isinstance(path, str):
        return None
    try:
        layers = make_layers([path])
    except InputError as error:
        if error.code in ("input.not-found", "input.not-a-volume"):
            return None
        raise
    return lambda _: [found for layer in layers for found in _shown(layer)]


def placed(voxel_size: Size, translation: Size) -> dict[str, Any]:
    """Return the options that place a layer: nm along z, y, x, of the centre of the first voxel as napari has it, too."""
    return {"scale": voxel_size, "translate": translation, "units": ("nm",) * 3, "axis_labels": ("z", "y", "x")}


def _shown(layer: Layer) -> Iterator[LayerData]:
    """Yield one layer of napari for each channel."""
    options = {"name": layer.name, **placed(layer.voxel_size, layer.volume.levels[0].translation)}
    if layer.kind == "segmentation":
        yield _levels([layer.volume.open(level) for level in range(len(layer.volume.levels))]), options, "labels"
        return
    volume = layer.volume if isinstance(layer.volume, Volume) else open_volume(layer.volume.url)
    levels = [volume.to_dask(level) for level in range(len(volume.levels))]
    if volume.channels is None:
        yield _levels(levels), options | {"contrast_limits": layer.window, "metadata": {VOLUME: volume, CHANNEL: 0}}, "image"
        return
    for channel in range(volume.channels) if layer.channel is None else (layer.channel,):
        name = layer.name if layer.channel is not None or volume.channels == 1 else f"{layer.name} {channel}"
        window = layer.window if channel == (layer.channel or 0) else sampled_window(volume, channel)
        told = {"name": name, "contrast_limits": window, "metadata": {VOLUME: volume, CHANNEL: channel}}
        yield _levels([level[channel] for level in levels]), options | told, "image"


def _levels(levels: list[Any]) -> Any:
    return levels if len(levels) > 1 else levels[0]
