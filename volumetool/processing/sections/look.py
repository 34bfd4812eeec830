"""Looking at all sections: whole where they are small or the volume has coarse levels, else at the middle of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
        for n, section in enumerate(voxels):
            self._meters[channel].add(box.start[0] + n, section, valid[n], section[fine])

    def read(self, told: Callable[[int, int], None]) -> None:
        """Look at all sections, where they are too large to be read whole for the statistics.

        Parameters
        ----------
        told : callable
            Told channel and number of sections that were looked at.
        """
        level = self._overview_level()
        shape = self._volume.levels[level].shape
        step = round(self._shape[1] / shape[1])
        cut = _middle(shape[1:], MIDDLE) if shape[1] * shape[2] > MOST_SEEN else (slice(0, shape[1]), slice(0, shape[2]))
        middle = " x ".join(str(part.stop - part.start) for part in cut)
        self._seen = (
            f"whole, on level {level}" if cut[0].start == cut[1].start == 0 else f"the middle {middle} voxels of level {level}"
        )
        for channel in range(len(self._meters)):
            whole, fine = (self._volume.open(each, channel) for each in (level, self._level))
            for start in range(0, shape[0], BLOCK):
                stop = min(start + BLOCK, shape[0])
                try:
                    overview = read_voxels(whole, _box(start, stop, cut), "input")  # (z, y, x)
                    middles = read_voxels(fine, _box(start, stop, _middle(self._shape[1:], FINE_MIDDLE)), "input")  # (z, y, x)
                except DataError as error:
                    _log.warning("sections %d to %d cannot be read and are not judged: %s", start, stop - 1, error.message)
                    continue
                valid = valid_voxels(overview, self._nodata) & np.isfinite(overview)
                for n, section in enumerate(overview):
                    self._meters[channel].add(start + n, section, valid[n], middles[n], step)
                told(channel, stop)

    def _overview_level(self) -> int:
        """Return the first level from the enhanced one on with as many sections, none larger than `MOST_SEEN`; or the last."""
        alike = [n for n, each in enumerate(self._volume.levels) if n >= self._level and each.shape[0] == self._shape[0]]
        small = [n for n in alike if self._volume.levels[n].shape[1] * self._volume.levels[n].shape[2] <= MOST_SEEN]
        return small[0] if small else alike[-1]

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


def _middle(shape: tuple[int, ...], side: int) -> tuple[slice, slice]:
    y, x = (slice(max(0, (n - side) // 2), min(n, (n - side) // 2 + side)) for n in shape)
    return y, x


def _box(start: int, stop: int, cut: tuple[slice, slice]) -> Box:
    first: Triple = (start, cut[0].start, cut[1].start)
    return Box(first, (stop, cut[0].stop, cut[1].stop))
