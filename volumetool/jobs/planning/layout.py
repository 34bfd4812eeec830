"""Layout: from the input and the model's card to lattice, output levels and regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from volumetool.errors import ConfigError
from volumetool.geometry import (
    AxisLattice,
    Box,
    Lattice,
    LevelGrid,
    Triple,
    balanced,
    default_chunk,
    default_shard,
    downscaled_translation,
    joined,
    moved,
    part_inside,
    upscaled,
)
from volumetool.jobs.job import Job
from volumetool.jobs.plan import CACHED_AXES, CacheScope
from volumetool.models import OperationCard
from volumetool.processing.spec import OutputSpec
from volumetool.storage.create import choose_format
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.volume import Level
from volumetool.storage.writing.names import WrittenName

LEAST_STRIDES = 2
"""Strides of a region along a blended axis below which it is not cut where patches are kept: so a patch has few owners."""

RECOMPUTED_LIMIT = 0.05
"""Share of patches computed twice that splitting for more workers may cost."""

LARGEST_PATCH = 1.25
"""Voxels of a patch, in times of those that card and overlap ask for, up to which one patch may cover a short axis."""

SHORT_SIDE = 4
"""Chunks of a 2D model's shard along z and x."""

REGIONS_PER_WORKER = 4
"""Regions per worker that the planner aims at, so that no worker waits long for the last one."""

REGION_SECONDS = 60.0
"""Work in a region that the planner aims at: little to lose when a worker dies."""


