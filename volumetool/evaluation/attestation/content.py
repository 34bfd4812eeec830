"""The voxels of an output beside those of its input: blank chunks, values that are no numbers, distributions, sections.

Regions are read block by block, with the input that they were made of. What is kept are counts, two histograms and sums over
sections, so memory does not grow with the voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError
from volumetool.evaluation.attestation.seams import Seams
from volumetool.geometry import Box, Region, Triple, total_factor
from volumetool.geometry.box import cut
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.volumes import volumes_of
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels, valid_voxels

GRANULE = 8
"""Side, along y and x in voxels of the input, of the squares whose means are compared: noise averages out there."""

BINS = 1024
"""Bins of a histogram over three data windows, the volume's own in the middle."""

SAMPLED, PIECE = 32, 2**17
"""Regions on whose input the data window is measured, and voxels of each, about."""

AT_ONCE = 2**24
"""Voxels of the output that are looked at together, about: 250 MB with all that is made of them."""

STRUCTURE = 0.02
"""Standard deviation of the input, in data windows, from which there is something that an output cannot be blank for."""

KEPT = 8
"""Places that are named of each kind of finding."""


@dataclass
class Places:
    """What is found somewhere: how often, and the places where it is most.

    Attributes
    ----------
    count : int
        How often.
    worst : list of tuple
        Size of a finding and its voxels, the largest first, at most `KEPT`.
    """

    count: int = 0
    worst: list[tuple[float, Box]] = field(default_factory=list)

    def add(self, size: float, box: Box) -> None:
        """Add a finding."""
        self.count += 1
        self.worst = sorted([*self.worst, (size, box)], key=lambda each: -each[0])[:KEPT]


