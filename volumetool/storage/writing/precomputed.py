"""Precomputed as it is written: positions in whole voxels, chunks in a file each or in shards.

Its triples are x, y, z. A shard holds the chunks whose numbers differ in the last bits alone. Numbers are Morton codes, so
these chunks are a box, which one owner writes. Each chunk is packed by gzip, which has a checksum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from typing import Any, Final

from volumetool.geometry import Box, LevelGrid, Size, Triple
from volumetool.storage.formats.base import Json
from volumetool.storage.writing.layout import OWN_KEY, VolumeLayout, WrittenFormat
from volumetool.storage.writing.names import CodecName

_INFO = "info"
_SHARDED: Final = "precomputed-sharded"
_SHARD_BITS = 6
"""Of a chunk's number, in which chunks of one shard differ: 4 chunks along each axis, as far as there are so many."""

_CODECS: dict[CodecName, tuple[str, ...]] = {"raw": (), "png": ("uint8", "uint16"), "jpeg": ("uint8",)}
_AXES = ("x", "y", "z", "c")

_ENCODINGS: dict[str, Json] = {"png": {"encoding": "png"}, "jpeg": {"encoding": "jpeg", "jpeg_quality": 90}}

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


def shard_chunks(counts: Triple, bits: int) -> Triple:
    """Return how many chunks along z, y, x have numbers that differ in the last bits alone.

    Parameters
    ----------
    counts : tuple of int
        Chunks of the scale along z, y, x.
    bits : int
        So many bits of a number.
    """
    chunks = [1, 1, 1]
    for bit in range(max(counts).bit_length()):
        for axis in (2, 1, 0):  # a number has the lowest bits of x, y and z first
            if bits and (counts[axis] - 1) >> bit:
                chunks[axis], bits = 2 * chunks[axis], bits - 1
    return chunks[0], chunks[1], chunks[2]


def _counts(grid: LevelGrid) -> Triple:
    return Box.whole(grid.shape).coarsened(grid.chunk).stop


def _in_shards(levels: Sequence[LevelGrid]) -> tuple[LevelGrid, ...]:
    """Return levels whose shards are those of the format; then no region writes a coarser level."""
    arranged = []
    for number, grid in enumerate(levels):
        z, y, x = (n * m for n, m in zip(shard_chunks(_counts(grid), _SHARD_BITS), grid.chunk, strict=True))
        arranged.append(replace(grid, shard=(z, y, x), fused=number == 0))
    return tuple(arranged)


def _sharding(grid: LevelGrid) -> Json:
    inside = sum((n // m - 1).bit_length() for n, m in zip(grid.shard, grid.chunk, strict=True))
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": inside,
        "minishard_bits": 0,
        "shard_bits": sum((count - 1).bit_length() for count in _counts(grid)) - inside,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }


def _written_scale(layout: VolumeLayout, level: int) -> Json:
    grid = layout.levels[level]
    sharding = {"sharding": _sharding(grid)} if layout.format == _SHARDED else {}
    return {
        "key": f"s{level}",
        "size": list(grid.shape[::-1]),
        "voxel_offset": list(_offset(grid)[::-1]),
        "resolution": list(grid.voxel_size[::-1]),
        **_ENCODINGS.get(layout.codec or "", {"encoding": "raw"}),
        **sharding,
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
SHARDED = replace(
    WRITTEN, name=_SHARDED, codecs={"gzip": (), "png": _CODECS["png"], "jpeg": _CODECS["jpeg"]}, arranged=_in_shards
)
