"""Looking at all sections: whole where they are small or the volume has coarse levels, else at the middle of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import DataError
from volumetool.geometry import Box, Triple
from volumetool.processing.sections.judge import SectionJudge
from volumetool.processing.sections.measure import SectionMeter
from volumetool.processing.sections.quality import FIGURES, SectionQuality, Verdict
from volumetool.processing.statistics import BLOCK, WHOLE_SECTION
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels, valid_voxels

_log = logging.getLogger(__name__)

MOST_SEEN = 2**18
"""Voxels of a section that are looked at, where it is not read whole for the statistics."""

MIDDLE, FINE_MIDDLE = 512, 256
"""Sides of the squares in the middle of a section: looked at where no level is coarse enough; for noise and sharpness."""


class SectionView:
    """Looks at the sections of a volume, and judges them.

    Parameters
    ----------
    volume : Volume
        The volume.
    level : int
        Its level that is enhanced.
    nodata : float, optional
        Value of voxels without data.
    """

    def __init__(self, volume: Volume, level: int, nodata: float | None) -> None:
        self._volume, self._level, self._nodata = volume, level, nodata
        self._shape = volume.levels[level].shape
        self._meters = [SectionMeter() for _ in range(volume.channels or 1)]
        self.sampled = self._shape[1] * self._shape[2] <= WHOLE_SECTION
        self._seen = "whole"

    @property
    def complete(self) -> bool:
        """Whether sections were looked at; some may be unreadable."""
        return all(meter.looked for meter in self._meters)

    def add(self, channel: int, box: Box, voxels: NDArray[Any]) -> None:
        """Take in whole sections that were read for the statistics.

        Parameters
        ----------
        channel : int
            Their channel.
        box : Box
            Where they lie.
        voxels : numpy.ndarray, shape of the box
            Their voxels.
        """
        valid = valid_voxels(voxels, self._nodata) & np.isfinite(voxels)
        fine = _middle(voxels.shape[1:], FINE_MIDDLE)
        self._meters[channel].looked = True
        for n, section in enumerate(voxels):
            self._meters[channel].add(box.start[0] + n, section, valid[n], section[fine])

    def read(self, told: Callable[[int, int], None]) -> None:
        """Look at all sections, where they were not read whole for the statistics.

        Parameters
        ----------
        told : callable
            Told how many sections of how many were looked at.
        """
        level, cut, self._seen = self._overview()
        depth, height, _ = self._volume.levels[level].shape
        for channel, meter in enumerate(self._meters):
            coarse, fine = (self._volume.open(each, channel) for each in (level, self._level))
            for start in range(0, depth, BLOCK):
                stop = min(start + BLOCK, depth)
                try:
                    overview = read_voxels(coarse, _box(start, stop, cut), "input")  # (z, y, x)
                    middles = read_voxels(fine, _box(start, stop, _middle(self._shape[1:], FINE_MIDDLE)), "input")  # (z, y, x)
                except DataError as error:
                    _log.warning("sections %d to %d cannot be read and are not judged: %s", start, stop - 1, error.message)
                    continue
                valid = valid_voxels(overview, self._nodata) & np.isfinite(overview)
                for n, section in enumerate(overview):
                    meter.add(start + n, section, valid[n], middles[n], round(self._shape[1] / height))
                told(channel * depth + stop, len(self._meters) * depth)
            meter.looked = True

    def _overview(self) -> tuple[int, tuple[slice, slice], str]:
        """Return the level that is looked at, which part of its sections, and both in words."""
        shapes = [each.shape for each in self._volume.levels]
        alike = [n for n in range(self._level, len(shapes)) if shapes[n][0] == self._shape[0]]
        small = [self._level] if self.sampled else [n for n in alike if shapes[n][1] * shapes[n][2] <= MOST_SEEN]
        if small:
            _, height, width = shapes[small[0]]
            return (
                small[0],
                (slice(0, height), slice(0, width)),
                "whole" if small[0] == self._level else f"whole, on level {small[0]}",
            )
        cut = _middle(shapes[alike[-1]][1:], MIDDLE)
        sides = " x ".join(str(part.stop - part.start) for part in cut)
        return alike[-1], cut, f"the middle {sides} voxels of level {alike[-1]}"

    @property
    def quality(self) -> SectionQuality:
        """What the sections are like."""
        depth = self._shape[0]
        figures = {name: np.zeros((len(self._meters), depth)) for name in FIGURES}
        verdicts: list[tuple[Verdict, ...]] = []
        for channel, meter in enumerate(self._meters):
            judge = SectionJudge(meter.found)
            bad = judge.verdicts()
            verdicts.append(tuple(bad.get(z, "ok") for z in range(depth)))
            for z, measured in meter.found.items():
                y, x, _, correlation = judge.displacement(z, [other for other in bad if other != z])
                for name, value in zip(FIGURES, (measured.noise, measured.sharpness, y, x, correlation), strict=True):
                    figures[name][channel, z] = round(value, 3) + 0.0  # no -0.0
        return SectionQuality.of(tuple(verdicts), figures, self._seen)


def _middle(shape: Sequence[int], side: int) -> tuple[slice, slice]:
    y, x = (slice(max(0, (n - side) // 2), min(n, (n - side) // 2 + side)) for n in shape)
    return y, x


def _box(start: int, stop: int, cut: tuple[slice, slice]) -> Box:
    first: Triple = (start, cut[0].start, cut[1].start)
    return Box(first, (stop, cut[0].stop, cut[1].stop))
