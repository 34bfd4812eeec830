"""BigDataViewer's XML: the file beside an N5 container or HDF5 file that knows the unit of its voxel sizes and its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.storage.formats.base import broken, parse_xml, read_small
from volumetool.storage.formats.voxel_sizes import StatedSize
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.storage.io.urls import check_below
from volumetool.units import nanometres_per

_SETUP = re.compile(r"(?P<container>.+)/setup(?P<number>[0-9]+)(?:/timepoint(?P<time>[0-9]+)(?:/s[0-9]+)?)?")
_LOADERS = ("n5", "hdf5")


@dataclass(frozen=True)
class BdvSetup:
    """What the XML says of a setup.

    Attributes
    ----------
    size : StatedSize
        Its voxel size.
    shift : tuple of float
        The position of its first voxel, in voxels, z, y, x.
    """

    size: StatedSize
    shift: Size


def is_bdv(url: str) -> bool:
    """Return whether a place is where BigDataViewer keeps a setup, a time point of it or a level of that."""
    return _SETUP.fullmatch(url) is not None


def find_container(url: str) -> str | None:
    """Return the N5 container or HDF5 file that an XML is about; None where there is no XML of BigDataViewer.

    Raises
    ------
    InputError
        ``input.broken-metadata``: it is no XML. ``input.url``: the container does not lie beside it.
    """
    folder, key = parent_url(url)
    text = read_small(folder, key) if url.lower().endswith(".xml") and folder else None
    if text is None or b"<SpimData" not in text:
        return None
    root = _parse(url, text)
    named = next((found for each in _LOADERS if (found := root.findtext(f".//ImageLoader/{each}"))), None)
    return None if named is None else join_url(folder, check_below(folder, named.strip()))


def find_setup(url: str) -> BdvSetup | None:
    """Return what the XML beside a container says of a setup.

    Parameters
    ----------
    url : str
        A place for which `is_bdv` holds.

    Returns
    -------
    BdvSetup or None
        None where there is no XML, or it is of another container, or names no setup of that number.

    Raises
    ------
    InputError
        ``input.broken-metadata``: it is no XML, or its numbers make no sense. ``input.axes``: the setup is turned or sheared.
    """
    match = _SETUP.fullmatch(url)
    assert match is not None  # noqa: S101
    folder, name = parent_url(match["container"])
    key = f"{name.removesuffix('.n5').removesuffix('.h5')}.xml"
    text = read_small(folder, key) if folder else None
    if text is None:
        return None
    place = join_url(folder, key)
    root = _parse(place, text)
    if root.findtext(".//ImageLoader/n5", name).rpartition("/")[2] != name:
        return None
    sizes = [setup.find("voxelSize") for setup in root.iter("ViewSetup") if setup.findtext("id") == match["number"]]
    if not sizes or sizes[0] is None:
        return None
    try:
        return BdvSetup(_size(sizes[0]), _shift(place, root, match["number"], match["time"] or "0"))
    except ValueError as error:
        raise broken(place, f"is no XML of BigDataViewer: {error}") from error


def _parse(place: str, text: bytes) -> Element:
    try:
        return parse_xml(text.decode())
    except ValueError as error:
        raise broken(place, f"is no XML of BigDataViewer: {error}") from error


def _size(stored: Element) -> StatedSize:
    unit = nanometres_per(stored.findtext("unit"))
    x, y, z = (float(part) for part in stored.findtext("size", "").split())
    return StatedSize("the XML beside it", (z, y, x), None if unit is None else (unit, unit, unit))


def _shift(place: str, root: Element, setup: str, time: str) -> Size:
    """Return where the transforms of a setup place its first voxel, in voxels; the last of them is applied first."""
    matrix = np.eye(4)
    for view in root.iter("ViewRegistration"):
        if (view.get("setup"), int(view.get("timepoint", 0))) == (setup, int(time)):
            for affine in view.iter("affine"):
                rows = np.array([float(part) for part in (affine.text or "").split()]).reshape(3, 4)
                matrix = matrix @ np.vstack([rows, [0, 0, 0, 1]])
    scale, shift = np.diag(matrix)[:3], matrix[:3, 3]
    if np.count_nonzero(matrix[:3, :3]) > len(scale) or not (scale > 0).all():
        raise InputError(
            "input.axes",
            f"{place} turns, mirrors or shears setup {setup}; only scale and translation along the axes are read",
            hint="Fuse it in BigStitcher first; or take it as it is stored: move the XML away, and give --voxel-size.",
            where=place,
        )
    x, y, z = (float(at) for at in shift / scale)
    return z, y, x
