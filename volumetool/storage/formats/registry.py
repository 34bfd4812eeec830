"""The formats that are read and written, in the order in which a place is asked for them. A new one is one file and one entry.

Its file turns the metadata that it finds into a `ParsedMetadata`; its test is a subclass of `testing.format_suite.FormatSuite`.
"""

from __future__ import annotations

from collections.abc import Iterator

from volumetool.errors import InputError
from volumetool.paths import file_on
from volumetool.storage.formats.base import Format, ParsedMetadata
from volumetool.storage.formats.czi import CZI
from volumetool.storage.formats.dm import DM
from volumetool.storage.formats.hdf5 import HDF5
from volumetool.storage.formats.mrc import MRC
from volumetool.storage.formats.n5 import N5
from volumetool.storage.formats.n5.bdv_xml import find_container
from volumetool.storage.formats.npy import NPY
from volumetool.storage.formats.nrrd import NRRD
from volumetool.storage.formats.ome_zarr import OME_ZARR
from volumetool.storage.formats.precomputed import PRECOMPUTED
from volumetool.storage.formats.zarr import ZARR_ARRAY
from volumetool.storage.images import IMAGES
from volumetool.storage.io.kvstore import is_local, join_url, list_keys, local_path
from volumetool.storage.io.stores.zip_file import ZIP_ENDINGS, zip_on
from volumetool.storage.writing.layout import VolumeLayout, WrittenFormat

_ROUNDED = 1e-6
"""Share of a voxel by which a position may be off without a word."""

FORMATS: tuple[Format, ...] = (ZARR_ARRAY, OME_ZARR, N5, PRECOMPUTED, HDF5, MRC, DM, CZI, NPY, NRRD, IMAGES)

WRITTEN: dict[str, WrittenFormat] = {written.name: written for each in FORMATS for written in each.written}
"""The formats that are written, by name."""


def find_volume(url: str) -> ParsedMetadata | None:
    """Describe the volume at a place by the first format that knows it; None if no format does.

    Raises
    ------
    InputError
        As the formats': what is there is no volume of theirs that can be read. ``input.unreadable``: a file is closed to this
        user.
    """
    in_file = is_local(url) and not local_path(url).is_dir()
    if zip_on(url) is not None:
        url, in_file = _top_of_zip(url), False
    if in_file and file_on(local_path(url)) is None:
        return None
    if (container := find_container(url)) is not None:
        return find_volume(container)
    asked = (each for each in FORMATS if each.endings or not in_file)
    try:
        return next((found for each in asked if (found := each.find(url)) is not None), None)
    except PermissionError as error:
        raise InputError(
            "input.unreadable",
            f"{error.filename or url} cannot be read: {error.strerror}",
            hint="Ask its owner for the permission to read it, or give another place.",
            where=url,
        ) from error


def _top_of_zip(url: str) -> str:
    """Return the only folder at the top of a zip file; the place itself where there are other things, or it lies further in."""
    tops = {key.partition("/")[0] for key in list_keys(url)} - {"__MACOSX", ".DS_Store"}  # the Finder adds these
    return join_url(url, *tops) if len(tops) == 1 and url.lower().endswith(ZIP_ENDINGS) else url


def readable_formats() -> str:
    """Return the names of all formats, for messages."""
    *first, last = (each.name for each in FORMATS)
    return f"{', '.join(first)} or {last}"


def named_like(place: str) -> Format | None:
    """Return the format whose files have names that end like a place's; None if there is none."""
    return next((each for each in FORMATS if each.endings and place.lower().endswith(each.endings)), None)


def shift_notes(layout: VolumeLayout) -> Iterator[str]:
    """Yield what is to be said to the user of levels whose place the format does not have."""
    for number, grid in enumerate(layout.levels):
        stored = WRITTEN[layout.format].translation(grid)
        shift = tuple(there - here for there, here in zip(stored, grid.translation, strict=True))
        if any(abs(by) > _ROUNDED * size for by, size in zip(shift, grid.voxel_size, strict=True)):
            by = ", ".join(f"{nm:g}" for nm in shift)
            yield f"{layout.format} has whole voxels as positions: level {number} will lie {by} nm (z, y, x) from its place"
