"""Pixel sizes that microscopes and resolution tags state in TIFF files: along y and x, as an image knows no thickness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tifffile

from volumetool.storage.formats.voxel_sizes import StatedSize, size_by_axis

_FEI, _ZEISS, _TESCAN = (34680, 34682), 34118, 50431
_DM_UNITS, _DM_SIZES = (65005, 65004, 65003), (65011, 65010, 65009)
"""Tags of DigitalMicrograph, of z, y and x."""

_TESCAN_PIXEL = re.compile(rb"PixelSize(X|Y)\s*=\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)")
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_CREDIBLE = 1e4
"""Nanometres: resolution tags of larger pixels are of a screen or a printer, such as 72 dots per inch."""


def stated_by_microscope(page: tifffile.TiffPage) -> Iterator[StatedSize]:
    """Yield the pixel sizes in the tags of FEI or Thermo Fisher, Zeiss, Tescan and DigitalMicrograph.

    Parameters
    ----------
    page : tifffile.TiffPage
        A page of a file.
    """
    scans = [_member(page.tags.valueof(code), "Scan") for code in _FEI]
    found = [_pixel("the tag of FEI", _member(scan, "PixelHeight"), _member(scan, "PixelWidth"), "m") for scan in scans]
    zeiss = page.tags.valueof(_ZEISS)
    named = _member(zeiss, "ap_image_pixel_size") or _member(zeiss, "ap_pixel_size")
    if isinstance(named, tuple) and len(named) == 3:  # name, number, unit
        found.append(_pixel("the tag of Zeiss", named[1], named[1], named[2]))
    tescan = page.tags.valueof(_TESCAN)
    if isinstance(tescan, bytes | str):
        text = tescan if isinstance(tescan, bytes) else tescan.encode(errors="replace")
        sizes = {axis: value.decode() for axis, value in _TESCAN_PIXEL.findall(text)}
        found.append(_pixel("the tag of Tescan", sizes.get(b"Y"), sizes.get(b"X"), "m"))
    numbers, units = ([page.tags.valueof(code) for code in codes] for codes in (_DM_SIZES, _DM_UNITS))
    found.append(size_by_axis("the tags of DigitalMicrograph", numbers, units))
    yield from (each for each in found if each is not None)


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
    size = _pixel("the resolution tags", y, x, _RESOLUTION_UNITS.get(unit) if isinstance(unit, int) else None)
    if size is not None and max(size.nanometres.values()) < _CREDIBLE:
        yield size


def _member(found: object, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def _pixel(where: str, y: object, x: object, unit: object) -> StatedSize | None:
    return size_by_axis(where, (None, y, x), (None, unit, unit))
