"""The heart of a job: one region from input to stored shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

from volumetool.enhancement.ahead import ahead
from volumetool.enhancement.blend import blend
from volumetool.enhancement.columns import Column, Source, read_columns
from volumetool.enhancement.consistency import Consistency
from volumetool.enhancement.engine import Engine
from volumetool.enhancement.kept import KeptPatches
from volumetool.enhancement.spec import OutputSpec
from volumetool.enhancement.stopwatch import STAGES, Stopwatch
from volumetool.enhancement.writer import write_slabs
from volumetool.geometry import AxisLattice, Region


@dataclass(frozen=True)
class Enhanced:
    """The statistics of a region whose shards are on disk.

    Attributes
    ----------
    checksums : tuple of int
        CRC-32 of the voxels of each fused level.
    patches, recomputed, skipped : int
        Lattice patches that the region needed and did not find kept; how many of them an earlier region needs too; how many
        the network was not asked for.
    seconds, network_seconds : float
        From start to end, and inside the network.
    stages : dict of str to float
        Seconds in which each stage had something to do; they run beside each other.
    consistency : float, optional
        How far the output departs from the input, see :class:`Consistency`; None where no voxel is valid.
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
    engine: Engine,
    source: Source,
    targets: Sequence[ts.TensorStore],
    kept: KeptPatches | None = None,
) -> Enhanced:
    """Read, enhance, blend and write one region; every stage runs beside the others.

    Running it twice gives the same bytes.

    Parameters
    ----------
    spec : OutputSpec
        What decides the voxels.
    region : Region
        Voxels to compute.
    engine : Engine
        The network on its device.
    source : Source
        The input, and the mask if there is one.
    targets : sequence of tensorstore.TensorStore
        The fused levels of the output, finest first.
    kept : KeptPatches, optional
        What earlier regions kept, and where to keep patches for later ones; without it every patch is computed.

    Raises
    ------
    DataError
        Input that cannot be read, or output that does not read back as it was written.
    NumericsError
        The network made NaN or infinity.
    """
    started, network = time.perf_counter(), engine.seconds
    tally = _Tally(engine.beat)
    watch = Stopwatch()
    consistency = Consistency(spec.lattice, watch)
    columns = ahead(watch.busy("read", read_columns(spec, region, source, engine.numerics.batch, kept)))
    predicted = ahead(watch.busy("network", engine.predict_columns(watch.waiting("network", tally.count(columns)))))
    awaited = watch.waiting("blend", predicted)
    whole = kept.keeping(awaited) if kept else awaited
    slabs = ahead(watch.busy("blend", blend(spec, region, whole, engine.xp, consistency.add)))
    with closing(columns), closing(predicted), closing(slabs):  # type: ignore[type-var]  # generators have close
        writing = time.perf_counter()
        checksums = write_slabs(spec, watch.waiting("write", slabs), targets, watch)
        if kept is not None:
            kept.finish()
        watch.seconds["write"] += time.perf_counter() - writing
    return Enhanced(
        checksums=tuple(checksums),
        patches=tally.patches,
        recomputed=tally.patches - first_patches(spec, region) if kept is None else tally.repeated,
        skipped=tally.skipped,
        seconds=time.perf_counter() - started,
        network_seconds=engine.seconds - network,
        stages={stage: watch.seconds[stage] for stage in STAGES},
        consistency=consistency.rms,
    )


class _Tally:
    """Counts patches as they pass: not those that were found kept, nor those that two regions skip, which cost nothing."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self.patches = 0
        self.repeated = 0
        self.skipped = 0

    def count(self, columns: Iterator[Column]) -> Iterator[Column]:
        for column in columns:
            active, repeated = column.active, column.repeated
            first = np.ones(len(active), bool) if repeated is None else ~repeated
            self.patches += int((active | first).sum())
            self.repeated += int((active & ~first).sum())
            self.skipped += int((~active & first).sum())
            self._beat()
            yield column


def first_patches(spec: OutputSpec, region: Region) -> int:
    """Return how many patches no region before this one needs, along any axis."""
    core = spec.core(region)
    number = 1
    for line, low, high, origin in zip(spec.lattice.axes, core.start, core.stop, spec.origin, strict=True):
        number *= len(_first(line, low, high, origin))
    return number


def _first(line: AxisLattice, low: int, high: int, origin: int) -> list[int]:
    return [i for i in line.touching(low, high) if max(line.weight_start(i), origin) >= low]
