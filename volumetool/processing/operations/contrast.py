"""Filters of grey values: contrast, windows, thresholds."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field
from scipy import ndimage

from volumetool.configuration import Rising, parse_numbers
from volumetool.geometry import Triple
from volumetool.models.card import Normalisation
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.filter import DATA_WINDOW, Filter, check_odd

TRUNCATE = 4.0
"""Standard deviations after which the Gaussian of `Tissue` ends."""

BINS = 256
"""Bins of the histograms of `Clahe`."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[tuple[Finite, Finite], BeforeValidator(parse_numbers)]


class Rescale(Filter):
    """Map a window of grey values to another one, and cut what lies outside."""

    kind: ClassVar[str] = "rescale"
    spares: ClassVar[bool] = False
    pointwise: ClassVar[bool] = True
    window: Rising
    """Least and greatest value of the input."""
    to: Pair = (0.0, 255.0)
    """The values that they become."""

    @property
    def reach(self) -> Triple:
        """None."""
        return 0, 0, 0

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the mapped values."""
        (low, high), (first, last) = self.window, self.to
        parts = (xp.clip(xp.asarray(patches), low, high) - np.float32(low)) / np.float32(high - low)  # 0 to 1
        return parts * np.float32(last - first) + np.float32(first)


class Threshold(Filter):
    """Make a mask: 1 from a grey value on, 0 below it."""

    kind: ClassVar[str] = "threshold"
    spares: ClassVar[bool] = False
    pointwise: ClassVar[bool] = True
    value: Finite
    """Least grey value inside the mask."""

    @property
    def reach(self) -> Triple:
        """None."""
        return 0, 0, 0

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return 0 and 1."""
        return (xp.asarray(patches) >= np.float32(self.value)).astype(np.float32)


class Tissue(Filter):
    """Make a mask of what has structure, section by section: 1 in tissue, 0 in resin and other blank parts."""

    kind: ClassVar[str] = "tissue"
    spares: ClassVar[bool] = False
    deviation: float = Field(gt=0, allow_inf_nan=False)
    """Least standard deviation of the grey values around a voxel of tissue, in grey values."""
    sigma: float = Field(8.0, ge=1, le=32)
    """How far around: standard deviation of a Gaussian in voxels, 1 to 32."""

    @property
    def reach(self) -> Triple:
        """Half a kernel."""
        half = int(TRUNCATE * self.sigma + 0.5)
        return 0, half, half

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return 0 and 1."""
        values, around = patches.astype(np.float64), (0, 0, self.sigma, self.sigma)  # squares of 16 bits need 64
        mean, square = (ndimage.gaussian_filter(each, around, truncate=TRUNCATE) for each in (values, values**2))
        return xp.asarray((square - mean**2 >= self.deviation**2).astype(np.float32))  # (n, z, y, x)


class CastValues(Filter):
    """Keep grey values, rounded and cut to another data type: --dtype says which."""

    kind: ClassVar[str] = "cast"

    @property
    def reach(self) -> Triple:
        """None."""
        return 0, 0, 0

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the values."""
        return xp.asarray(patches)


class Equalise(Filter):
    """Give all sections the same contrast, or that of the sections around them: the 1st and 99th percentiles are matched."""

    kind: ClassVar[str] = "equalise"
    normalisation: ClassVar[Normalisation] = DATA_WINDOW
    equalises: ClassVar[bool] = True
    span: Annotated[int, Field(ge=3, le=9999), AfterValidator(check_odd)] | None = None
    """Sections of a running reference, odd, 3 to 9999: percentiles become the median of those of so many sections around; by
    default of all sections."""

    @property
    def reference(self) -> int:
        """The span."""
        return self.span or 0

    @property
    def reach(self) -> Triple:
        """None: the percentiles are in the plan's table of sections."""
        return 0, 0, 0

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the values as they are: the scaling before and after does it."""
        return xp.asarray(patches)


class Clahe(Filter):
    """Even out contrast by place, section by section: contrast-limited adaptive histogram equalisation.

    Each voxel gets its rank in the histogram of its tile, interpolated between the four nearest tiles (Zuiderveld, Graphics
    Gems IV, 1994). Tiles are counted from the volume's origin, and 0 and 1 of the histograms are the section's percentiles, so
    no tile depends on how the volume is cut.
    """

    kind: ClassVar[str] = "clahe"
    normalisation: ClassVar[Normalisation] = DATA_WINDOW
    tile: int = Field(64, ge=8, le=256, multiple_of=2)
    """Side of a tile in voxels, even, 8 to 256."""
    clip: float = Field(2.0, ge=1, le=100)
    """How often a bin may be filled, in times of a flat histogram, 1 to 100; 1 changes nothing but the range."""

    @property
    def reach(self) -> Triple:
        """To the far edge of the next tile."""
        return 0, self.tile, self.tile

    @property
    def granularity(self) -> Triple:
        """The tiles."""
        return 1, self.tile, self.tile

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the ranks, interpolated between tiles."""
        ranks = [self._section(section) for section in patches.reshape(-1, *patches.shape[2:])]
        return xp.asarray(np.stack(ranks).reshape(patches.shape))  # (n, z, y, x)

    def _section(self, section: NDArray[np.float32]) -> NDArray[np.float32]:
        tile, (height, width) = self.tile, section.shape
        bins = np.clip(section * BINS, 0, BINS - 1).astype(np.intp)  # (y, x)
        rows, columns = height // tile, width // tile
        tiles = bins.reshape(rows, tile, columns, tile).swapaxes(1, 2).reshape(rows, columns, -1)  # (rows, columns, n)
        curves = np.empty((rows, columns, BINS), np.float32)
        for row, column in np.ndindex(rows, columns):
            curves[row, column] = self._curve(np.bincount(tiles[row, column], minlength=BINS))
        # Centres of tiles lie at (k + 1/2) * tile; beyond the outer ones there is no second tile to go to.
        y0, y1, fy = _between(height, tile)
        x0, x1, fx = _between(width, tile)
        upper = curves[y0[:, None], x0, bins] * (1 - fx) + curves[y0[:, None], x1, bins] * fx  # (y, x)
        lower = curves[y1[:, None], x0, bins] * (1 - fx) + curves[y1[:, None], x1, bins] * fx  # (y, x)
        ranks: NDArray[np.float32] = (upper * (1 - fy[:, None]) + lower * fy[:, None]).astype(np.float32)  # (y, x)
        return ranks

    def _curve(self, counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the rank of each bin, 0 to 1, with the histogram cut at the limit and the rest dealt out evenly."""
        limit = self.clip * self.tile**2 / BINS
        cut = np.minimum(counts, limit)
        ranks: NDArray[np.float64] = np.cumsum(cut + (self.tile**2 - cut.sum()) / BINS) / self.tile**2
        return ranks


def _between(size: int, tile: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the tiles before and behind each voxel of a line, and how far it is on the way from one centre to the other."""
    places = np.arange(size) + tile // 2  # counted from the last centre before the line
    fraction = ((places % tile + 0.5) / tile).astype(np.float32)
    before, last = places // tile - 1, size // tile - 1
    return np.clip(before, 0, last), np.clip(before + 1, 0, last), fraction
