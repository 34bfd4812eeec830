"""A stack of sections that stand in files of images; see `Reader`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volumetool.geometry.box import Size, Triple
from volumetool.storage.formats.voxel_sizes import StatedSize, contradiction, together
from volumetool.storage.images.names import single_kind
from volumetool.storage.images.pages import TiffPage, grey_values, kind, opened, page_at, read_rows
from volumetool.storage.images.single_images import decode_single


@dataclass(frozen=True)
class Plane:
    """The position of the voxels of one section.

    Attributes
    ----------
    file : str
        Path of the file.
    page : int
        Where the directory of its page begins in the file.
    number : int
        Index among the planes of that page; ImageJ writes one page for all sections of a large file.
    """

    file: str
    page: int
    number: int = 0


@dataclass(frozen=True)
class ImageStack:
    """A `Reader` of a z, y, x stack of greyscale images, which are read section by section.

    Attributes
    ----------
    path : str
        The file or folder.
    planes : tuple of Plane or None
        One for each section; None for a blank one, whose number is missing.
    shape : tuple of int
        Voxels, z, y, x.
    dtype : numpy.dtype
        One of the dtypes of a volume, in native byte order.
    stated : tuple of StatedSize
        The voxel sizes that the files state.
    rows : int
        Rows of a section that are decoded at once.
    first : int
        The number of section 0, as the names of a folder say.
    origin : tuple of float
        Where the origin of the coordinates lies, in voxels, z, y, x.
    notes : tuple of str
        What a user should know of what was left out.
    """

    path: str
    planes: tuple[Plane | None, ...]
    shape: Triple
    dtype: np.dtype[Any]
    stated: tuple[StatedSize, ...]
    rows: int
    first: int = 0
    origin: Size = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def voxel_size(self) -> Size | None:
        """Nanometres, z, y, x; None unless the files state all three with a unit of length, and agree on them."""
        size = together(self.stated)
        known = not (contradiction(self.stated) or size.unit is None or any(map(isnan, size.unit)))
        return (size.nanometres["z"], size.nanometres["y"], size.nanometres["x"]) if known else None

    @property
    def files(self) -> tuple[str, ...]:
        """Path of the file of every section, of a missing one a file that is not there; one path where all lie in one file."""
        files = [f"{self.path}/missing-{z}" if plane is None else plane.file for z, plane in enumerate(self.planes)]
        return (files[0],) if len(set(files)) == 1 else tuple(files)

    @property
    def chunk(self) -> Triple:
        """Some rows of one section."""
        return (1, self.rows, self.shape[2])

    @property
    def blank(self) -> tuple[int, ...]:
        """The sections that are missing, counted from 0."""
        return tuple(z for z, plane in enumerate(self.planes) if plane is None)

    def read_box(self, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the voxels of a box; see `Reader`."""
        sections, rows, columns = box
        return self.read(sections.start, sections.stop, rows)[:, :, columns]

    def read(self, start: int, stop: int, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Return some rows of some sections; missing sections are zero. Several threads may read at once.

        Parameters
        ----------
        start, stop : int
            The sections ``start <= z < stop``, counted from 0.
        rows : slice, optional
            Range of y of each section; only the strips or tiles that hold them are decoded.

        Returns
        -------
        numpy.ndarray
            z, y, x, of the stack's dtype.

        Raises
        ------
        InputError
            ``input.codec``: the compression needs the package imagecodecs. ``input.unreadable``: a damaged file.
        """
        wanted = range(*rows.indices(self.shape[1]))
        sections = np.zeros((stop - start, len(wanted), self.shape[2]), self.dtype)
        for z in range(start, stop):
            if (plane := self.planes[z]) is not None:
                sections[z - start] = self._rows(plane, z, wanted)
        return sections

    def _rows(self, plane: Plane, z: int, rows: range) -> npt.NDArray[Any]:
        if single_kind(plane.file):
            return decode_single(Path(plane.file), self.shape[1:], self.dtype)[rows.start : rows.stop]
        with opened(plane.file) as tiff:
            page = page_at(tiff, plane.page)
            found = kind((int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype).newbyteorder("="))
            if found != (wanted := kind(self.shape[1:], self.dtype)):
                raise ValueError(f"it was changed: section {z} is {found} now, and was {wanted}")
            return grey_values(page, read_rows(page, rows, plane.number))


def stack_of(path: Path, planes: Sequence[Plane | None], page: TiffPage, stated: tuple[StatedSize, ...]) -> ImageStack:
    """Return the stack of some planes that are all like one page.

    Parameters
    ----------
    path : Path
        The file or folder that the user named.
    planes : sequence of Plane or None
        The sections along z; None for a section that is missing.
    page : TiffPage
        A page whose shape (y, x), dtype and rows per strip all planes share.
    stated : tuple of StatedSize
        The voxel sizes that the files state.
    """
    notes: tuple[str, ...] = ("turned round, as the file counts grey values from white (MinIsWhite)",) if page.inverted else ()
    if any(plane is not None and single_kind(plane.file) == "jpeg" for plane in planes):
        notes += (
            "JPEG changed the grey values when it was written; the images that it was made of are better, if they are left",
        )
    return ImageStack(str(path), tuple(planes), (len(planes), *page.shape), page.dtype, stated, page.rows, notes=notes)
