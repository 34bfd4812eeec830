"""Precomputed as it is written: raw chunks, one file each, and positions in whole voxels.

Its triples are x, y, z.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

from volumetool.geometry import LevelGrid, Size, Triple
from volumetool.storage.formats.base import Json
from volumetool.storage.writing.layout import OWN_KEY, VolumeLayout, WrittenFormat
from volumetool.storage.writing.names import CodecName

_INFO = "info"
_CODECS: dict[CodecName, tuple[str, ...]] = {"raw": (), "png": ("uint8", "uint16")}
_AXES = ("x", "y", "z", "c")

_ROUNDED = 1e-6
"""Share of a voxel by which a position may miss a whole or half voxel: it is rounded where it is written."""


def _stored_axes(_channels: int | None) -> tuple[str, ...]:
    return _AXES


def _offset(grid: LevelGrid) -> Triple:
    """Return the corner of a level in whole voxels, z, y, x; what lies in the middle between two goes to the greater."""
    corner = ((t - size / 2) / size for t, size in zip(grid.translation, grid.voxel_size, strict=True))
    z, y, x = (floor(at + 0.5 + _ROUNDED) for at in corner)
    return z, y, x


def _translation(grid: LevelGrid) -> Size:
    z, y, x = ((start + 0.5) * size for start, size in zip(_offset(grid), grid.voxel_size, strict=True))
    return z, y, x


def _written_scale(layout: VolumeLayout, level: int) -> Json:
    grid = layout.levels[level]
    return {
        "key": f"s{level}",
        "size": list(grid.shape[::-1]),
        "voxel_offset": list(_offset(grid)[::-1]),
        "resolution": list(grid.voxel_size[::-1]),
        "encoding": layout.codec or "raw",
    }


def _array(layout: VolumeLayout, level: int) -> Json:
    scale = _written_scale(layout, level) | {"chunk_size": list(layout.levels[level].chunk[::-1])}
    return {"multiscale_metadata": _image(layout), "scale_metadata": scale}


def _image(layout: VolumeLayout) -> Json:
    return {"type": "image", "data_type": layout.dtype, "num_channels": layout.channels or 1}


def _volume(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the content of ``info``: it describes all scales, so that no level has metadata of its own."""
    scales = [
        _written_scale(layout, number) | {"chunk_sizes": [list(grid.chunk[::-1])]} for number, grid in enumerate(layout.levels)
    ]
    return {
        "@type": "neuroglancer_multiscale_volume",
        **_image(layout),
        "scales": scales,
        OWN_KEY: dict(attributes),
    }


WRITTEN = WrittenFormat(
    "precomputed",
    "neuroglancer_precomputed",
    _stored_axes,
    "s{}",
    _array,
    _INFO,
    _volume,
    (".precomputed",),
    _CODECS,
    has_fill=False,
    translation=_translation,
)