class OutputVoxels:
    """What the voxels of a job's output show, beside its input.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    done : numpy.ndarray of bool, shape (regions,)
        Which regions of the job are done.
    alike : bool
        Whether the output's grey values mean what those of the input mean; otherwise they are not compared.

    Raises
    ------
    InputError
        ``input.changed``, or the input cannot be opened.

    Attributes
    ----------
    window : tuple of float
        The data window: percentiles 1 and 99 of a sample of the input.
    chunks, blank : int
        Chunks of the output that were looked at, and those of one value.
    lost : Places
        Blank chunks where the input is not: its standard deviation there, in data windows.
    strange : Places
        Blocks with values that are NaN or infinite, and their number.
    unreadable : Places
        Blocks that cannot be read.
    ends : numpy.ndarray, shape (2, 3)
        Of output and input: voxels, those at the least and those at the greatest value of the data type.
    histograms : numpy.ndarray of int64, shape (2, BINS)
        Of output and input: means of granules.
    sections : numpy.ndarray of float64, shape (2, 2, sections)
        Of output and input: sum and number of the voxels of each section.
    jumps : Places
        Neighbouring sections of a region: by how much more the output's means differ than the input's, in data windows.
    seams : tuple of Seams
        Along z, y, x.
    """

    def __init__(self, plan: Plan, done: NDArray[np.bool_], *, alike: bool) -> None:
        self.plan, self.done, self.alike = plan, done, alike
        self.source = _open_input(plan)
        self.written = [open_volume(volume.url) for volume in volumes_of(plan)]
        self.chunks = self.blank = 0
        self.lost, self.strange, self.unreadable, self.jumps = Places(), Places(), Places(), Places()
        self.ends = np.zeros((2, 3), np.int64)
        self.histograms = np.zeros((2, BINS), np.int64)
        self.sections = [np.zeros((2, shape[0])) for shape in (plan.spec.box.shape, plan.input_shape)]
        self.seams = tuple(Seams(plan.spec.levels[0].chunk) for _ in range(3))
        self.window = self._window()
        self._made, self._of = _steps(plan, GRANULE)

    @property
    def span(self) -> float:
        """The data window, in grey values."""
        return self.window[1] - self.window[0]

    def add(self, region: Region) -> None:
        """Look at all voxels of a region, and at its borders with those before it that are done."""
        for number, channel in enumerate(self.plan.spec.output_channels(region.channel)):
            outputs = self.plan.spec.outputs
            grey = not outputs or outputs[number].values == "grey"
            self._look(region, channel, compare=self.alike and grey)
            if self.alike and grey:
                self._cross(region, channel)

    def distance(self) -> float:
        """Return the mean distance of the two distributions of granules' means, in data windows (Wasserstein's)."""
        shares = [np.cumsum(each) / max(1, each.sum()) for each in self.histograms]
        return float(np.abs(shares[0] - shares[1]).sum() * 3 / BINS)

    def saturated(self) -> tuple[float, float]:
        """Return the share of voxels at the ends of the data type: of the output, and of the input."""
        made, given = (float(each[1:].sum() / max(1, each[0])) for each in self.ends)
        return made, given

    def in_input(self, box: Box) -> Box:
        """Return the voxels of the input of which voxels of the output are made."""
        return self.plan.in_input(box.shifted(self.plan.spec.origin)).intersection(Box.whole(self.plan.input_shape))

    def _window(self) -> tuple[float, float]:
        """Return percentiles 1 and 99 of the input in the middle of some regions."""
        samples = []
        grid = self.plan.grid
        for number in range(0, grid.count, max(1, -(-grid.count // SAMPLED))):
            region = grid.region(number)
            box = self.in_input(region.box)
            middle = (box.start[0] + box.stop[0]) // 2
            thin = Box((middle, *box.start[1:]), (middle + 1, *box.stop[1:]))
            thin = next(cut(thin, (1, GRANULE, GRANULE), PIECE))
            values = self._input(region.channel)(thin)
            samples.append(values[self._known(region.channel, thin, values)])
        low, high = np.percentile(np.concatenate(samples) if any(map(len, samples)) else [0.0], (1, 99)).tolist()
        if high > low:
            return low, high
        limits = np.iinfo(self.source.dtype) if self.source.dtype.kind in "iu" else None  # all of the sample is blank
        return (low, low + 1) if limits is None else (limits.min, limits.max)

    def _output(self, channel: int) -> ts.TensorStore:
        """Open a channel, counted over all volumes of the job."""
        number, own = self.plan.spec.stored(channel)
        return self.written[number].open(0, own)

    def _input(self, channel: int) -> Callable[[Box], NDArray[Any]]:
        return partial(read_voxels, self.source.open(self.plan.job.level, channel), what="input")

    def _look(self, region: Region, channel: int, *, compare: bool) -> None:
        output, source = self._output(channel), self._input(region.channel)
        boxes, spec = (region.box, self.in_input(region.box)), self.plan.spec
        factor = total_factor(spec.levels, spec.level_of(channel))  # the voxels of a trust volume may be larger
        sums = [np.zeros((2, box.shape[0])) for box in boxes]  # (2, z): sum and number of each section's voxels
        for block in cut(region.box, spec.levels[0].chunk, AT_ONCE):
            try:
                voxels = read_voxels(output, block.coarsened(factor), "output")
            except DataError:
                self.unreadable.add(1.0, block)
                continue
            valid = valid_voxels(voxels, spec.nodata_of(channel))
            if (wrong := int(np.count_nonzero(valid & ~np.isfinite(voxels)))) > 0:
                self.strange.add(wrong, block)
            if not compare:
                continue
            inside = self.in_input(block)
            given = source(inside)
            there = self._known(region.channel, inside, given)
            self._find_blank(block, voxels, given, there)
            known, looked = [], ((block, voxels, valid & np.isfinite(voxels)), (inside, given, there))
            for number, (box, values, good) in enumerate(looked):
                self._count_ends(number, values, good)
                known.append(np.where(good, values, np.float32(np.nan)))
                total = np.nansum(known[-1], axis=(1, 2), dtype=np.float64)
                z = slice(box.start[0] - boxes[number].start[0], box.stop[0] - boxes[number].start[0])
                sums[number][:, z] += np.array([total, good.sum(axis=(1, 2))])  # (z, y, x) -> (2, z)
            self._compare(block, *known)
        if compare:
            self._find_jumps(region, sums)

    def _find_blank(self, block: Box, voxels: NDArray[Any], given: NDArray[Any], there: NDArray[np.bool_]) -> None:
        """Find chunks of one value, and those of them where the input has structure."""
        inside = self.in_input(block)
        chunk = self.plan.spec.levels[0].chunk
        for box in cut(block, chunk, 1):
            part = voxels[box.shifted(_back(block)).slices]
            self.chunks += 1
            first = part.flat[0]
            if not (part == first).all():
                continue
            self.blank += 1
            under = self.in_input(box).shifted(_back(inside)).slices
            values = given[under][there[under]].astype(np.float64)
            spread = float(values.std()) / self.span if values.size else 0.0
            if spread > STRUCTURE:
                self.lost.add(spread, box)

    def _count_ends(self, number: int, values: NDArray[Any], good: NDArray[np.bool_]) -> None:
        if values.dtype.kind in "iu":
            limits = np.iinfo(values.dtype)
            ends = [int(np.count_nonzero(good & (values == end))) for end in (limits.min, limits.max)]
            self.ends[number] += [int(good.sum()), *ends]

    def _compare(self, block: Box, voxels: NDArray[Any], given: NDArray[Any]) -> None:
        """Add the means of the granules that lie in a block as a whole to the histograms."""
        full, inside = block.shifted(self.plan.spec.origin), self.in_input(block)
        start = [-(-low // step) for low, step in zip(full.start, self._made, strict=True)]
        stop = [high // step for high, step in zip(full.stop, self._made, strict=True)]
        if any(high <= low for low, high in zip(start, stop, strict=True)):
            return
        granules = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        made = voxels[granules.enlarged(self._made).shifted(_back(full)).slices]
        of = given[granules.enlarged(self._of).shifted(_back(inside)).slices]
        means = [_means(made, self._made), _means(of, self._of)]  # (granules along z, y, x) each
        both = np.isfinite(means[0]) & np.isfinite(means[1])
        for number, each in enumerate(means):
            place = (each[both] - self.window[0] + self.span) / (3 * self.span) * BINS
            self.histograms[number] += np.bincount(np.clip(place, 0, BINS - 1).astype(np.int64), minlength=BINS)

    def _find_jumps(self, region: Region, sums: list[NDArray[np.float64]]) -> None:
        """Find neighbouring sections that differ more than those of the input that they are made of."""
        inside = self.in_input(region.box)
        self.sections[0][:, region.box.start[0] : region.box.stop[0]] += sums[0]
        self.sections[1][:, inside.start[0] : inside.stop[0]] += sums[1]
        made, given = (_section_means(each) / self.span for each in sums)
        there = np.abs(np.diff(given, prepend=given[:1], append=given[-1:]))  # (sections + 1,): before each, after the last
        for z, step in enumerate(np.abs(np.diff(made)), start=region.box.start[0]):
            both = Box((z, *region.box.start[1:]), (z + 2, *region.box.stop[1:]))
            below = self.in_input(both)
            allowed = there[below.start[0] - inside.start[0] : below.stop[0] - inside.start[0] + 1].max()
            if np.isfinite(step) and np.isfinite(allowed):
                self.jumps.add(float(step - allowed), both)

    def _cross(self, region: Region, channel: int) -> None:
        """Look at the borders of a region with those before it, where they lie between voxels of the input."""
        output, source = self._output(channel), self._input(region.channel)
        spec = self.plan.spec

        def voxels(box: Box) -> NDArray[np.float64]:
            values = read_voxels(output, box, "output")
            return np.where(valid_voxels(values, spec.nodata_of(channel)), values / self.span, np.nan)

        def given(box: Box) -> NDArray[np.float64]:
            inside = self.in_input(box)
            values = source(inside)
            return np.where(self._known(region.channel, inside, values), values / self.span, np.nan)

        _, along_y, along_x = self.plan.grid.grid
        for axis, (seams, period) in enumerate(zip(self.seams, _steps(self.plan, 1)[0], strict=True)):
            start = region.box.start[axis]
            before = region.index - (along_y * along_x, along_x, 1)[axis]
            if start == 0 or (start + spec.origin[axis]) % period or not self.done[before]:
                continue
            try:
                seams.add(axis, region.box, period, voxels, given)
            except DataError:
                self.unreadable.add(1.0, region.box)

    def _known(self, channel: int, box: Box, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which voxels of the input have data, and lie in sections that nothing stands in for."""
        known: NDArray[np.bool_] = valid_voxels(values, self.plan.first.nodata) & np.isfinite(values)
        repair = self.plan.first.repair
        if repair is not None and repair.mode != "leave":
            known[[repair.touches(channel, z, z + 1) for z in range(box.start[0], box.stop[0])]] = False
        return known


def _open_input(plan: Plan) -> Volume:
    volume = open_volume(plan.job.input, voxel_size=plan.job.voxel_size)
    if volume.identity_of(plan.job.level) != plan.first.input:
        raise InputError(
            "input.changed",
            f"{plan.job.input} is another volume than the one that {plan.output} was made of: its metadata differ",
            hint="bring that volume back; without it the output cannot be compared with its input",
            where=plan.job.input,
        )
    return volume


def _steps(plan: Plan, side: int) -> tuple[Triple, Triple]:
    """Return the size of squares of about `side` voxels of the input, in voxels of the full output and of the input."""
    made, of = [], []
    for axis, least in enumerate((1, side, side)):
        scale = plan.scale[axis]
        shrink = math.prod(spec.lattice.shrink[axis] for _, _, spec in plan.operations)
        common = math.gcd(scale, shrink)
        times = -(-least * common // shrink)
        made.append(times * scale // common)
        of.append(times * shrink // common)
    return (made[0], made[1], made[2]), (of[0], of[1], of[2])


def _means(voxels: NDArray[Any], step: Triple) -> NDArray[np.float64]:
    """Return the means over whole blocks; NaN where a voxel is."""
    z, y, x = (n // size for n, size in zip(voxels.shape, step, strict=True))
    blocks = voxels.reshape(z, step[0], y, step[1], x, step[2])  # (z, y, x) -> (z, fz, y, fy, x, fx)
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3, 5), dtype=np.float64)
    return means


def _section_means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means from sums and numbers, shape (2, sections); NaN where there is no voxel."""
    means: NDArray[np.float64] = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan)
    return means


def _back(box: Box) -> Triple:
    return -box.start[0], -box.start[1], -box.start[2]
