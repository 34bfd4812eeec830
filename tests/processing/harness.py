"""Small jobs to test with: generated geometries, and a driver that runs all regions of a job in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorstore as ts
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import Geometry

from volumetool.geometry import AxisLattice, Box, Lattice, RegionGrid, Triple, joined, plan_levels
from volumetool.models import Model
from volumetool.processing.engine import Engine
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.predictor import BatchPredictor
from volumetool.processing.region import enhance_region
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.processing.statistics import Statistics, no_normalisation
from volumetool.storage.voxels import Source
from volumetool.testing import FakeConfig, FakeModel, fake_model

Voxels = NDArray[Any]

SIZES = st.one_of(st.sampled_from([1, 2, 3, 5, 7, 11, 13, 17, 19, 23]), st.integers(1, 23))
SCALES = {2: [(1, 4, 4), (1, 1, 1), (1, 3, 3), (1, 2, 1)], 3: [(2, 2, 2), (1, 1, 1), (3, 1, 2), (1, 4, 4)]}
VOXEL_SIZES = st.sampled_from([(8.0, 2.0, 2.0), (4.0, 4.0, 4.0), (30.0, 4.0, 4.0), (2.0, 8.0, 4.0)])


@dataclass(frozen=True)
class Case:
    """The geometry of a small job.

    `box` is the part of the full output that the job's output holds; `chunk` and `shard` are those of its level 0, `span`
    the shards of a region.
    """

    lattice: Lattice
    dims: int
    box: Box
    chunk: Triple
    shard: Triple
    span: Triple
    batch: int
    voxel_size: tuple[float, float, float]

    @property
    def geometry(self) -> Geometry:
        """The same lattice for the reference."""
        stride, overlap, trim, granularity = (
            tuple(getattr(line, name) for line in self.lattice.axes) for name in ("stride", "overlap", "trim", "granularity")
        )
        return Geometry(stride, overlap, trim, self.lattice.scale, self.dims, self.lattice.context, granularity)

    @property
    def cropped(self) -> bool:
        """Whether the output is only a part of the full one."""
        return self.box != Box.whole(self.lattice.output_shape)

    def grid(self, span: Triple | None = None) -> RegionGrid:
        """Return the regions, of `span` shards each or of the case's own."""
        return RegionGrid(self.box.shape, self.shard, span or self.span)

    def model(self, behaviour: str = "identity") -> FakeModel:
        """Return a fake network for this lattice."""
        config = FakeConfig(
            behaviour=behaviour,
            dims=self.dims,
            scale=self.lattice.scale,
            z_context=self.lattice.context,
            radius=1,
        )
        overlap, trim = self.geometry.overlap, self.geometry.trim
        # One patch that covers an axis may be shorter than a card allows, which speaks of many.
        z, y, x = (max(line.stride, line.overlap) + line.overlap for line in self.lattice.axes)
        patch = (z, y, x)
        return fake_model(config, patch=patch, overlap=overlap, trim=trim)

    def spec(self, dtype: str, statistics: Statistics | None = None, **more: Any) -> OutputSpec:
        """Return what decides the voxels; without statistics nothing is normalised."""
        levels = plan_levels(self.box.shape, self.voxel_size, (0.0, 0.0, 0.0), self.chunk, self.shard)
        normal = statistics or no_normalisation(1, self.lattice.z.size)
        facts: dict[str, Any] = {
            "input": "", "level": 0, "model": "", "precision": "float32", "padded_batch": None, "seed": 0, "mask": None,
            "equalise_sections": False, "invert": False, "nodata": None, "fill": 0.0, "missing": "fill", "channels": None,
        }  # fmt: skip
        facts |= {"lattice": self.lattice, "statistics": normal, "levels": levels, "dtype": dtype, "box": self.box}
        return OutputSpec(**facts | more)


@dataclass
class Outcome:
    """What a job left: its fused levels, and the sums of its regions' counters."""

    levels: list[Voxels]
    patches: int = 0
    recomputed: int = 0
    skipped: int = 0
    checksums: list[tuple[int, ...]] = field(default_factory=list)


def run(spec: OutputSpec, grid: RegionGrid, engine: Engine, source: Source | Voxels) -> Outcome:
    """Enhance all regions, last one first: no region may lean on another."""
    given_source = source if isinstance(source, Source) else Source(ts.array(source))
    garbage = [np.full(level.shape, 77, spec.dtype) for level in spec.fused]
    targets = [ts.array(voxels) for voxels in garbage]
    outcome = Outcome([])
    for index in reversed(range(grid.count)):
        done = enhance_region(spec, grid.region(index), BatchPredictor(engine), given_source, targets)
        outcome.patches += done.patches
        outcome.recomputed += done.recomputed
        outcome.skipped += done.skipped
        outcome.checksums.append(done.checksums)
    outcome.levels = [np.asarray(target.read().result()) for target in targets]
    return outcome


def engine_of(model: Model, batch: int = 3, *, pad: bool = False) -> Engine:
    """Return the model on the CPU in float32."""
    return Engine(NetworkOperation(model), Numerics("float32", batch, pad), "cpu")


def run_case(case: Case, behaviour: str, spec: OutputSpec, source: Source | Voxels, span: Triple | None = None) -> Outcome:
    """Enhance a case with a fake network."""
    return run(spec, case.grid(span), engine_of(case.model(behaviour), case.batch), source)


