"""A stack of sections that stand in TIFF files, read section by section."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volumetool.geometry.box import Size, Triple
from volumetool.store.images.pages import Page, grey_values, kind, opened, page_at, read_bands


@dataclass(frozen=True)
class Plane:
    """The position of the voxels of one section.

    Attributes
    ----------
    file : str
        The file.
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
    """A z, y, x stack of greyscale images that is read section by section.

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
    voxel_size : tuple of float or None
        Nanometres, z, y, x; None unless the file states all three with a unit of length.
    band : int
        Bytes that are decoded at once, at the most.
    first : int
        The number of section 0, as the names of a folder say.
    notes : tuple of str
        What a user should know of what was left out.
    """

    path: str
    planes: tuple[Plane | None, ...]
    shape: Triple
    dtype: np.dtype[Any]
    voxel_size: Size | None
    band: int
    first: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order of their first section."""
        return tuple(dict.fromkeys(plane.file for plane in self.planes if plane is not None))

    @property
    def blank(self) -> tuple[int, ...]:
        """The sections that are missing, counted from 0."""
        return tuple(z for z, plane in enumerate(self.planes) if plane is None)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of where every section stands, and of the size and time of change of every file when first asked for."""
        return self.identity_now()

    def identity_now(self) -> str:
        """Return the identity anew: another one means that a file was changed."""
        digest = hashlib.sha256(repr((self.shape, self.dtype.name)).encode())
        for file in self.files:
            found = os.stat(file)  # noqa: PTH116  (thousands of them)
            digest.update(repr((Path(file).name, found.st_size, found.st_mtime_ns)).encode())
        for plane in self.planes:
            digest.update(repr(plane and (Path(plane.file).name, plane.page, plane.number)).encode())
        return digest.hexdigest()

    def read(self, start: int, stop: int, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Return the sections ``start <= z < stop``; missing ones are zero.

        Parameters
        ----------
        start, stop : int
            Sections, counted from 0.
        rows : slice, optional
            Range of y of each section; only these rows are kept in memory.

        Returns
        -------
        numpy.ndarray
            z, y, x, of the stack's dtype.

        Raises
        ------
        InputError
            ``input.codec``: the compression needs the package imagecodecs. ``input.unreadable``: a damaged file.
        """
        first, last, _ = rows.indices(self.shape[1])
        sections = np.zeros((stop - start, last - first, self.shape[2]), self.dtype)
        for z in range(start, stop):
            for top, band in self.bands(z):
                low, high = max(top, first), min(top + len(band), last)
                sections[z - start, low - first : max(low, high) - first] = band[low - top : max(low, high) - top]
        return sections

    def bands(self, z: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield a section from top to bottom, each row decoded once: the first row of a band, and its values (y, x).

        A missing section yields nothing. Sections may be read in several threads.

        Raises
        ------
        InputError
            As `read`.
        """
        plane = self.planes[z]
        if plane is None:
            return
        with opened(plane.file) as tiff:
            page = page_at(tiff, plane.page)
            found = kind((int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype).newbyteorder("="))
            if found != (wanted := kind(self.shape[1:], self.dtype)):
                raise ValueError(f"it was changed: section {z} is {found} now, and was {wanted}")
            for top, band in read_bands(page, plane.number):
                yield top, grey_values(page, band)


def stack_of(path: Path, planes: Sequence[Plane | None], page: Page, voxel_size: Size | None) -> ImageStack:
    """Return the stack of some planes that are all like one page."""
    return ImageStack(str(path), tuple(planes), (len(planes), *page.shape), page.dtype, voxel_size, page.band)
