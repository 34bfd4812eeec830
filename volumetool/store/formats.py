"""The formats that are read, in the order in which a place is asked for them. A new one is one file, and one entry here.

Its file turns the metadata that it finds into a `Found`; its test is a subclass of `testing.format_suite.FormatSuite`.
"""

from __future__ import annotations

from volumetool.store.found import Format, Found
from volumetool.store.images import TIFF
from volumetool.store.kvstore import is_local, local_path
from volumetool.store.mrc import MRC
from volumetool.store.n5 import N5
from volumetool.store.ome_zarr import OME_ZARR
from volumetool.store.precomputed import PRECOMPUTED
from volumetool.store.zarr_array import ZARR_ARRAY

FORMATS: tuple[Format, ...] = (ZARR_ARRAY, OME_ZARR, N5, PRECOMPUTED, MRC, TIFF)


def find_volume(url: str) -> Found | None:
    """Describe the volume at a place by the first format that knows it; None where none does.

    Raises
    ------
    InputError
        As the formats': what is there is no volume of theirs that can be read.
    """
    in_file = is_local(url) and not local_path(url).is_dir()
    if in_file and not local_path(url).is_file():
        return None
    asked = (each for each in FORMATS if each.endings or not in_file)
    return next((found for each in asked if (found := each.find(url)) is not None), None)


def readable_formats() -> str:
    """Return the names of all formats, for messages."""
    *first, last = (each.name for each in FORMATS)
    return f"{', '.join(first)} or {last}"


def named_like(place: str) -> Format | None:
    """Return the format whose files have names that end like a place's; None where none does."""
    return next((each for each in FORMATS if each.endings and place.lower().endswith(each.endings)), None)
