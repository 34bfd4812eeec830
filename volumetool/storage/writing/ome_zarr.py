"""OME-Zarr as it is written: 0.5 with shards or without, and 0.4.

Behind every chunk stands a checksum, without which a flipped bit reads as a wrong voxel: crc32c in Zarr 3, that of gzip in
Zarr 2, which has no other that all readers know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from yaozarrs import v04, v05

from volumetool.geometry.levels import LevelGrid
from volumetool.storage.formats.base import Json
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.writing.layout import OWN_KEY, VolumeLayout, WrittenFormat
from volumetool.storage.writing.names import CodecName, ReductionMethod

_ZSTD_LEVEL = 3
_GZIP_LEVEL = 1

_COMPRESSORS: dict[CodecName, list[Json]] = {
    "zstd": [{"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}],
    "gzip": [{"name": "gzip", "configuration": {"level": _GZIP_LEVEL}}],
    "raw": [],
}
_CODECS: dict[CodecName, tuple[str, ...]] = dict.fromkeys(_COMPRESSORS, ())


def _axes(channels: int | None) -> tuple[str, ...]:
    return SPACE if channels is None else ("c", *SPACE)


def _shape(layout: VolumeLayout, level: int) -> list[int]:
    return [*(() if layout.channels is None else (layout.channels,)), *layout.levels[level].shape]


def _array_v05(layout: VolumeLayout, level: int, *, sharded: bool = True) -> Json:
    """Return the Zarr 3 metadata of one level: a chunk is little-endian bytes, compressed, then crc32c over those bytes."""
    grid = layout.levels[level]
    extra = () if layout.channels is None else (1,)
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    compressed = [little, *_COMPRESSORS[layout.codec or "zstd"], {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [*extra, *grid.chunk],
        "codecs": compressed,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": _shape(layout, level),
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*extra, *(grid.shard if sharded else grid.chunk)]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": layout.stored_fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}] if sharded else compressed,
        "dimension_names": list(_axes(layout.channels)),
    }


def _array_v04(layout: VolumeLayout, level: int) -> Json:
    """Return the Zarr 2 metadata of one level."""
    return {
        "zarr_format": 2,
        "shape": _shape(layout, level),
        "chunks": [*(() if layout.channels is None else (1,)), *layout.levels[level].chunk],
        "dtype": np.dtype(layout.dtype).newbyteorder("<").str,
        "compressor": {"id": "gzip", "level": _GZIP_LEVEL},
        "filters": None,
        "fill_value": layout.stored_fill,
        "order": "C",
        "dimension_separator": "/",
    }


def _group_v05(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the Zarr 3 metadata of a volume's group: its levels as OME-Zarr 0.5, and its provenance."""
    ome = v05.Image(multiscales=[_multiscale(layout, v05)]).model_dump(mode="json", exclude_none=True)
    kept = dict(layout.kept)
    if "omero" in kept:
        ome["omero"] = kept.pop("omero")
    return {"zarr_format": 3, "node_type": "group", "attributes": {**kept, "ome": ome, OWN_KEY: dict(attributes)}}


def _group_v04(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the attributes of a volume's Zarr 2 group."""
    ome = v04.Image(multiscales=[_multiscale(layout, v04)]).model_dump(mode="json", exclude_none=True)
    return {**layout.kept, **ome, OWN_KEY: dict(attributes)}


def _multiscale(layout: VolumeLayout, version: ModuleType) -> Any:
    channel = [] if layout.channels is None else [version.ChannelAxis(name="c", type="channel")]
    space = [version.SpaceAxis(name=axis, type="space", unit="nanometer") for axis in SPACE]
    one, zero = [1.0] * len(channel), [0.0] * len(channel)
    datasets = [
        version.Dataset(
            path=str(number),
            coordinateTransformations=[
                version.ScaleTransformation(scale=[*one, *grid.voxel_size]),
                version.TranslationTransformation(translation=[*zero, *grid.translation]),
            ],
        )
        for number, grid in enumerate(layout.levels)
    ]
    return version.Multiscale(
        name=layout.name,
        axes=[*channel, *space],
        datasets=datasets,
        **said_of_levels(layout.levels, layout.reduction),
    )


def said_of_levels(levels: Sequence[LevelGrid], reduction: ReductionMethod) -> dict[str, Any]:
    """Return what a multiscale image says of how its levels were made: its ``type`` and ``metadata``."""
    made = "the mean" if reduction == "mean" else "the most frequent value"
    rounded = ", rounded half to even for integers" if reduction == "mean" else ", of several the least"
    return {
        "type": reduction,
        "metadata": {
            "description": f"Each level is {made} of the stored level before{rounded}; its "
            "shape is the shape before, divided by the factor and rounded up. Translations are those of voxel centres.",
            "method": "tensorstore.downsample",
            "kwargs": {"method": reduction},
            "factors": [list(grid.factor) for grid in levels[1:]],
        },
    }


SHARDED = WrittenFormat(
    "ome-zarr-0.5", "zarr3", _axes, "{}", _array_v05, "zarr.json", _group_v05, (".zarr",), _CODECS, sharded=True, arranged=tuple
)
UNSHARDED = WrittenFormat(
    "ome-zarr-0.5-unsharded",
    "zarr3",
    _axes,
    "{}",
    partial(_array_v05, sharded=False),
    "zarr.json",
    _group_v05,
    (".zarr",),
    _CODECS,
)
V04 = WrittenFormat(
    "ome-zarr-0.4",
    "zarr",
    _axes,
    "{}",
    _array_v04,
    ".zattrs",
    _group_v04,
    (".zarr",),
    {"gzip": ()},
    {".zgroup": {"zarr_format": 2}},
)