@st.composite
def axes(draw: st.DrawFn, size: int, scale: int, most: int, *, least: int = 1) -> AxisLattice:
    """Draw the patches along one axis: at most `most` of them, each `least` voxels long or more."""
    grain = draw(st.sampled_from([1, 1, 2, 4]))
    overlap = grain * draw(st.integers(0, 6 // grain))
    trim = draw(st.integers(0, overlap // 2))
    reach = AxisLattice(size, max(grain, overlap), overlap, trim, scale, grain).reach
    shortest = -(-max(overlap, least - overlap, -(-reach // most)) // grain) * grain
    line = AxisLattice(size, shortest + grain * draw(st.integers(0, 4 // grain)), overlap, trim, scale, grain)
    one = joined(line)
    return draw(st.sampled_from([line, line, line, one if one.patch >= least else line]))


@st.composite
def extents(draw: st.DrawFn, length: int) -> tuple[int, int]:
    """Draw chunk and shard of one output axis: at most three shards, which need not divide strides or volume."""
    shard = draw(st.integers(-(-length // 3), length + 2))
    least = min(shard, 4)  # of tiny chunks there would be too many levels
    chunk = draw(st.sampled_from([c for c in range(least, shard + 1) if shard % c == 0]))
    return chunk, shard


@st.composite
def cases(draw: st.DrawFn, *, crop: bool = True) -> Case:
    """Draw the geometry of a small job: 2D, 2.5D or 3D, any scale, faces, overlaps, shards, regions and batches."""
    dims = draw(st.sampled_from([2, 3]))
    context = draw(st.integers(0, 2)) if dims == 2 else 0
    scale = draw(st.sampled_from(SCALES[dims]))
    shape = (draw(SIZES.map(lambda n: min(n, 7) if dims == 2 else n)), draw(SIZES), draw(SIZES))
    z = AxisLattice(shape[0], 1, 0, 0, 1) if dims == 2 else draw(axes(shape[0], scale[0], 3, least=3))
    lattice = Lattice(z, draw(axes(shape[1], scale[1], 4, least=3)), draw(axes(shape[2], scale[2], 5, least=3)), context)
    box = Box.whole(lattice.output_shape)
    if crop and draw(st.booleans()):
        start = [draw(st.integers(0, n - 1)) for n in lattice.output_shape]
        stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, lattice.output_shape, strict=True)]
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    chunk, shard = zip(*(draw(extents(n)) for n in box.shape), strict=True)
    if draw(st.booleans()):  # else regions hardly ever write a coarser level
        chunk = tuple(max(1, n // 2) for n in shard)
        shard = tuple(2 * n for n in chunk)
    span = draw(st.tuples(*[st.integers(1, 3)] * 3))
    return Case(lattice, dims, box, chunk, shard, span, draw(st.integers(1, 5)), draw(VOXEL_SIZES))


def flat_case(shape: Triple, *, stride: int = 6, overlap: int = 2, scale: Triple = (1, 2, 2)) -> Case:
    """Return a plain 2D case for tests that look at something else than geometry."""
    y, x = (AxisLattice(n, stride, overlap, 0, f) for n, f in zip(shape[1:], scale[1:], strict=True))
    lattice = Lattice(AxisLattice(shape[0], 1, 0, 0, 1), y, x)
    return Case(lattice, 2, Box.whole(lattice.output_shape), (1, 4, 4), (2, 8, 8), (1, 1, 1), 3, (8.0, 2.0, 2.0))


def solid_case() -> Case:
    """Return a 3D case whose patches overlap along all axes."""
    z, y, x = (AxisLattice(n, 5, 3, 0, 2) for n in (13, 14, 15))
    lattice = Lattice(z, y, x)
    return Case(lattice, 3, Box.whole(lattice.output_shape), (8, 8, 8), (16, 16, 16), (1, 1, 1), 3, (8.0, 8.0, 8.0))


def wholly(case: Case) -> Case:
    """Return the same job as one region."""
    return replace(case, span=case.grid((1, 1, 1)).grid)


def section_statistics(seed: int, sections: int, dtype: np.dtype[Any]) -> Statistics:
    """Return a low and a high percentile for every section, as different and as broken as measured ones."""
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    low, high = np.sort(random.uniform(limits.min, limits.max, (2, 1, sections)), axis=0)
    return Statistics(low, np.maximum(high, low + 1))


def random_voxels(seed: int, shape: Triple, dtype: np.dtype[Any]) -> Voxels:
    """Return noise over the whole range of a dtype, ends included; floats have values of either sign."""
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        return (random.standard_normal(shape) * 1000).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def half_even_means(voxels: Voxels, factor: Triple) -> Voxels:
    """Return block means of integers, rounded half to even in whole numbers; written without the product's code."""
    z, y, x = (-(-n // f) for n, f in zip(voxels.shape, factor, strict=True))
    sums, counts = np.zeros((z, y, x), np.int64), np.zeros((z, y, x), np.int64)
    for dz in range(factor[0]):
        for dy in range(factor[1]):
            for dx in range(factor[2]):
                part = voxels[dz :: factor[0], dy :: factor[1], dx :: factor[2]].astype(np.int64)
                inside = tuple(slice(0, n) for n in part.shape)
                sums[inside] += part
                counts[inside] += 1
    whole, rest = np.divmod(sums, counts)
    up = (2 * rest > counts) | ((2 * rest == counts) & (whole % 2 == 1))
    means: Voxels = (whole + up).astype(voxels.dtype)
    return means


def replicated(voxels: Voxels, scale: Triple) -> Voxels:
    """Repeat every voxel `scale` times: what the identity network must give, pixel-centred."""
    for axis, factor in enumerate(scale):
        voxels = np.repeat(voxels, factor, axis)
    return voxels
