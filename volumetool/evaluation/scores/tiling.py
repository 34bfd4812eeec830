"""Tiles: how sections of any size pass through a bounded memory, and how every method restores a tile.

A tile owns a rectangle of a section and sees `HALO` voxels more on each side, as far as the section goes. Windows of SSIM and
of all scales of MS-SSIM that are centred in its rectangle lie inside what it sees, so that sums over tiles are the sums over
the section.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.evaluation.baselines import METHODS, Method, Strength, filtered
from volumetool.evaluation.network import Network
from volumetool.evaluation.scores.align import Matched
from volumetool.evaluation.scores.metrics import as_stored
from volumetool.evaluation.scores.resample import Floats, enlarge, taps
from volumetool.geometry import Box

TILE = 1024
"""Side of what a tile owns, in voxels; a multiple of 16, the coarsest pixel of MS-SSIM."""

HALO = 96
"""Voxels seen beyond it: 6 pixels of the coarsest scale, where windows reach 5."""

MARGIN = 16
"""Coarse voxels that classical filters see beyond a tile. Filters that look farther see the tile's edge."""

KEPT_BYTES = 2**28
"""Filtered coarse tiles, and those of a network, that the second pass finds again."""


@dataclass(frozen=True)
class Tile:
    """A part of one section.

    Attributes
    ----------
    number : int
        Index of the section among the evaluated ones, from 0.
    owned, seen : Box
        Voxels of the truth, one section deep.
    """

    number: int
    owned: Box
    seen: Box


def cut_tiles(box: Box, sections: Sequence[int]) -> Iterator[Tile]:
    """Cut sections of a box, given by their z, into tiles."""
    (_, top, left), (_, bottom, right) = box.start, box.stop
    for number, z in enumerate(sections):
        for y in range(top, bottom, TILE):
            for x in range(left, right, TILE):
                owned = Box((z, y, x), (z + 1, min(y + TILE, bottom), min(x + TILE, right)))
                start = (z, max(top, y - HALO), max(left, x - HALO))
                stop = (z + 1, min(bottom, owned.stop[1] + HALO), min(right, owned.stop[2] + HALO))
                yield Tile(number, owned, Box(start, stop))


def spread_sections(box: Box, count: int) -> list[int]:
    """Return the z of at most `count` sections, evenly spread over the box: the middle of each of `count` equal parts."""
    depth = box.shape[0]
    count = min(count, depth)
    return [box.start[0] + (2 * number + 1) * depth // (2 * count) for number in range(count)]


class Restorer:
    """Gives any row of the table for any tile.

    Parameters
    ----------
    matched : Matched
        The volumes to read.
    strengths : mapping
        Strength of the filter by name of the classical method; a method that is not named has its default.
    network : Network, optional
        A network that gives one more row, under its name.
    """

    def __init__(
        self, matched: Matched, strengths: Mapping[str, Strength] | None = None, network: Network | None = None
    ) -> None:
        self._matched = matched
        self._network = network
        self._strengths = dict(strengths or {})
        self._kept: OrderedDict[tuple[str, Box], Floats] = OrderedDict()
        self._bytes = 0

    def section(self, name: str, seen: Box) -> NDArray[Any]:
        """Return what a row shows in a box one section deep, as (y, x) in the dtype of the truth.

        Parameters
        ----------
        name : str
            ``"restored"``, ``"second"``, ``"truth"``, a classical method or the network's.
        seen : Box
            Voxels of the truth.
        """
        if self._network is not None and name == self._network.name:
            (sigma,) = self._strengths.get(name, self._network.strength)
            grey = self._keep((name, seen), partial(self._network.restore, seen, sigma))[0]
            return as_stored(grey, self._matched.volumes.truth.dtype)
        if name not in METHODS:
            section: NDArray[Any] = self._matched.read(name, seen)[0]  # (y, x)
            return section
        return as_stored(self.grey(METHODS[name], seen), self._matched.volumes.truth.dtype)

    def grey(self, method: Method, seen: Box) -> Floats:
        """Return a classical method's float32 (y, x) grey values in a box one section deep, neither clipped nor rounded."""
        low, scale = self._matched.volumes.low, self._matched.scale
        assert low is not None  # noqa: S101  (rows of classical methods exist only with a low-resolution volume)
        assert scale is not None  # noqa: S101
        coarse = seen.coarsened(scale)
        start = (coarse.start[0], coarse.start[1] - MARGIN, coarse.start[2] - MARGIN)
        stop = (coarse.stop[0], coarse.stop[1] + MARGIN, coarse.stop[2] + MARGIN)
        around = Box(start, stop).intersection(Box.whole(low.shape))
        plane = self._between(method, around, seen.start[0] % scale[0])  # (y, x) coarse, with the margin
        fine = enlarge(plane, scale[1:], method.kind)  # (y*fy, x*fx)
        y, x = (a - b * f for a, b, f in zip(seen.start[1:], around.start[1:], scale[1:], strict=True))
        return fine[y : y + seen.shape[1], x : x + seen.shape[2]]  # (y, x) of the box

    def _between(self, method: Method, around: Box, phase: int) -> Floats:
        """Interpolate filtered coarse sections along z, as the method does in plane."""
        scale, low = self._matched.scale, self._matched.volumes.low
        assert scale is not None  # noqa: S101
        assert low is not None  # noqa: S101
        offsets, weights = taps(scale[0], method.kind) if scale[0] > 1 else (np.zeros((1, 1), np.intp), np.ones((1, 1)))
        mixed = np.zeros(around.shape[1:], np.float32)
        for offset, weight in zip(offsets[phase].tolist(), weights[phase].tolist(), strict=True):
            z = min(max(around.start[0] + offset, 0), low.shape[0] - 1)
            mixed += np.float32(weight) * self._filtered(method, Box((z, *around.start[1:]), (z + 1, *around.stop[1:])))
        return mixed

    def _filtered(self, method: Method, box: Box) -> Floats:
        if method.filter is None:
            coarse: Floats = self._matched.read("low", box)[0].astype(np.float32)  # (y, x)
            return coarse
        strength = self._strengths.get(method.name, ())
        return self._keep((method.name, box), lambda: filtered(method, self._matched.read_low(box, method.reach), strength))

    def _keep(self, key: tuple[str, Box], make: Callable[[], Floats]) -> Floats:
        if key not in self._kept:
            found = make()
            self._kept[key] = found
            self._bytes += found.nbytes
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]
