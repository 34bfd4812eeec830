"""Voxel sizes as metadata state them, in one place or in several: in which unit, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isclose, isnan, nan
from typing import Any

from volumetool.geometry.box import Size
from volumetool.storage.formats.base import scale_zyx, zyx
from volumetool.storage.io.arrays import SPACE
from volumetool.units import SMALLEST, nanometres_per

_AGREE = 1e-3
"""Relative: sizes that differ by less were rounded in different ways."""

NANOMETRES = (1.0, 1.0, 1.0)
"""The unit of sizes in nanometres."""


@dataclass(frozen=True)
class StatedSize:
    """A voxel size that one place of the metadata states.

    Attributes
    ----------
    where : str
        The place, for users.
    scale : tuple of float
        z, y, x, in units.
    unit : tuple of float or None
        Nanometres per unit, z, y, x, NaN along an axis whose unit is not known; None where no unit of length is named.
    """

    where: str
    scale: Size
    unit: Size | None

    @property
    def nanometres(self) -> dict[str, float]:
        """The voxel size along each axis along which it is known."""
        units = self.unit or (nan, nan, nan)
        sizes = {axis: a * b for axis, a, b in zip(SPACE, self.scale, units, strict=True)}
        return {axis: size for axis, size in sizes.items() if not isnan(size)}

    def __str__(self) -> str:
        sizes = self.nanometres
        return f"{' x '.join(f'{size:.6g}' for size in sizes.values())} nm ({', '.join(sizes)}) by {self.where}"


UNKNOWN = StatedSize("", (1.0, 1.0, 1.0), None)
"""The size of voxels of which nothing is stated."""


def contradiction(stated: Iterable[StatedSize]) -> str:
    """Return what two places say of the voxel size where they do not say the same; empty if all agree.

    Parameters
    ----------
    stated : iterable of StatedSize
        All that the metadata state; what has no unit contradicts nothing.
    """
    every = list(stated)
    for axis in SPACE:
        ordered = sorted((each for each in every if axis in each.nanometres), key=lambda each: each.nanometres[axis])
        if ordered and not isclose(ordered[0].nanometres[axis], ordered[-1].nanometres[axis], rel_tol=_AGREE):
            return ", ".join(str(each) for each in every if each in (ordered[0], ordered[-1]))
    return ""


def together(stated: Iterable[StatedSize]) -> StatedSize:
    """Return one voxel size of several that do not contradict each other: along each axis the first that is known."""
    known: dict[str, float] = {}
    for each in stated:
        known = each.nanometres | known
    scale = zyx({axis: known.get(axis, 1.0) for axis in SPACE})
    unit = zyx({axis: 1.0 if axis in known else nan for axis in SPACE})
    return StatedSize("", scale, unit) if known else UNKNOWN


def size_by_axis(where: str, numbers: Sequence[object], units: Sequence[object]) -> StatedSize | None:
    """Return the size that a number and a unit of each axis, z, y, x, state; None where no axis has both.

    Parameters
    ----------
    where : str
        The place, for users.
    numbers, units : sequence
        Anything; what is no number above 0, or no unit of length, says nothing of its axis.
    """
    scale, lengths = [], []
    for number, unit in zip(numbers, units, strict=True):
        try:
            size = float(str(number))
        except ValueError:
            size = nan
        length = nanometres_per(unit)
        known = length is not None and 0 < size < inf
        scale.append(size if known else 1.0)
        lengths.append(length if known and length else nan)
    (c, b, a), (z, y, x) = scale, lengths
    return None if all(map(isnan, lengths)) else StatedSize(where, (c, b, a), (z, y, x))


def read_unit(axes: Sequence[str], units: Sequence[object]) -> Size | None:
    """Return the nanometres of the units of axes, z, y, x; None unless every axis of space has a unit of length."""
    known = {axis: nanometres_per(unit) for axis, unit in zip(axes, units, strict=True) if axis in SPACE}
    sizes = [size for size in known.values() if size is not None]
    return scale_zyx(tuple(known), sizes) if len(sizes) == len(known) else None


def of_space(axes: Sequence[str], values: Sequence[Any]) -> tuple[str, ...]:
    """Return the axes that a list of values is about: all, or those of space alone."""
    return tuple(axes) if len(values) == len(axes) else tuple(axis for axis in axes if axis in SPACE)


def read_offset(axes: Sequence[str], offset: Sequence[float]) -> Size:
    """Return an offset of all axes, or of those of space, as z, y, x."""
    return zyx({"z": 0.0, **dict(zip(of_space(axes, offset), offset, strict=True))})


def stated_by_daisy(own: Mapping[str, Any], axes: Sequence[str]) -> Iterator[StatedSize]:
    """Yield what the attributes ``resolution`` or ``voxel_size``, of an array that daisy or funlib wrote, say.

    Parameters
    ----------
    own : mapping
        Attributes of the array; without ``units`` they are in nanometres, unless all are 1, which is written where nothing is
        known.
    axes : sequence of str
        The axes, as NumPy shows the array.
    """
    for name in ("voxel_size", "resolution"):
        if isinstance(sizes := own.get(name), list):
            named = of_space(axes, sizes)
            scale, units = scale_zyx(named, sizes), own.get("units")
            if isinstance(units, list):
                unit = read_unit(of_space(axes, units), units)
            else:
                unit = NANOMETRES if min(scale) >= SMALLEST and set(scale) != {1.0} else None
            yield StatedSize(name, scale, unit)


def daisy_axes(own: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the axes as funlib notes them, as NumPy shows the array; None where it does not.

    Names of axes that are not of space end with ``^``.
    """
    names = own.get("axis_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return ["c" if name.startswith("c") and name.endswith("^") else name.lower() for name in names]
