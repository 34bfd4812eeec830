"""The pages of one TIFF file: all that it has, whether their voxels are there, and what these mean.

tifffile decodes. The list of pages is walked here, because tifffile ends it without a word where it is damaged or cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from volumetool.errors import InputError
from volumetool.paths import check_regular
from volumetool.storage.cast import CASTABLE
from volumetool.storage.formats.voxel_sizes import StatedSize
from volumetool.storage.images.microscopes import stated_by_microscope
from volumetool.storage.io.limits import check_images
from volumetool.units import in_words, runs_of

BAND_BYTES = 2**19
"""A section that is larger is read by rows of about this size, where its strips or tiles allow it."""

# What tifffile raises on damaged files. A header that asks for more memory than there is counts as damage.
_BROKEN = (
    tifffile.TiffFileError, ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RuntimeError, struct.error,
)  # fmt: skip

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE = 0, 1, 3
_JPEG = {6, 7, 33007, 34892}
"""Compressions whose strips and tiles need tables that stand elsewhere in the page."""

_NUMBERS = tuple(name for name in CASTABLE if name != "bool")  # whose bits are packed
_INCH = 2
_PHOTOMETRIC, _COLOUR_MAP, _PLANES_OF_METAMORPH = 262, 320, 33629


@dataclass(frozen=True)
class TiffPage:
    """A page of a TIFF file, or the image of a file that holds one.

    Attributes
    ----------
    number : int
        Counted from 1.
    offset : int
        Where its directory begins in the file.
    shape : tuple of int
        Rows and columns.
    dtype : numpy.dtype
        In native byte order.
    reduced : bool
        Whether the file calls it a smaller copy of another page.
    inverted : bool
        Whether stored values count from white, so that they are turned round as they are read.
    start : int or None
        Where its voxels begin, if they stand uncompressed in one piece.
    rows : int
        Rows that are decoded at once.
    per_unit : tuple of float
        Pixels per unit of length along y and x; 0 where the page says nothing.
    unit : object
        That unit, as the page says: 2 is an inch, 3 a centimetre.
    stated : tuple of StatedSize
        The pixel size that the microscope noted.
    description : str
        What programs write of the image, as text.
    imagej : str
        The same, of ImageJ.
    """

    number: int
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    reduced: bool
    inverted: bool
    start: int | None
    rows: int
    per_unit: tuple[float, float]
    unit: object
    stated: tuple[StatedSize, ...]
    description: str
    imagej: str

    @property
    def is_ome(self) -> bool:
        """Whether it describes an image in OME-XML."""
        return self.description.rstrip().endswith("OME>")

    @property
    def bytes(self) -> int:
        """Bytes of its voxels."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


class opened:  # noqa: N801  (reads like the function `open`)
    """Open a TIFF file and turn what tifffile raises into errors that name the file."""

    def __init__(self, file: str | Path) -> None:
        self.file = file

    def __enter__(self) -> tifffile.TiffFile:
        try:
            check_regular(self.file)
            self.tiff = tifffile.TiffFile(self.file)
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


def read_pages(file: str | Path) -> list[TiffPage]:
    """Return all pages of a file, in its order, each of which holds grey values that are there to the last byte.

    Raises
    ------
    InputError
        ``input.unreadable``: damaged or cut off. ``input.axes``: colour, or several planes in a page. ``input.photometric``:
        values that are no grey values. ``input.dtype``, ``input.too-large``, ``input.empty``, ``input.hidden-pages``.
    """
    with opened(file) as tiff:
        return [_page(Path(file), tiff, number, offset) for number, offset in enumerate(_directories(tiff), start=1)]


def require_alike(file: str | Path, pages: list[TiffPage]) -> None:
    """Refuse pages of different size or dtype, which are no sections of one volume.

    Raises
    ------
    InputError
        ``input.slice-shape``.
    """
    kinds: dict[str, list[int]] = {}
    for page in pages:
        kinds.setdefault(kind(page.shape, page.dtype), []).append(page.number)
    if len(kinds) > 1:
        rare, *others = sorted(kinds, key=lambda name: len(kinds[name]))
        said = "; ".join(
            f"page{'s' if len(kinds[name]) > 1 else ''} {in_words(runs_of(kinds[name]))}: {name}" for name in (rare, *others)
        )
        raise InputError(
            "input.slice-shape",
            f"the pages of {file} differ: {said} (y, x, dtype)",
            hint="All sections must have one size and dtype: save the pages that belong together as a file of their own.",
            where=str(file),
        )


def kind(shape: tuple[int, int], dtype: np.dtype[Any]) -> str:
    """Return the size and dtype of a section in words."""
    return f"{shape[0]} x {shape[1]} {dtype.name}"


