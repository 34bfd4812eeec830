"""The heart of a job: one region from input to stored shards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

from volumetool.geometry import AxisLattice, Region
from volumetool.processing.blend import blend
from volumetool.processing.columns import Column, read_columns
from volumetool.processing.consistency import Consistency
from volumetool.processing.patch_cache import RegionPatchCache
from volumetool.processing.pipeline import Pipeline
from volumetool.processing.predictor import Predictor
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
    started, engine = time.perf_counter(), predictor.engine
    before, counts, consistency = engine.seconds, Counter[str](), Consistency(spec.lattice)
    stages = Pipeline(predictor.heartbeat)

    columns = read_columns(spec, region, source, engine.numerics.batch)  # patches (n, depth, y, x), float32
    columns = stages.run("read", _counted(columns if kept is None else kept.find(columns), counts))
    outputs = stages.run("network", predictor.predict(columns))  # n patches (z*fz, y*fy, x*fx), float32
    outputs = outputs if kept is None else kept.keeping(outputs)
    seen = stages.part("consistency", "blend", consistency.add) if spec.spares else None
    slabs = stages.run("blend", blend(spec, region, outputs, engine.xp, seen))  # (region z, region y, shard x), output dtype
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


def first_patches(spec: OutputSpec, region: Region) -> int:
    """Return how many patches no region before this one needs, along any axis."""
    core = spec.core(region)
    number = 1
    for line, low, high, origin in zip(spec.lattice.axes, core.start, core.stop, spec.origin, strict=True):
        number *= len(_first(line, low, high, origin))
    return number


def _first(line: AxisLattice, low: int, high: int, origin: int) -> list[int]:
    return [i for i in line.touching(low, high) if max(line.weight_start(i), origin) >= low]
