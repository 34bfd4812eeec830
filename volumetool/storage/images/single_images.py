"""PNG, JPEG and BMP files: one image each, which is decoded whole.

A file's head says how large its image is, and that is looked at before anything is decoded. Sizes of pixels in such files are
those of screens and paper, and are not read.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.images.names import single_kind
from volumetool.storage.images.pages import TiffPage, kind
from volumetool.storage.io.limits import check_images

_OPENERS: dict[str, type[ImageFile.ImageFile]] = {  # without the bound of Image.open, which is less than a section
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}
_ENDS = {"png": b"IEND", "jpeg": b"\xff\xd9", "bmp": b""}
"""What stands at the end of a file that is whole."""

_TAIL = 4096
_GREY: dict[str, np.dtype[Any]] = {"L": np.dtype(np.uint8), "I;16": np.dtype(np.uint16)}
_BROKEN = (OSError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError,
           RuntimeError, struct.error, zlib.error)  # fmt: skip
"""What Pillow raises on damaged files."""


def read_single(file: Path) -> TiffPage:
    """Return the image of a PNG, JPEG or BMP file as a page; voxels are not decoded.

    Raises
    ------
    InputError
        ``input.axes``: colour, or several images. ``input.dtype``: 1 bit a pixel. ``input.unreadable``: damaged or cut off.
        ``input.too-large``, ``input.empty``.
    """
    with _open(file) as opened:
        image = _image(file, opened)
        dtype = _grey_type(file, image)
        shape = (image.height, image.width)
        check_images(file, (1, *shape), dtype.itemsize)
        opened.seek(0, 2)
        opened.seek(max(0, opened.tell() - _TAIL))
        if _ENDS[single_kind(file)] not in opened.read():
            raise _unreadable(file, f"it ends before its image does, or its last {_TAIL} bytes do not hold its end")
    return TiffPage(
        number=1,
        offset=0,
        shape=shape,
        dtype=dtype,
        reduced=False,
        inverted=False,
        start=None,
        rows=shape[0],
        per_unit=(0.0, 0.0),
        unit=None,
        stated=(),
        description="",
        imagej="",
    )


def decode_single(file: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the grey values (y, x) of a file that `read_single` has described.

    Parameters
    ----------
    file : Path
        The file.
    shape : tuple of int
        Its rows and columns.
    dtype : numpy.dtype
        Its data type.

    Raises
    ------
    InputError
        ``input.unreadable``: it is damaged, or another image than it was.
    """
    with _open(file) as opened:
        image = _image(file, opened)
        found = kind((image.height, image.width), _grey_type(file, image))
        if found != (wanted := kind(shape, dtype)):
            raise _unreadable(file, f"it was changed: it is {found} now, and was {wanted}")
        try:
            if single_kind(file) == "png":  # Pillow takes a PNG that ends early for a whole one
                opened.seek(0)
                stored = imagecodecs.png_decode(opened.read())
            else:
                image.load()
                stored = np.asarray(image)
        except (*_BROKEN, imagecodecs.PngError) as error:
            raise _unreadable(file, str(error)) from error
    grey: npt.NDArray[Any] = stored if stored.ndim == 2 else stored[:, :, 0]  # (y, x), of a palette (y, x, 3) that are equal
    return grey


def _open(file: Path) -> BinaryIO:
    try:
        return open_file(file)
    except PermissionError:
        raise
    except OSError as error:
        raise _unreadable(file, str(error)) from error


def _image(file: Path, opened: BinaryIO) -> ImageFile.ImageFile:
    try:
        image = _OPENERS[single_kind(file)](opened)
        count = int(getattr(image, "n_frames", 1))
    except _BROKEN as error:
        raise _unreadable(file, str(error)) from error
    if count > 1:
        raise _not_grey(file, f"{count} images", "Save each of them as a file of its own.")
    return image


def _grey_type(file: Path, image: ImageFile.ImageFile) -> np.dtype[Any]:
    if image.mode == "1":
        raise InputError(
            "input.dtype",
            f"{file} holds 1 bit a pixel; read are images of 8 and 16 bits",
            hint="Save it with 8 bits, such as with ImageMagick's `mogrify -depth 8 -format tif`.",
            where=str(file),
        )
    if image.mode not in _GREY and not _has_grey_palette(image):
        turn = "`mogrify -colorspace Gray -format tif FILES` of ImageMagick makes grey values of colours."
        raise _not_grey(file, f"pixels of the mode {image.mode}, colours or transparency", turn)
    return _GREY.get(image.mode, np.dtype(np.uint8))


def _has_grey_palette(image: ImageFile.ImageFile) -> bool:
    if image.mode != "P" or image.palette is None or image.format != "PNG":
        return False
    order, colours = image.palette.getdata()
    table = np.frombuffer(colours, np.uint8).reshape(-1, len(order))
    return bool((table == table[:, :1]).all())


def _not_grey(file: Path, what: str, hint: str) -> InputError:
    return InputError("input.axes", f"{file} holds {what}; wanted is one section of grey values", hint=hint, where=str(file))


def _unreadable(file: Path, why: str) -> InputError:
    return InputError(
        "input.unreadable",
        f"{file} cannot be read as {single_kind(file).upper()}: {why}",
        hint="The file may be damaged or incomplete; copy it again.",
        where=str(file),
    )
