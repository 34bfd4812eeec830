"""A sample of the job, run in memory: how long a patch takes here, and how well the output compresses."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.enhancement.blend import blend
from volumetool.enhancement.columns import Source, read_columns
from volumetool.enhancement.engine import Engine
from volumetool.enhancement.recipe import Recipe
from volumetool.errors import DataError, NumericsError
from volumetool.geometry import Box, Region
from volumetool.jobs.pace import patch_seconds
from volumetool.store.create import VolumeLayout, array_metadata

SECTIONS = 2
"""Sections that are enough to see how independent ones compress."""

STORED = 2**22
"""Voxels that are compressed to see how long it takes."""


@dataclass(frozen=True)
class Sample:
    """What the sample showed.

    Attributes
    ----------
    patch_seconds : float
        Time of one patch in the network.
    compression : float
        Stored bytes per byte of voxels.
    store_seconds : float
        Time of this machine, all cores at it, to compress a byte of voxels.
    """

    patch_seconds: float
    compression: float
    store_seconds: float = 0.0


def take_sample(recipe: Recipe, engine: Engine, voxels: ts.TensorStore, layout: VolumeLayout) -> Sample:
    """Time a few batches, and enhance the chunk in the middle of the volume in memory.

    Parameters
    ----------
    recipe, engine
        As the job will use them.
    voxels : tensorstore.TensorStore
        The input, z, y, x.
    layout : VolumeLayout
        Of the output; its codecs compress the sample.
    """
    level = recipe.levels[0]
    z, y, x = ((n // 2) // c * c for n, c in zip(level.shape, level.chunk, strict=True))
    depth = level.chunk[0] if recipe.lattice.z.overlap else min(level.chunk[0], SECTIONS)
    stop = (z + depth, y + level.chunk[1], x + level.chunk[2])
    region = Region(0, 0, Box((z, y, x), stop).intersection(Box.whole(level.shape)))
    columns = read_columns(recipe, region, Source(voxels), engine.numerics.batch)
    try:
        slabs = [slab.voxels for slab in blend(recipe, region, engine.predict_columns(columns), engine.xp)]
        compression = _compression(slabs[0], layout)
    except (DataError, NumericsError):  # the region with this chunk will fail and say why
        compression = 0.0
    asked = engine.streams * engine.numerics.batch
    # Where the sample is blank or damaged, nothing is known: the rest is taken as incompressible.
    return Sample(patch_seconds(engine, recipe.lattice.patch, asked), compression or 1.0, _store_seconds(layout))


def _compression(voxels: NDArray[Any], layout: VolumeLayout) -> float:
    array = _stored(voxels, layout)
    store = array.kvstore
    assert store is not None  # noqa: S101  (zarr3 always has one)
    shards = [key for key in store.list().result() if not key.endswith(b"zarr.json")]
    stored: int = sum(len(store.read(key).result().value) for key in shards)
    return stored / voxels.nbytes


def _store_seconds(layout: VolumeLayout) -> float:
    chunk = layout.levels[0].chunk
    shape = (chunk[0], chunk[1], max(1, STORED // math.prod(chunk)) * chunk[2])
    # About as hard to compress as an enhanced volume.
    voxels = np.random.default_rng(0).normal(128, 10, shape).astype(layout.dtype)
    started = time.perf_counter()
    _stored(voxels, layout)
    return (time.perf_counter() - started) / voxels.nbytes


def _stored(voxels: NDArray[Any], layout: VolumeLayout) -> ts.TensorStore:
    """Store voxels in memory as the job will on disk."""
    # One chunk as a shard of its own: the index of a whole shard would outweigh a small chunk.
    single = replace(layout.levels[0], shard=layout.levels[0].chunk)
    metadata = array_metadata(replace(layout, levels=(single,)), 0)
    channels = metadata["shape"][:-3]
    metadata |= {"shape": [*channels, *voxels.shape]}
    array = ts.open({"driver": "zarr3", "kvstore": "memory://", "metadata": metadata}, create=True).result()
    array[(0,) * len(channels)].write(voxels).result()
    return array