def _directories(tiff: tifffile.TiffFile) -> Iterator[int]:
    """Yield where each page's directory begins; the file's list of pages must end as the format says."""
    handle, layout = tiff.filehandle, tiff.tiff
    handle.seek(8 if layout.is_bigtiff else 4)
    seen: set[int] = set()
    while offset := struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))[0]:
        if offset in seen:
            raise ValueError(f"its list of pages comes back to the same page after {len(seen)}")
        if offset + layout.tagnosize > handle.size:
            raise ValueError(f"page {len(seen) + 1} is at byte {offset}, and the file ends at {handle.size}")
        yield offset
        seen.add(offset)
        handle.seek(offset)
        tags = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))[0]
        handle.seek(offset + layout.tagnosize + tags * layout.tagsize)
    if not seen:
        raise ValueError("it has no page")


def page_at(tiff: tifffile.TiffFile, offset: int) -> tifffile.TiffPage:
    """Read the page whose directory begins at an offset."""
    tiff.filehandle.seek(offset)
    return tifffile.TiffPage(tiff, 0)


def _page(file: Path, tiff: tifffile.TiffFile, number: int, offset: int) -> TiffPage:
    page = page_at(tiff, offset)
    _check_grey(file, page, number)
    shape, dtype = (int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype)
    check_images(file, (1, *shape), dtype.itemsize)
    _check_whole(page, number, tiff.filehandle.size)
    _check_below(file, tiff, page, number)
    plain = _is_plain(page)
    return TiffPage(
        number=number,
        offset=offset,
        shape=shape,
        dtype=dtype.newbyteorder("="),
        reduced=bool(page.is_reduced),
        inverted=page.tags.valueof(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        start=page.dataoffsets[0] if plain else None,
        rows=_rows_of_a_band(page, dtype.itemsize),
        per_unit=(_per_unit(page, "YResolution"), _per_unit(page, "XResolution")),
        unit=page.tags.valueof("ResolutionUnit", _INCH),
        stated=tuple(stated_by_microscope(page)),
        description=page.description,
        imagej=page.imagej_description or "",
    )


def _rows_of_a_band(page: tifffile.TiffPage, itemsize: int) -> int:
    step = 1 if _is_plain(page) else _rows_at_once(page)
    return min(int(page.imagelength), step * max(1, BAND_BYTES // (step * int(page.imagewidth) * itemsize)))


def _per_unit(page: tifffile.TiffPage, name: str) -> float:
    tag = page.tags.get(name)
    return 0.0 if tag is None else float(tag.value[0] / max(1, tag.value[1]))


def _check_grey(file: Path, page: tifffile.TiffPage, number: int) -> None:
    """Refuse pages whose values are no grey values, or that hold more than one plane."""
    if page.dtype is None or np.dtype(page.dtype).name not in _NUMBERS:
        raise InputError(
            "input.dtype",
            f"{file} holds {page.dtype or f'samples of {page.bitspersample} bits'}; read are {', '.join(_NUMBERS)}",
            hint="Convert the images to one of these first.",
            where=str(file),
        )
    separate, depth, _, _, samples = page.shaped
    if (separate, depth, samples) != (1, 1, 1) or page.is_mask:
        what = "a mask" if page.is_mask else f"{separate * samples} samples a pixel in {depth} planes ({_meaning(page)})"
        raise InputError(
            "input.axes",
            f"page {number} of {file} holds {what}; wanted are sections of grey values (ZYX)",
            hint="Convert it to a greyscale stack without colours or channels first.",
            where=str(file),
        )
    invertible = np.dtype(page.dtype).kind == "u"
    meaning = page.tags.valueof(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if not (
        meaning == _BLACK_IS_ZERO
        or (meaning == _WHITE_IS_ZERO and invertible)
        or (meaning == _PALETTE and _grey_palette(page) is not None)
    ):
        raise InputError(
            "input.photometric",
            f"page {number} of {file} holds {page.dtype} values that mean {_meaning(page)}, which are no grey values",
            hint="Convert it to greyscale first: black is zero (MinIsBlack).",
            where=str(file),
        )


def _meaning(page: tifffile.TiffPage) -> str:
    meaning = page.tags.valueof(_PHOTOMETRIC, _BLACK_IS_ZERO)
    named = {_WHITE_IS_ZERO: "white is zero", _BLACK_IS_ZERO: "black is zero", _PALETTE: "a palette of colours"}
    return named.get(meaning) or str(getattr(meaning, "name", meaning))


def _check_whole(page: tifffile.TiffPage, number: int, size: int) -> None:
    """Refuse a page some of whose strips or tiles are not in the file."""
    parts = prod(page.chunked)
    offsets, lengths = page.dataoffsets[:parts], page.databytecounts[:parts]
    if min(len(offsets), len(lengths)) < parts:
        raise ValueError(f"page {number} lacks {parts - min(len(offsets), len(lengths))} of its {parts} strips or tiles")
    for start, length in zip(offsets, lengths, strict=True):
        if start <= 0 or length <= 0:
            raise ValueError(f"a strip or tile of page {number} was never written")
        if start + length > size:
            raise ValueError(f"page {number} reaches to byte {start + length}, and the file ends at {size}")
    if page.compression == 1:
        rows, columns = (page.tilelength * parts, page.tilewidth) if page.is_tiled else page.shaped[2:4]
        wanted = rows * ceil(columns * page.bitspersample / 8)
        if sum(lengths) < wanted:
            raise ValueError(f"page {number} has {sum(lengths)} bytes of voxels; its size needs {wanted}")


def _check_below(file: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, number: int) -> None:
    """Refuse pages below a page that are more than smaller copies of it, as the levels of a pyramid are."""
    planes = page.tags.get(_PLANES_OF_METAMORPH)
    if planes is not None and planes.count > 1:
        raise _hidden(file, f"page {number} of {file} holds {planes.count} planes of MetaMorph")
    for offset in page.subifds or ():
        below = page_at(tiff, offset)
        if not (below.imagelength < page.imagelength and below.imagewidth < page.imagewidth):
            has = f"{below.imagelength} x {below.imagewidth} pixels"
            raise _hidden(file, f"below page {number} of {file} ({page.imagelength} x {page.imagewidth}) there is one of {has}")


def _hidden(file: Path, what: str) -> InputError:
    return InputError(
        "input.hidden-pages",
        f"{what}; only pages of the file's own list are read",
        hint="Save the images as a plain multi-page TIFF first, for example with ImageJ.",
        where=str(file),
    )


def _grey_palette(page: tifffile.TiffPage) -> npt.NDArray[np.uint8] | None:
    """Return the grey value of each index of a palette, None where it has colours."""
    stored = page.tags.valueof(_COLOUR_MAP)
    if stored is None or page.bitspersample > 8:
        return None
    red, green, blue = np.asarray(stored, np.uint16).reshape(3, -1)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)) or len(red) < 2**page.bitspersample:
        return None
    grey: npt.NDArray[np.uint8] = (red >> 8).astype(np.uint8)
    return grey


def grey_values(page: tifffile.TiffPage, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what stored values mean, with black at zero."""
    meaning = page.tags.valueof(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if meaning == _WHITE_IS_ZERO:
        inverted: npt.NDArray[Any] = stored.dtype.type(2**page.bitspersample - 1) - stored
        return inverted
    if meaning == _PALETTE:
        grey = _grey_palette(page)
        assert grey is not None  # noqa: S101  (looked at when the file was opened)
        stored = grey[stored]
    return stored


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Return whether the voxels of a page stand uncompressed in one piece."""
    return bool(page.is_contiguous and page.fillorder == 1 and page.predictor == 1)


def _rows_at_once(page: tifffile.TiffPage) -> int:
    """Return the rows of a strip or of a row of tiles."""
    return int(page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength))


def read_rows(page: tifffile.TiffPage, rows: range, plane: int = 0) -> npt.NDArray[Any]:
    """Return some rows of a page (y, x); of strips and tiles only those that hold them are decoded.

    Parameters
    ----------
    page : tifffile.TiffPage
        From `page_at`.
    rows : range
        Rows of the page to decode; at least one.
    plane : int
        Index among the planes that follow each other uncompressed from the page's first byte on.
    """
    if plane or _is_plain(page):
        return _plain_rows(page, rows, plane)
    if len(rows) == page.imagelength:
        whole: npt.NDArray[Any] = page.asarray(maxworkers=1)
        return whole
    return _decoded_rows(page, rows)


def _plain_rows(page: tifffile.TiffPage, rows: range, plane: int) -> npt.NDArray[Any]:
    handle, stored = page.parent.filehandle, np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    columns = int(page.imagewidth)
    handle.seek(page.dataoffsets[0] + (plane * int(page.imagelength) + rows.start) * columns * stored.itemsize)
    voxels: npt.NDArray[Any] = handle.read_array(stored, len(rows) * columns).reshape(-1, columns)
    return voxels


def _decoded_rows(page: tifffile.TiffPage, rows: range) -> npt.NDArray[Any]:
    tall, across = _rows_at_once(page), ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
    parts = range(rows.start // tall * across, ceil(rows.stop / tall) * across)
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
    voxels = np.empty((len(rows), int(page.imagewidth)), page.dtype)  # (y, x)
    offsets, lengths = (listed[parts.start : parts.stop] for listed in (page.dataoffsets, page.databytecounts))
    for data, index in page.parent.filehandle.read_segments(offsets, lengths, indices=parts):
        part, (_, _, top, left, _), _ = page.decode(data, index, _fullsize=page.is_tiled, **tables)
        if part is None:
            raise ValueError(f"a strip or tile at row {top} was never written")
        first, last = max(top, rows.start), min(top + part.shape[1], rows.stop)
        block = voxels[first - rows.start : last - rows.start, left : left + part.shape[2]]
        block[...] = part[0, first - top : last - top, : block.shape[1], 0]
    return voxels