def make_lattice(job: Job, card: OperationCard, shape: Triple) -> Lattice:
    """Return the lattice: a function of the volume's shape, the model's card and the options that override it.

    Parameters
    ----------
    job : Job
        May say patch and overlap, in input voxels, or ask for exact ones.
    card : OperationCard
        Patch, overlap, trim and scale of the model.
    shape : tuple of int
        Shape of the input's level, in voxels, z, y, x.

    Raises
    ------
    ConfigError
        ``config.patch``: patch or overlap are not multiples of the network's granularity. ``config.scale``: the volume is
        smaller than the voxels that become one.
    """
    overlap, trim = _margins(job, card)
    if card.dims == 2 and overlap[0]:
        raise ConfigError(
            "config.patch",
            f"along z: overlap {overlap[0]}, but {card.name} works section by section",
            hint=f"take --overlap 0,{overlap[1]},{overlap[2]}",
        )
    patch = job.patch or (card.patch if job.overlap is None and not job.exact else _enlarged(card, overlap))
    if any(n < s for n, s in zip(shape, card.shrink, strict=True)):
        raise ConfigError(
            "config.scale",
            f"{card.shrink} voxels (z, y, x) become one, the volume has {shape}",
            hint="take fewer along the axis that is too short",
        )
    lines = []
    per_axis = zip(patch, shape, overlap, trim, card.granularity, card.scale, card.shrink, strict=True)
    for axis, (size, n, o, t, g, f, s) in zip("zyx", per_axis, strict=True):
        if size % g or o % g or size <= o:
            raise ConfigError(
                "config.patch",
                f"along {axis}: patch {size} and overlap {o}; this model needs multiples of {g}, and a patch above its overlap",
                hint=f"the model's own are patch {card.patch} and overlap {card.overlap}",
            )
        lines.append(balanced(AxisLattice(n // s, max(size - o, o) // s, o // s, t // s, f, g // s)))
    if job.patch is None:
        usual = math.prod(max(p, 2 * o) for p, o in zip(patch, overlap, strict=True)) // math.prod(card.shrink)
        lines = _joined(lines, LARGEST_PATCH * usual)
    z, y, x = lines
    return Lattice(z, y, x, card.z_context, card.shrink)


def _joined(lines: list[AxisLattice], most: float) -> list[AxisLattice]:
    """Let one patch cover a short axis that would need several, as long as it holds no more than `most` voxels."""
    for axis, line in enumerate(lines):
        longer = [*lines[:axis], joined(line), *lines[axis + 1 :]]
        if line.overlap and math.prod(each.patch for each in longer) <= most:
            lines = longer
    return lines


def _margins(job: Job, card: OperationCard) -> tuple[Triple, Triple]:
    """Return overlap and trim."""
    if not job.exact:
        if job.overlap is None:
            return card.overlap, card.trim
        if card.exact_cut and any(asked < own for asked, own in zip(job.overlap, card.overlap, strict=True)):
            raise ConfigError(
                "config.patch",
                f"--overlap {job.overlap}, but {card.name} needs {card.overlap}: twice what a voxel of its output depends on",
                hint="leave --overlap out; less of it would show seams",
            )
        trim = (
            min(card.trim[0], job.overlap[0] // 2),
            min(card.trim[1], job.overlap[1] // 2),
            min(card.trim[2], job.overlap[2] // 2),
        )
        return job.overlap, trim
    margin = [-(-r // g) * g for r, g in zip(card.receptive_field, card.granularity, strict=True)]
    z = 0 if card.dims == 2 else margin[0]
    return (2 * z, 2 * margin[1], 2 * margin[2]), (z, margin[1], margin[2])


def _enlarged(card: OperationCard, overlap: Triple) -> Triple:
    """Keep the card's stride under another overlap."""
    return card.stride[0] + overlap[0], card.stride[1] + overlap[1], card.stride[2] + overlap[2]


def output_box(job: Job, lattice: Lattice) -> Box:
    """Return the voxels of the full output that this output holds: all of them, or with ``crop`` those of the box.

    Raises
    ------
    ConfigError
        ``config.roi``: the box lies outside the volume, or ``crop`` came without one.
    """
    if job.roi is not None:
        inside, _ = part_inside(job.roi, lattice.shape, box_counts(job))
        if job.crop:
            return lattice.made_of(inside)
    if job.crop:
        raise ConfigError("config.roi", "--crop needs the box to crop to", hint="add --roi z0:z1,y0:y1,x0:x1")
    return Box.whole(lattice.output_shape)


def box_counts(job: Job) -> str:
    """Return what the box of a job counts voxels of."""
    return f"level {job.level} of {job.input}"


def make_levels(job: Job, box: Box, card: OperationCard, level: Level) -> tuple[LevelGrid, ...]:
    """Return the levels of the output.

    Parameters
    ----------
    job : Job
        May say chunk and shard.
    box : Box
        Voxels of the full output that this output holds.
    card : OperationCard
        Its scale, and whether it looks at single sections.
    level : Level
        The level of the input that is enhanced.

    Raises
    ------
    ConfigError
        ``config.shard``.
    OutputError
        ``output.format``: the output's name says another format than is asked for.
    """
    fine, origin = upscaled(level.voxel_size, level.translation, card.scale)
    fine = (fine[0] * card.shrink[0], fine[1] * card.shrink[1], fine[2] * card.shrink[2])
    if max(card.shrink) > 1:
        origin = downscaled_translation(level.voxel_size, level.translation, fine)
    written, shard = WRITTEN[output_format(job)], job.shard
    if shard is None and card.dims == 2 and written.sharded:
        shard = upright_shard(job.chunk or default_chunk(fine), box.shape)
    return written.plan_levels(box.shape, fine, moved(origin, fine, box.start), job.chunk, shard)


def output_format(job: Job) -> WrittenName:
    """Return the format of the output."""
    return choose_format(job.output, job.format)


def upright_shard(chunk: Triple, shape: Triple) -> Triple:
    """Return a shard of as many chunks as the default one, four deep and wide and the rest high.

    A region of a 2D model is one shard deep, and several slabs of one shard's width are in memory: what is saved in depth
    and width makes the region's band higher, so that fewer patches are computed twice. Fewer than four chunks would leave
    more of the pyramid to the last pass.
    """
    default = default_shard(chunk, shape)
    chunks = math.prod(default) // math.prod(chunk)
    return SHORT_SIDE * chunk[0], chunks // SHORT_SIDE**2 * chunk[1], SHORT_SIDE * chunk[2]


@dataclass(frozen=True)
class WorkerDemand:
    """The measures by which the planner chooses the shape of regions.

    Parameters
    ----------
    workers : int
        Workers that will share the regions.
    memory : int
        Bytes that one worker may use.
    patch_seconds : float
        Measured time of one patch.
    keep : {"none", "sides", "all"}
        Shared patches that are kept: none, those between regions of one layer, or all.
    earlier : tuple of (Lattice, float)
        The operations of a chain before the last, in order: their patches, and the measured time of one.
    """

    workers: int
    memory: int
    patch_seconds: float
    keep: CacheScope = "none"
    earlier: tuple[tuple[Lattice, float], ...] = ()


@dataclass(frozen=True)
class Partition:
    """Regions, and which patches are kept between them.

    Parameters
    ----------
    span : tuple of int
        Shards per region and axis.
    keep : {"none", "sides", "all"}
        Shared patches that are kept: none, those between regions of one layer, or all.
    why : str
        Why these patches are kept, or why none are.
    peak : int
        Upper bound of the bytes that kept patches take at once.
    """

    span: Triple
    keep: CacheScope
    why: str
    peak: int = 0


def count_patches(spec: OutputSpec, span: Triple, keep: CacheScope = "none", asked: Box | None = None) -> int:
    """Return how many patches the regions evaluate, those included that are evaluated more than once.

    Parameters
    ----------
    spec : OutputSpec
        The lattice and the output that regions are cut from.
    span : tuple of int
        Shards per region and axis.
    keep : {"none", "sides", "all"}
        Shared patches that are kept: none, those between regions of one layer, or all.
    asked : Box, optional
        Voxels of the output; regions that touch them count. All regions without it.
    """
    return spec.sharing(span).count(CACHED_AXES[keep], asked)


def recomputed_share(spec: OutputSpec, span: Triple, keep: CacheScope = "none", asked: Box | None = None) -> float:
    """Return how many patches are computed again, as a share of the distinct ones: 0 if each is computed once.

    Parameters
    ----------
    spec, span, keep, asked
        As for :func:`count_patches`.
    """
    return count_patches(spec, span, keep, asked) / count_patches(spec, span, "all", asked) - 1


def count_earlier(
    spec: OutputSpec, lattices: Sequence[Lattice], span: Triple, asked: Box | None = None
) -> list[tuple[int, int]]:
    """Return how many patches of the operations before a chain's last its regions evaluate.

    Parameters
    ----------
    spec : OutputSpec
        Of the last operation.
    lattices : sequence of Lattice
        The patches of the operations before it, in order.
    span : tuple of int
        Shards per region and axis.
    asked : Box, optional
        Voxels of the output; regions that touch them count. All regions without it.

    Returns
    -------
    list of (int, int)
        For each operation all that are evaluated, and how many of them are distinct.
    """
    sharing, lattice = spec.sharing(span), spec.lattice
    cuts: list[list[tuple[int, int]]] = []
    for size, length, origin, numbers in zip(
        sharing.grid.size, sharing.grid.shape, spec.origin, sharing.numbers(asked), strict=True
    ):
        cuts.append([(origin + n * size, origin + min((n + 1) * size, length)) for n in numbers])
    counts = []
    for earlier in reversed(lattices):
        lines = zip(lattice.axes, (lattice.context, 0, 0), lattice.shrink, cuts, strict=True)
        needs = [([line.needed(*cut, context) for cut in own], factor) for line, context, factor, own in lines]
        cuts = [[(low * factor, high * factor) for low, high in own] for own, factor in needs]
        needed = [[line.touching(*cut) for cut in own] for line, own in zip(earlier.axes, cuts, strict=True)]
        every = math.prod(sum(map(len, own)) for own in needed)
        once = math.prod(own[-1].stop - own[0].start for own in needed)
        counts.append((sharing.grid.channels * every, sharing.grid.channels * once))
        lattice = earlier
    return counts[::-1]


def choose_partition(
    spec: OutputSpec, demand: WorkerDemand, memory_of: Callable[[OutputSpec, Triple, CacheScope], int]
) -> Triple:
    """Return the shards per region: bands as wide as memory allows, cut further while workers would lack work.

    A region is one shard deep where sections are independent: more depth would save nothing. Where patches are kept, cuts
    cost disk alone, and regions are about as small as suits their time.

    Parameters
    ----------
    spec : OutputSpec
        The lattice and the output that regions are cut from.
    demand : WorkerDemand
        Workers, memory, and the time of a patch.
    memory_of : callable
        Returns the bytes that a worker needs for the regions of a span, given the specification, the span and which patches
        are kept.
    """
    shards = spec.grid((1, 1, 1)).grid
    deep = any(each.z.overlap or each.context for each, _ in demand.earlier) or spec.lattice.z.overlap
    span = [shards[0] if deep else 1, shards[1], shards[2]]
    while memory_of(spec, _triple(span), demand.keep) > demand.memory and span[0] * span[1] > 1:
        axis = 0 if span[0] > span[1] else 1
        span[axis] = -(-span[axis] // 2)
    while (axis_to_cut := _next_cut(spec, span, demand)) is not None:
        span[axis_to_cut] = -(-span[axis_to_cut] // 2)
    return _triple(span)


def _next_cut(spec: OutputSpec, span: list[int], demand: WorkerDemand) -> int | None:
    """Return the axis to halve: where regions are too few or too long, and the cut stays cheap."""
    grid, keep = spec.grid(_triple(span)), demand.keep
    seconds = _work(spec, _triple(span), demand)[0] / grid.count
    few = grid.count < REGIONS_PER_WORKER * demand.workers and demand.workers > 1
    if not few and seconds <= 2 * REGION_SECONDS:
        return None
    # A cut across the sweep costs columns, one along it costs rows: take the cheaper one, unless workers stand idle.
    options = []
    for axis in (2, 1, 0):
        halved = _triple([-(-n // 2) if a == axis else n for a, n in enumerate(span)])
        if halved != _triple(span) and not (CACHED_AXES[keep][axis] and _short(spec, halved, axis)):
            shared = recomputed_share(spec, halved)  # equally fast cuts: the one with fewer patches to keep
            options.append((_speed(spec, halved, demand), -shared, -axis, _done_twice(spec, halved, demand)))
    if not options:
        return None
    speed, _, axis, recomputed = max(options)
    return -axis if recomputed <= RECOMPUTED_LIMIT or speed > _speed(spec, _triple(span), demand) else None


def _short(spec: OutputSpec, span: Triple, axis: int) -> bool:
    line = spec.lattice.axes[axis]
    return spec.grid(span).size[axis] < LEAST_STRIDES * line.stride * line.scale and line.overlap > 0


def _speed(spec: OutputSpec, span: Triple, demand: WorkerDemand) -> float:
    """Return how many times faster than one worker, nothing twice, the regions of a span can be done."""
    return min(spec.grid(span).count, demand.workers) / (1 + _done_twice(spec, span, demand))


def _work(spec: OutputSpec, span: Triple, demand: WorkerDemand) -> tuple[float, float]:
    """Return the seconds that the patches of all operations take in all regions, and that they would take, each once."""
    every, once = (count_patches(spec, span, keep) * demand.patch_seconds for keep in (demand.keep, "all"))
    counts = count_earlier(spec, [lattice for lattice, _ in demand.earlier], span)
    for (_, seconds), (patches, distinct) in zip(demand.earlier, counts, strict=True):
        every, once = every + patches * seconds, once + distinct * seconds
    return every, once


def _done_twice(spec: OutputSpec, span: Triple, demand: WorkerDemand) -> float:
    """Return the work that is done again, as a share of what is done once."""
    if not demand.earlier:
        return recomputed_share(spec, span, demand.keep)
    every, once = _work(spec, span, demand)
    return every / once - 1


def _triple(span: list[int]) -> Triple:
    return span[0], span[1], span[2]
