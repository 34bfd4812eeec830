"""BigDataViewer's XML: the file beside an N5 container or HDF5 file that knows the unit of its voxel sizes."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from volumetool.geometry.box import Size
from volumetool.storage.formats.base import broken, parse_xml, read_small
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.units import nanometres_per

_SETUP = re.compile(r"(?P<container>.+)/setup(?P<number>[0-9]+)(?:/timepoint[0-9]+(?:/s[0-9]+)?)?")


def is_bdv(url: str) -> bool:
    """Return whether a place is where BigDataViewer keeps a setup, a time point of it or a level of that."""
    return _SETUP.fullmatch(url) is not None


def find_voxel_size(url: str) -> tuple[Size, Size] | None:
    """Return the voxel size of a setup and the nanometres of its unit, z, y, x, as the XML beside its container says.

    Parameters
    ----------
    url : str
        A place for which `is_bdv` holds.

    Returns
    -------
    tuple or None
        None where there is no XML, or it is of another container, or names no setup of that number or no unit of length.

    Raises
    ------
    InputError
        ``input.broken-metadata``: it is no XML, or its numbers make no sense.
    """
    match = _SETUP.fullmatch(url)
    assert match is not None  # noqa: S101
    folder, name = parent_url(match["container"])
    key = f"{name.removesuffix('.n5').removesuffix('.h5')}.xml"
    text = read_small(folder, key) if folder else None
    if text is None:
        return None
    try:
        root = parse_xml(text.decode())
        if root.findtext(".//ImageLoader/n5", name).rpartition("/")[2] != name:
            return None
        sizes = [setup.find("voxelSize") for setup in root.iter("ViewSetup") if setup.findtext("id") == match["number"]]
        return _size(sizes[0]) if sizes and sizes[0] is not None else None
    except ValueError as error:
        raise broken(join_url(folder, key), f"is no XML of BigDataViewer: {error}") from error


def _size(stored: Element) -> tuple[Size, Size] | None:
    unit = nanometres_per(stored.findtext("unit"))
    x, y, z = (float(part) for part in stored.findtext("size", "").split())
    return None if unit is None else ((z, y, x), (unit, unit, unit))
