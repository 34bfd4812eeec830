"""A sample of the job, run in memory: how long a patch takes here, and how well the output compresses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, NumericsError
from volumetool.geometry import Box, Region
from volumetool.jobs.planning.autotune import patch_seconds
from volumetool.processing.blend import Slab, blend
from volumetool.processing.columns import Column, input_windows, read_columns
from volumetool.processing.consistency import Consistency
from volumetool.processing.device.arrays import Array
from volumetool.processing.engine import Engine
from volumetool.processing.predictor import BatchPredictor
from volumetool.processing.region import ChainStep, computed
from volumetool.processing.spec import OutputSpec
from volumetool.storage.create import VolumeLayout, open_in_memory
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.voxels import Source

SECTIONS = 2
"""Sections that are enough to see how independent ones compress."""

STORED, STORED_CHUNKS = 2**22, 128
"""Voxels and chunks at most that are compressed to see how long it takes, in a volume that has as many."""


@dataclass(frozen=True)
class Sample:
    """The figures of a sample.

    Attributes
    ----------
    patch_seconds : float
        Time of one patch in the network.
    compression : float
        Stored bytes per byte of voxels.
    store_seconds : float
        Time of this machine, all cores at it, to compress a byte of voxels.
    change : float, optional
        How far the output's means over voxels of the input depart from the input: see `processing/consistency.py`.
    unrounded : float, optional
        `compression` without the steps of `--store-error`; None where there are none, or nothing is known.
    not_finite : DataError, optional
        The sample holds NaN or infinity: its region will fail.
    """

    patch_seconds: float
    compression: float
    store_seconds: float = 0.0
    change: float | None = None
    unrounded: float | None = None
    not_finite: DataError | None = None


def take_sample(spec: OutputSpec, engine: Engine, source: Source, steps: Sequence[ChainStep] = ()) -> Sample:
    """Enhance a chunk in the middle of the volume in memory.

    Parameters
    ----------
    spec, engine
        As the job will use them.
    source : Source
        The stored input of the first channel.
    steps : sequence of ChainStep
        The operations of a chain before this one.
    """
    region = Region(0, 0, _place(spec))
    with computed(steps, 0, list(input_windows(spec, region)), source) as own:
        return _sample_of(spec, engine, region, own)


def _sample_of(spec: OutputSpec, engine: Engine, region: Region, source: Source) -> Sample:
    columns = read_columns(spec, region, source, engine.numerics.batch)
    asked, before = 0, engine.seconds
    consistency, not_finite, unrounded = Consistency(spec.lattice), None, None

    def counted() -> Iterator[Column]:
        nonlocal asked
        for column in columns:
            asked += int(column.active.sum())
            yield column

    try:
        predicted = BatchPredictor(engine).predict(counted())
        known = list(predicted) if spec.store_error else []
        slabs = list(
            blend(spec, region, iter(known) if known else predicted, engine.xp, consistency.add if spec.spares else None)
        )
        compression = _compression(slabs[: spec.per_input], spec)
        if spec.store_error:
            plain = spec.model_copy(update={"store_error": 0.0})
            own = [(column, [_plain(spec, patch) for patch in made]) for column, made in known]
            unrounded = _compression(list(blend(plain, region, iter(own), engine.xp))[: spec.per_input], spec)
            # The finest level alone is rounded.
            finest = math.prod(spec.levels[0].shape) / sum(math.prod(level.shape) for level in spec.levels)
            compression = finest * compression + (1 - finest) * unrounded
    except (DataError, NumericsError) as error:  # the region with this chunk will fail and say why
        compression = asked = 0
        if isinstance(error, DataError) and error.code == "data.not-finite":
            not_finite = error
    if asked and asked % engine.at_once == 0:
        seconds = (engine.seconds - before) / asked
    else:
        seconds = patch_seconds(engine, spec.lattice.patch, engine.at_once, rounds=1)  # the network is warm
    # Where the sample is blank or damaged, nothing is known: the rest is taken as incompressible.
    return Sample(seconds, compression or 1.0, _store_seconds(spec.layout), consistency.rms, unrounded, not_finite)


def _plain(spec: OutputSpec, patch: Array) -> Array:
    """Return what an operation made of a patch, (planes, z, y, x), without the error that only steps go by."""
    if len(spec.made) == spec.per_input:
        return patch
    rest: Array = patch[[0, *range(2, len(patch))]] if spec.outputs else patch[0]
    return rest


def _place(spec: OutputSpec) -> Box:
    """Return a chunk of the output near its middle that needs as few patches as any; of independent sections some."""
    level, lattice = spec.levels[0], spec.lattice

    def begin(axis: int) -> int:
        line, n, length, origin = lattice.axes[axis], level.shape[axis], level.chunk[axis], spec.origin[axis]

        def cost(start: int) -> tuple[int, int]:
            return len(line.touching(origin + start, origin + min(start + length, n))), abs(2 * start + length - n)

        return min(range(0, n, length), key=cost)

    z, y, x = begin(0), begin(1), begin(2)
    depth = level.chunk[0] if lattice.z.overlap else min(level.chunk[0], SECTIONS)
    place, block = Box((z, y, x), (z + depth, y + level.chunk[1], x + level.chunk[2])), spec.block_of(spec.per_input - 1)
    return place.coarsened(block).enlarged(block).intersection(Box.whole(level.shape))


def _compression(slabs: Sequence[Slab], spec: OutputSpec) -> float:
    """Return the stored bytes per byte of some slabs."""
    stored = 0
    for slab in slabs:
        store = _stored(slab.voxels, spec.layouts[spec.stored(slab.number)[0]]).kvstore
        assert store is not None  # noqa: S101  (what is stored has one)
        shards = [key for key in store.list().result() if key.rpartition(b"/")[2].decode() not in VOLUME_METADATA]
        stored += sum(len(store.read(key).result().value) for key in shards)
    return stored / sum(slab.voxels.nbytes for slab in slabs)


def _store_seconds(layout: VolumeLayout) -> float:
    level = layout.levels[0]
    chunks = math.prod(-(-n // c) for n, c in zip(level.shape, level.chunk, strict=True))
    chunks = min(chunks, STORED_CHUNKS, max(1, STORED // math.prod(level.chunk)))
    # About as hard to compress as an enhanced volume; one chunk many times, because drawing takes longer than compressing.
    chunk = np.random.default_rng(0).normal(128, 10, level.chunk).astype(layout.dtype)
    voxels = np.tile(chunk, chunks)  # (chunk z, chunk y, chunks * chunk x)
    started = time.perf_counter()
    _stored(voxels, layout)
    return (time.perf_counter() - started) / voxels.nbytes


def _stored(voxels: NDArray[Any], layout: VolumeLayout) -> ts.TensorStore:
    """Store voxels in memory as the job will on disk."""
    # One chunk as a shard of its own: the index of a whole shard would outweigh a small chunk.
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    single = replace(layout.levels[0], shape=shape, shard=layout.levels[0].chunk)
    array = open_in_memory(replace(layout, levels=(single,)), 0, 0)
    array.write(voxels).result()
    return array
