"""Pixel sizes that microscopes and resolution tags state in TIFF files: along y and x, as no image knows its thickness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import nan
from typing import Any

import tifffile

from volumetool.storage.formats.voxel_sizes import StatedSize
from volumetool.units import nanometres_per

_FEI, _ZEISS, _TESCAN = (34680, 34682), 34118, 50431
_METRE = 1e9
_CREDIBLE = 1e4
"""Nanometres: resolution tags of larger pixels are of a screen or a printer, such as 72 dots per inch."""

_PER_UNIT = {2: 2.54e7, 3: 1e7}
"""Nanometres in an inch and a centimetre, the units of resolution tags."""

_TESCAN_PIXEL = re.compile(rb"PixelSize(X|Y)\s*=\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)")


def stated_by_microscope(page: tifffile.TiffPage) -> Iterator[StatedSize]:
    """Yield the pixel sizes in the tags of FEI or Thermo Fisher, Zeiss and Tescan.

    Parameters
    ----------
    page : tifffile.TiffPage
        A page of a file.
    """
    for code in _FEI:
        scan = _member(page.tags.valueof(code), "Scan")
        yield from _pixels("the tag of FEI", _member(scan, "PixelHeight"), _member(scan, "PixelWidth"), _METRE)
    zeiss = page.tags.valueof(_ZEISS)
    named = _member(zeiss, "ap_image_pixel_size") or _member(zeiss, "ap_pixel_size")
    if isinstance(named, tuple) and len(named) == 3:
        yield from _pixels("the tag of Zeiss", named[1], named[1], nanometres_per(named[2]) or nan)
    tescan = page.tags.valueof(_TESCAN)
    if isinstance(tescan, bytes | str):
        text = tescan if isinstance(tescan, bytes) else tescan.encode(errors="replace")
        sizes = {axis: float(value) for axis, value in _TESCAN_PIXEL.findall(text)}
        yield from _pixels("the tag of Tescan", sizes.get(b"Y"), sizes.get(b"X"), _METRE)


def stated_by_resolution(per_unit: tuple[float, float], unit: object) -> Iterator[StatedSize]:
    """Yield the pixel size that resolution tags state, if it can be one of a microscope.

    Parameters
    ----------
    per_unit : tuple of float
        Pixels per unit of length along y and x; 0 where the page says nothing.
    unit : object
        The tag ``ResolutionUnit``: 2 is an inch, 3 a centimetre.
    """
    y, x = (1 / pixels if pixels > 0 else 0.0 for pixels in per_unit)
    length = _PER_UNIT.get(unit, nan) if isinstance(unit, int) else nan
    if max(y, x) * length < _CREDIBLE:
        yield from _pixels("the resolution tags", y, x, length)


def _member(found: object, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def _pixels(where: str, y: object, x: object, unit: float) -> Iterator[StatedSize]:
    if isinstance(y, int | float) and isinstance(x, int | float) and min(y, x) > 0 and unit > 0:
        yield StatedSize(where, (1.0, float(y), float(x)), (nan, unit, unit))
