"""Stacks of TIFF images: one file with many pages, or a folder with one file per section.

Nothing is read before it is asked for, and never more than the sections asked for. Only TIFF is read.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import numpy.typing as npt
import tifffile

from volumetool.errors import InputError
from volumetool.geometry.box import Size, Triple
from volumetool.store.limits import check_images
from volumetool.store.units import nanometres_per
from volumetool.store.volume import DTYPES

_SUFFIXES = (".tif", ".tiff")
# What tifffile calls the axis along which plain pages follow each other; ImageJ often calls sections time points.
_SECTION_AXES = set("ZIQT")
_Section = tuple[tuple[int, int], np.dtype[Any]]
# What tifffile raises on damaged files. A header that asks for more memory than there is counts as damage.
_BROKEN = (
    tifffile.TiffFileError, ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class ImageStack:
    """A z, y, x stack of greyscale images that is read section by section.

    Attributes
    ----------
    path : str
        The file or folder.
    files : tuple of str
        One file with all sections, or one file per section.
    shape : tuple of int
        Voxels, z, y, x.
    dtype : numpy.dtype
        One of the dtypes of a volume, in native byte order.
    voxel_size : tuple of float or None
        Nanometres, z, y, x; None unless the file states all three with a unit of length.
    """

    path: str
    files: tuple[str, ...]
    shape: Triple
    dtype: np.dtype[Any]
    voxel_size: Size | None

    def read(self, start: int, stop: int, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Return the sections ``start <= z < stop``.

        Parameters
        ----------
        start, stop : int
            Sections, counted from 0.
        rows : slice, optional
            Which y of each section; only these are kept in memory.

        Returns
        -------
        numpy.ndarray
            z, y, x, of the stack's dtype.

        Raises
        ------
        InputError
            ``input.codec``: the compression needs the package imagecodecs. ``input.unreadable``: a damaged file.
        """
        height = len(range(*rows.indices(self.shape[1])))
        sections = np.empty((stop - start, height, self.shape[2]), self.dtype)
        for section, page in zip(sections, self._pages(start, stop), strict=True):
            section[...] = page[rows]
        return sections

    def _pages(self, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
        if len(self.files) > 1:
            for file in self.files[start:stop]:
                with _opened(file) as tiff:
                    yield tiff.pages[0].asarray()
            return
        with _opened(self.files[0]) as tiff:
            series = tiff.series[0]
            if series.dataoffset is not None:
                # Uncompressed and in one piece; ImageJ writes large stacks so, with one page for all sections.
                stored = self.dtype.newbyteorder(tiff.byteorder)
                yield from np.memmap(self.files[0], stored, "r", series.dataoffset, self.shape)[start:stop]
                return
            for number in range(start, stop):
                yield _page(series, number).asarray()


def open_images(path: str | os.PathLike[str]) -> ImageStack:
    """Open a multi-page TIFF or a folder of TIFF sections.

    The files of a folder are sorted by name with numbers as numbers: section_9 comes before section_10.

    Parameters
    ----------
    path : str or path
        A local TIFF, BigTIFF or OME-TIFF file, or a folder that holds one such file per section.

    Raises
    ------
    InputError
        ``input.not-found``, ``input.not-images`` (nothing that is TIFF), ``input.slice-shape`` (sections of different
        size or dtype), ``input.axes`` (colour, channels, more dimensions), ``input.dtype``, ``input.unreadable``.
    """
    place = Path(path).expanduser().absolute()
    if not place.exists():
        raise InputError("input.not-found", f"nothing to read at {place}", hint="Check the spelling.", where=str(place))
    files = sorted(_tiffs(place), key=_natural) if place.is_dir() else [place]
    if not files or not all(is_tiff(file) for file in files):
        raise _not_images(place)
    if len(files) == 1:
        return _one_file(place, files[0])
    shape, dtype = _section(files[0])
    for file in files[1:]:
        _require_equal(files[0], (shape, dtype), file, _section(file))
    return ImageStack(str(place), tuple(map(str, files)), (len(files), *shape), _checked(files[0], dtype), None)


def is_tiff(path: Path) -> bool:
    """Say whether a file has the name of a TIFF image."""
    return path.suffix.lower() in _SUFFIXES


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a TIFF file or a folder with TIFF files in it."""
    place = Path(path).expanduser()
    return (place.is_file() and is_tiff(place)) or (place.is_dir() and bool(_tiffs(place)))


def _tiffs(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and is_tiff(file) and not file.name.startswith(".")]


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sorting key in which runs of digits count as numbers."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], path.name


class _opened:  # noqa: N801  (reads like the function `open`)
    """Open a TIFF file and turn what tifffile raises into errors that name the file."""

    def __init__(self, file: str | Path) -> None:
        self.file = file

    def __enter__(self) -> tifffile.TiffFile:
        try:
            # A file's OME metadata may name other files; what is opened is what was asked for.
            self.tiff = tifffile.TiffFile(self.file, _multifile=False)
        except _BROKEN as error:
            raise self._unreadable(error) from error
        return self.tiff

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.tiff.close()
        if isinstance(error, _BROKEN):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        if "imagecodecs" in str(error):
            return InputError(
                "input.codec",
                f"{self.file} is compressed in a way that needs the package imagecodecs: {error}",
                hint="pip install imagecodecs",
                where=str(self.file),
            )
        return InputError(
            "input.unreadable",
            f"{self.file} cannot be read as TIFF: {error}",
            hint="The file may be damaged or incomplete; copy it again.",
            where=str(self.file),
        )


def _one_file(place: Path, file: Path) -> ImageStack:
    with _opened(file) as tiff:
        series = tiff.series[0]
        axes, shape, dtype = series.axes, series.shape, np.dtype(series.dtype)
        size = _voxel_size(tiff)
    extra = [name for name, length in zip(axes[:-2], shape[:-2], strict=True) if length > 1]
    if not axes.endswith("YX") or len(extra) > 1 or set(extra) - _SECTION_AXES:
        raise InputError(
            "input.axes",
            f"{file} has the axes {axes} with lengths {shape}; wanted are sections of grey values (ZYX)",
            hint="Convert it to a greyscale stack without channels first.",
            where=str(file),
        )
    depth = math.prod(shape[:-2])
    check_images(file, (depth, shape[-2], shape[-1]), dtype.itemsize)
    return ImageStack(str(place), (str(file),), (depth, shape[-2], shape[-1]), _checked(file, dtype), size)


def _section(file: Path) -> _Section:
    with _opened(file) as tiff:
        page, count = tiff.pages[0], len(tiff.pages)
        shape, dtype = page.shape, np.dtype(page.dtype)
    if count != 1 or len(shape) != 2:
        raise InputError(
            "input.axes",
            f"{file} has {count} pages of shape {shape}; in a folder, each file is one greyscale section",
            hint="Keep only single sections in the folder, or give one multi-page file by its own name.",
            where=str(file),
        )
    check_images(file, (1, int(shape[0]), int(shape[1])), dtype.itemsize)
    return (int(shape[0]), int(shape[1])), dtype


def _page(series: tifffile.TiffPageSeries, number: int) -> tifffile.TiffPage | tifffile.TiffFrame:
    page = series.pages[number]
    if page is None:
        raise ValueError(f"page {number} is missing")
    return page


def _require_equal(first: Path, wanted: _Section, file: Path, found: _Section) -> None:
    if found != wanted:
        raise InputError(
            "input.slice-shape",
            f"{file.name} is {found[0]} {found[1]}, but {first.name} is {wanted[0]} {wanted[1]} (y, x, dtype)",
            hint="All sections must have one size and dtype: crop or pad this one, or move it out of the folder.",
            where=str(file),
        )


def _checked(file: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.name not in DTYPES:
        raise InputError(
            "input.dtype",
            f"{file} holds {dtype.name}; volumetool works on {', '.join(DTYPES)}",
            hint="Convert the images to one of these first.",
            where=str(file),
        )
    return dtype.newbyteorder("=")


def _voxel_size(tiff: tifffile.TiffFile) -> Size | None:
    """Return the voxel size if the file states all of it.

    Plain resolution tags say nothing of z, and are often made up.
    """
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_size(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        return _imagej_size(tiff.imagej_metadata, tiff.pages.first)
    return None


def _ome_size(text: str) -> Size | None:
    try:
        image = tifffile.xml2dict(text)["OME"]["Image"]
    except (KeyError, ValueError, ParseError):
        return None
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    sizes = []
    for axis in "ZYX":
        # The OME schema's default unit is the micrometre.
        unit = nanometres_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        if unit is None or not isinstance(size, int | float) or size <= 0:
            return None
        sizes.append(float(size) * unit)
    return (sizes[0], sizes[1], sizes[2])


def _imagej_size(metadata: dict[str, Any], page: tifffile.TiffPage) -> Size | None:
    unit = nanometres_per(str(metadata.get("unit", "")).replace("\\u00B5", "µ"))
    spacing = metadata.get("spacing")
    tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
    per_unit = [tag.value[0] / max(1, tag.value[1]) for tag in tags if tag is not None]
    if unit is None or not isinstance(spacing, int | float) or spacing <= 0 or len(per_unit) < 2 or min(per_unit) <= 0:
        return None
    return (float(spacing) * unit, unit / per_unit[0], unit / per_unit[1])


def _not_images(place: Path) -> InputError:
    names = sorted(entry.name for entry in place.iterdir())[:5] if place.is_dir() else [place.name]
    return InputError(
        "input.not-images",
        f"{place} holds {', '.join(names) or 'nothing'}; wanted is a TIFF file or a folder of TIFF sections",
        hint="PNG, JPEG and other images must be converted to TIFF first.",
        where=str(place),
    )
