"""Matching of histograms: each section gets the grey values of other sections, by counts of all of its voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple
from volumetool.models.card import HistogramMatching
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.filter import Filter, check_odd
from volumetool.processing.sections.curves import GreyCurves
from volumetool.processing.sections.tiles import Tiles, read_tiles
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import valid_voxels
from volumetool.units import show_bytes

MOST_CURVES = 2**28
"""Bytes of all curves of a plan: 65,536 sections of 8 bit in full, 1,024 of 16 bit."""

AT_ONCE = 2**24
"""Voxels that are counted at once, unless chunks are larger."""


Counted = tuple[int, NDArray[np.int64]]
"""The counts of the grey values of a section, without those at the ends that do not occur, and the place of the first."""


class Match(Filter):
    """Match the histogram of each section to that of all sections, of those around it, or of one; all voxels are counted."""

    kind: ClassVar[str] = "match"
    span: Annotated[int, Field(ge=3, le=9999), AfterValidator(check_odd)] | None = None
    """Sections around each whose voxels together are the reference, odd, 3 to 9999; fewer at the ends of the volume."""
    section: int | None = Field(None, ge=0)
    """The section that is the reference for all, from 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.span is not None and self.section is not None:
            raise ValueError(f"span={self.span} and section={self.section} are two references; give one")
        return self

    @property
    def matching(self) -> HistogramMatching:
        """The reference."""
        return HistogramMatching(span=self.span or 0, section=self.section)

    @property
    def reach(self) -> Triple:
        """None: the curves are in the plan."""
        return 0, 0, 0

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the values as they are: the curves are applied when they are rounded."""
        return xp.asarray(patches)


def fit_curves(
    volume: Volume,
    level: int,
    matching: HistogramMatching,
    nodata: float | None,
    counted: Callable[[int], None],
    tiles: Callable[[Volume, int, int], Tiles] = read_tiles,
) -> GreyCurves:
    """Count the grey values of all sections, and return the curves by which they become those of their references.

    The arithmetic is that of ``skimage.exposure.match_histograms``: a grey value becomes the one at which the reference has as
    large a share of voxels at or below it, linear between the values that the reference holds. A section of one grey value
    stays as it is, and so does one whose reference holds no voxel.

    Parameters
    ----------
    volume : Volume
        The volume; whole numbers of at most 16 bit.
    level : int
        The level that is counted.
    matching : HistogramMatching
        What each section is matched to.
    nodata : float or None
        Value that is not counted.
    counted : callable
        Told how many voxels more were counted.
    tiles : callable, optional
        Returns what reads the voxels of a level and a channel, as `read_tiles` does.

    Raises
    ------
    ConfigError
        ``config.histograms``: the type of the volume has too many values, its sections are too many, or there is no such
        section.
    """
    sections = volume.levels[level].shape[0]
    if volume.dtype.kind not in "iu" or volume.dtype.itemsize > 2:
        raise ConfigError(
            "config.histograms",
            f"histograms are matched of whole numbers of at most 16 bit, and the volume is {volume.dtype}",
            hint="cast it first, with `volumetool apply cast --dtype uint16`; or match percentiles, with equalise",
        )
    if matching.section is not None and matching.section >= sections:
        raise ConfigError(
            "config.histograms",
            f"section={matching.section}: the volume has the sections 0 to {sections - 1}",
            hint="name one of them",
        )
    lowest, found = int(np.iinfo(volume.dtype).min), list[Counted]()
    channels, spans = volume.channels or 1, list[tuple[int, int]]()
    for channel in range(channels):
        for block in _counts(volume, level, tiles(volume, level, channel), nodata, counted):
            found += block
            spans += [(start, start + len(counts)) for start, counts in block if len(counts)]
            spans = [_range(spans, channels * sections)] if spans else []
    first, last = spans[0] if spans else (0, 1)
    table = np.empty((channels, sections, last - first), np.float32)
    for number, curves in enumerate(table):
        counts = np.zeros(curves.shape, np.int64)  # (sections, values)
        for section, (start, some) in zip(counts, found[number * sections : (number + 1) * sections], strict=True):
            section[start - first : start - first + len(some)] = some
        _match(counts, matching, curves, first + lowest)
    return GreyCurves(first=first + lowest, table=table)


def _range(spans: list[tuple[int, int]], sections: int) -> tuple[int, int]:
    """Return the range that holds some ranges of values; refuse one for which curves are more than a plan holds."""
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    if (size := 4 * sections * (last - first)) > MOST_CURVES:
        raise ConfigError(
            "config.histograms",
            f"curves of {sections} sections of {last - first} grey values or more take {show_bytes(size)}, of at most "
            f"{show_bytes(MOST_CURVES)}",
            hint="make 8 bit of the volume first, with `volumetool apply rescale --set window=LOW,HIGH --dtype uint8`; or "
            "match percentiles, with equalise",
        )
    return first, last


def _counts(
    volume: Volume, level: int, read: Tiles, nodata: float | None, counted: Callable[[int], None]
) -> Iterator[list[Counted]]:
    """Yield the counts of grey values of the next sections."""
    limits, grid = np.iinfo(volume.dtype), volume.levels[level]
    for boxes in _blocks(grid.shape, grid.chunk):
        start, stop = boxes[0].start[0], boxes[0].stop[0]
        counts = np.zeros((stop - start, int(limits.max) - int(limits.min) + 1), np.int64)  # (z, values)
        for box in boxes:
            for _, voxels in read([box]):
                for section, each in zip(counts, voxels, strict=True):
                    section += _histogram(each, nodata, len(section), int(limits.min))
            counted(box.voxels)
        yield [_trimmed(section) for section in counts]


def _trimmed(counts: NDArray[np.int64]) -> Counted:
    held = np.flatnonzero(counts)  # (values that occur,)
    first, last = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 0)
    return first, counts[first:last].copy()


def _histogram(section: NDArray[Any], nodata: float | None, values: int, lowest: int) -> NDArray[np.intp]:
    counted = section[valid_voxels(section, nodata)]  # (y, x) -> (voxels,)
    return np.bincount(counted.astype(np.intp) - lowest, minlength=values)


def _blocks(shape: Triple, chunk: Triple) -> Iterator[list[Box]]:
    """Yield boxes that together hold some sections whole; each holds whole chunks, and no more voxels than it must."""
    depth = min(chunk[0], shape[0])
    columns = _whole(AT_ONCE // (depth * chunk[1]), chunk[2])
    rows = _whole(AT_ONCE // (depth * min(columns, shape[2])), chunk[1])
    for z in range(0, shape[0], depth):
        far = min(z + depth, shape[0])
        yield [
            Box((z, y, x), (far, min(y + rows, shape[1]), min(x + columns, shape[2])))
            for y in range(0, shape[1], rows)
            for x in range(0, shape[2], columns)
        ]


def _whole(length: int, chunk: int) -> int:
    return max(1, length // chunk) * chunk


def _match(counts: NDArray[np.int64], matching: HistogramMatching, curves: NDArray[np.float32], first: int) -> None:
    """Fill the curves of sections from their counts; both (sections, values), of which the first is a grey value."""
    sums = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), np.cumsum(counts, axis=0)])  # (sections + 1, values)
    values, half = np.arange(first, first + counts.shape[1]), matching.span // 2
    for z, own in enumerate(counts):
        low, high = (max(0, z - half), min(len(counts), z + half + 1)) if matching.span else (0, len(counts))
        around = sums[high] - sums[low] if matching.section is None else counts[matching.section]  # (values,)
        held = np.flatnonzero(around)
        if np.count_nonzero(own) < 2 or not len(held):
            curves[z] = values
            continue
        shares = np.cumsum(around[held]) / around.sum()  # (values that the reference holds,)
        curves[z] = np.interp(np.cumsum(own) / own.sum(), shares, values[held])
