"""The heart of a job: one region from input to stored shards.

The operations of a chain before its last are swept in the same way, and their slabs are the next one's input, never stored.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import AxisLattice, Box, Region, Triple
from volumetool.processing.blend import Slab, blend, look_up
from volumetool.processing.columns import Column, input_windows, read_columns, read_strips
from volumetool.processing.consistency import Consistency
from volumetool.processing.engine import Engine
from volumetool.processing.patch_cache import RegionPatchCache
from volumetool.processing.pipeline import Pipeline, silent
from volumetool.processing.predictor import BatchPredictor, Predictor
from volumetool.processing.quantize import tabulate
from volumetool.processing.spec import OutputSpec
from volumetool.processing.writer import downsample_slabs, write_slabs
from volumetool.storage.voxels import Source


@dataclass(frozen=True)
class RegionStats:
    """The statistics of a region whose shards are on disk.

    Attributes
    ----------
    checksums : tuple of int
        CRC-32 of the voxels of each fused level; of several channels, one after the other.
    patches, recomputed, skipped : int
        Lattice patches that the region needed and did not find kept; how many of them an earlier region needs too; how many
        the network was not asked for.
    seconds, network_seconds : float
        From start to end, and inside the network.
    stages : dict of str to float
        Seconds in which each stage had something to do; they run beside each other.
    consistency : float, optional
        How far the output departs from the input, see :class:`Consistency`; None where no voxel is valid, and where the
        output is no image of the kind of its input.
    """

    checksums: tuple[int, ...]
    patches: int
    recomputed: int
    skipped: int
    seconds: float
    network_seconds: float
    stages: dict[str, float]
    consistency: float | None


def enhance_region(
    spec: OutputSpec,
    region: Region,
    predictor: Predictor,
    source: Source,
    targets: Sequence[ts.TensorStore],
    kept: RegionPatchCache | None = None,
) -> RegionStats:
    """Read, enhance, blend and write one region; every stage runs beside the others.

    Running it twice gives the same bytes.

    Parameters
    ----------
    spec : OutputSpec
        What decides the voxels.
    region : Region
        The region whose voxels are computed.
    predictor : Predictor
        Schedules the calls of the network.
    source : Source
        The input, and the mask if there is one.
    targets : sequence of tensorstore.TensorStore
        The fused levels of the output, finest first; of several channels that are made of the region's, one after the other.
    kept : RegionPatchCache, optional
        What earlier regions kept, and where to keep patches for later ones; without it every patch is computed.

    Raises
    ------
    DataError
        Input that cannot be read, or output that does not read back as it was written.
    NumericsError
        The network made NaN or infinity.
    """
    started, engine, stages = time.perf_counter(), predictor.engine, Pipeline(predictor.heartbeat)
    before, counts, consistency = engine.seconds, Counter[str](), Consistency(spec.lattice)
    table = _table(spec, region, engine, source) if kept is None else None
    if table is not None:
        counts["patches"] = _touching(spec, region)
        strips = stages.run("read", read_strips(spec, region, source))  # (region z, region y, patch x), the input's dtype
        slabs = stages.run("network", look_up(spec, region, strips, table))  # (region z, region y, shard x), output dtype
    else:
        columns = read_columns(spec, region, source, engine.numerics.batch)  # patches (n, depth, y, x), float32
        columns = stages.run("read", _counted(columns if kept is None else kept.find(columns), counts))
        outputs = stages.run("network", predictor.predict(columns))  # n patches (z*fz, y*fy, x*fx), float32
        outputs = outputs if kept is None else kept.keeping(outputs)
        seen = stages.part("consistency", "blend", consistency.add) if spec.spares else None
        blended = blend(spec, region, outputs, engine.xp, seen)  # (region z, region y, shard x), output dtype
        slabs = stages.run("blend", blended)
    # Of each slab (z, y, x), (z/fz, y/fy, x/fx), ... : its voxels on every fused level.
    levels = stages.run("pyramid", downsample_slabs(spec, slabs), threaded=False)

    def write() -> tuple[int, ...]:
        checksums = write_slabs(spec, levels, targets)
        if kept is not None:
            kept.finish()
        return tuple(checksums)

    return RegionStats(
        checksums=stages.finish("write", write),
        patches=counts["patches"],
        recomputed=counts["patches"] - first_patches(spec, region) if kept is None else counts["repeated"],
        skipped=counts["skipped"],
        seconds=time.perf_counter() - started,
        network_seconds=engine.seconds - before,
        stages=stages.seconds,
        consistency=consistency.rms,
    )


def _counted(columns: Iterator[Column], counts: Counter[str]) -> Iterator[Column]:
    """Count patches as they pass: not those that were found kept, nor those that two regions skip, which cost nothing."""
    for column in columns:
        active, repeated = column.active, column.repeated
        first = np.ones(len(active), bool) if repeated is None else ~repeated  # (n,): no earlier region needs it
        counts["patches"] += int((active | first).sum())
        counts["repeated"] += int((active & ~first).sum())
        counts["skipped"] += int((~active & first).sum())
        yield column


def _table(spec: OutputSpec, region: Region, engine: Engine, source: Source) -> NDArray[Any] | None:
    """Return what each grey value of the input becomes, where that is all that decides a voxel of a region."""
    if source.absent is not None or source.computed is not None:
        return None
    return tabulate(spec, region.channel, engine, source.voxels.dtype.numpy_dtype)


def _touching(spec: OutputSpec, region: Region) -> int:
    """Return how many patches touch a region."""
    core = spec.core(region)
    lines = zip(spec.lattice.axes, core.start, core.stop, strict=True)
    return math.prod(len(line.touching(low, high)) for line, low, high in lines)


def first_patches(spec: OutputSpec, region: Region) -> int:
    """Return how many patches no region before this one needs, along any axis."""
    core = spec.core(region)
    number = 1
    for line, low, high, origin in zip(spec.lattice.axes, core.start, core.stop, spec.origin, strict=True):
        number *= len(_first(line, low, high, origin))
    return number


def _first(line: AxisLattice, low: int, high: int, origin: int) -> list[int]:
    return [i for i in line.touching(low, high) if max(line.weight_start(i), origin) >= low]


@dataclass(frozen=True)
class ChainStep:
    """An operation of a chain whose output the next one reads, and which is never stored.

    Attributes
    ----------
    spec : OutputSpec
        What decides its voxels.
    engine : Engine
        The operation on its device.
    mask_factor : tuple of int
        Voxels of its input per voxel of the mask.
    """

    spec: OutputSpec
    engine: Engine
    mask_factor: Triple = (1, 1, 1)


class Decided(Protocol):
    """What has a specification."""

    @property
    def spec(self) -> OutputSpec:
        """What decides its voxels."""


def stored_region(steps: Sequence[Decided], spec: OutputSpec, region: Region) -> tuple[OutputSpec, Region]:
    """Return what reads the stored input that a region of a chain is made from: the region itself without steps.

    Parameters
    ----------
    steps : sequence
        The operations before the chain's last, each with its `spec`.
    spec : OutputSpec
        Of the last one.
    region : Region
        A region of its output.

    Returns
    -------
    OutputSpec, Region
        Of the first operation.
    """
    for step in reversed(steps):
        box, channel = spec.lattice.needed(spec.core(region)), region.channel // step.spec.per_input
        region, spec = replace(region, channel=channel, box=box), step.spec
    return spec, region


def stored_windows(steps: Sequence[ChainStep], channel: int, windows: Sequence[Box]) -> tuple[int, list[Box]]:
    """Return the channel of the stored input, and the boxes of it, that `computed` reads.

    Parameters
    ----------
    steps, channel, windows
        As for :func:`computed`.
    """
    if not steps:
        return channel, list(windows)
    *before, last = steps
    own = Region(0, channel // last.spec.per_input, functools.reduce(Box.joined, windows))
    spec, region = stored_region(before, last.spec, own)
    return region.channel, list(input_windows(spec, region))


@contextmanager
def computed(
    steps: Sequence[ChainStep], channel: int, windows: Sequence[Box], source: Source, heartbeat: Callable[[], None] = silent
) -> Iterator[Source]:
    """Give what steps make of an input as an input of its own: its voxels are computed as they are read.

    They are swept once, in the order of the windows, and have the bytes that jobs would have stored one after the other.

    Parameters
    ----------
    steps : sequence of ChainStep
        The operations, in order; without any, the input is read as it is.
    channel : int
        Channel of what the steps make.
    windows : sequence of Box
        The boxes that will be read, each once and in this order: rising along x, as a region reads them.
    source : Source
        The stored input of the channel that it is made of, with the mask and the factor of whoever reads.
    heartbeat : callable
        Called after every call of a network.
    """
    if not steps:
        yield source
        return
    *before, step = steps
    source_channel, number = divmod(channel, step.spec.per_input)
    region = Region(0, source_channel, functools.reduce(Box.joined, windows))
    own = replace(source, mask_factor=step.mask_factor)
    with (
        computed(before, source_channel, list(input_windows(step.spec, region)), own, heartbeat) as inner,
        closing(_swept(step, region, number, inner, heartbeat)) as slabs,
    ):
        shown = _Windows(slabs, windows, np.dtype(step.spec.dtype))
        yield Source(source.voxels, source.mask, source.mask_factor, mask_check=source.mask_check, computed=shown)


def _swept(
    step: ChainStep, region: Region, number: int, source: Source, heartbeat: Callable[[], None]
) -> Generator[Slab, None, None]:
    """Yield what a step makes of a region, of its channels that of a number, in slabs along x: one for each column."""
    level, line = step.spec.levels[0], step.spec.lattice.x
    slim = replace(level, shard=(*level.shard[:2], line.stride * line.scale))
    spec, stages = step.spec.model_copy(update={"levels": (slim,)}), Pipeline(heartbeat)
    columns = stages.run("read", read_columns(spec, region, source, step.engine.numerics.batch))
    outputs = stages.run("network", BatchPredictor(step.engine, heartbeat).predict(columns))
    yield from stages.drain(stages.run("blend", blend(spec, region, outputs, step.engine.xp, only=number)))


class _Windows:
    """Cuts windows out of slabs that come along x, and lets go of what no later window holds."""

    def __init__(self, slabs: Iterator[Slab], windows: Sequence[Box], dtype: np.dtype[Any]) -> None:
        self._slabs, self._dtype = slabs, dtype
        self._open: list[Slab] = []
        # At the far face windows turn back, because they are mirrored there: what counts is the least start still to come.
        self._lows = list(accumulate((window.start[2] for window in reversed(windows)), min))

    def __call__(self, box: Box) -> NDArray[Any]:
        low = self._lows.pop()
        while not self._open or self._open[-1].box.stop[2] < box.stop[2]:
            self._open = [slab for slab in self._open if slab.box.stop[2] > low]
            self._open.append(next(self._slabs))
        voxels = np.empty(box.shape, self._dtype)  # (z, y, x)
        for slab in self._open:
            part = slab.box.intersection(box)
            voxels[_inside(part, box)] = slab.voxels[_inside(part, slab.box)]
        return voxels


def _inside(part: Box, box: Box) -> tuple[slice, slice, slice]:
    """Return the slices that cut a part out of an array that holds a box."""
    return part.shifted((-box.start[0], -box.start[1], -box.start[2])).slices
