"""What the metadata of OME-TIFF and ImageJ files say of their sections: where each stands, and how large its voxels are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any
from xml.etree.ElementTree import Element

import tifffile

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.storage.formats.base import parse_xml
from volumetool.storage.formats.voxel_sizes import StatedSize, size_by_axis
from volumetool.storage.io.limits import LONGEST_AXIS

_AXES = ("Z", "C", "T")


@dataclass(frozen=True)
class TextBlock:
    """Sections that follow each other in one file.

    Attributes
    ----------
    first : int
        The first of them, counted from 0.
    count : int or None
        How many; None for all that are left.
    page : int
        The page of the first, counted from 0.
    file : str or None
        The name of the file; None for the file that says so.
    uuid : str or None
        The identity that the other file must have.
    """

    first: int
    count: int | None
    page: int
    file: str | None
    uuid: str | None


@dataclass(frozen=True)
class Ome:
    """The image that an OME-TIFF file describes.

    Attributes
    ----------
    uuid : str or None
        The identity of the file.
    depth : int
        Number of sections.
    blocks : tuple of TextBlock
        Where they stand.
    """

    uuid: str | None
    depth: int
    blocks: tuple[TextBlock, ...]


def read_ome(file: str, text: str) -> Ome:
    """Read the description of an OME-TIFF file.

    Raises
    ------
    InputError
        ``input.axes``: several images, channels or time points beside sections. ``input.broken-metadata``: no valid OME-XML,
        or the description stands in another file.
    """
    root = _parse(file, text)
    if (elsewhere := root.find("{*}BinaryOnly")) is not None:
        place = elsewhere.get("MetadataFile", "another file")
        raise _broken(file, f"has its metadata in {place}", f"Give {place}, if it is a TIFF file: it knows all files.")
    images = root.findall("{*}Image")
    pixels = [image.find("{*}Pixels") for image in images]
    if len(pixels) != 1 or pixels[0] is None:
        names = ", ".join(image.get("Name") or image.get("ID") or "?" for image in images[:5])
        raise InputError(
            "input.axes",
            f"{file} holds {len(images)} images ({names}); wanted is one stack of sections",
            hint="Save each of them (positions, tiles, thumbnails) as a file of its own.",
            where=file,
        )
    try:
        axis, depth = _depth(file, pixels[0])
        blocks = tuple(_blocks(pixels[0], axis))
    except (ValueError, KeyError) as error:
        raise _broken(file, f"has OME metadata that make no sense: {error}", "Save it again.") from error
    return Ome(root.get("UUID"), depth, blocks or (TextBlock(0, None, 0, None, None),))


def ome_depth(file: str, text: str) -> int:
    """Return how many sections the image has of which an OME-TIFF file is a part; 1 if the file does not say."""
    pixels = _parse(file, text).find("{*}Image/{*}Pixels")
    try:
        return 1 if pixels is None else _depth(file, pixels)[1]
    except (ValueError, KeyError):
        return 1


def ome_uuid(file: str, text: str) -> str | None:
    """Return the identity that an OME-TIFF file gives itself."""
    return _parse(file, text).get("UUID")


def _parse(file: str, text: str) -> Element:
    try:
        return parse_xml(text)
    except ValueError as error:
        raise _broken(file, f"has OME metadata that are no XML: {error}", "Save it again.") from error


def _depth(file: str, pixels: Element) -> tuple[str, int]:
    """Return the axis along which sections follow each other, and how many they are."""
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in _AXES}
    long = [axis for axis, size in sizes.items() if size != 1]
    if not all(1 <= size <= LONGEST_AXIS for size in sizes.values()):
        raise ValueError(f"sizes {sizes}")
    if len(long) > 1 or "C" in long:
        raise wrong_axes(file, sizes)
    axis = long[0] if long else "Z"
    return axis, sizes[axis]


def wrong_axes(file: str, sizes: dict[str, int]) -> InputError:
    """Return the error for a stack of more than sections."""
    said = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
    return InputError(
        "input.axes",
        f"{file} has the axes {said} beside rows and columns; wanted are sections of grey values (ZYX)",
        hint="Save one channel and one time point as a file of its own.",
        where=file,
    )


def _blocks(pixels: Element, axis: str) -> Iterator[TextBlock]:
    for data in pixels.findall("{*}TiffData"):
        page, count = data.get("IFD"), data.get("PlaneCount")
        other = data.find("{*}UUID")
        yield TextBlock(
            first=int(data.get(f"First{axis}", 0)),
            count=int(count) if count is not None else (None if page is None else 1),
            page=int(page or 0),
            file=None if other is None else other.get("FileName"),
            uuid=None if other is None else (other.text or "").strip() or None,
        )


def ome_size(file: str, text: str) -> StatedSize | None:
    """Return the voxel size that OME metadata state; None where they state no length."""
    pixels = _parse(file, text).find("{*}Image/{*}Pixels")
    if pixels is None:
        return None
    # The OME schema's default unit is the micrometre.
    numbers = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    return size_by_axis("OME's PhysicalSize", numbers, [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"])


def read_imagej(text: str) -> dict[str, Any]:
    """Return what ImageJ wrote, by name."""
    return dict(tifffile.tifffile.imagej_description_metadata(text))


def imagej_depth(file: str, metadata: dict[str, Any]) -> int:
    """Return how many sections ImageJ says that a file holds.

    Raises
    ------
    InputError
        ``input.axes``: channels, or time points beside sections.
    """
    sizes = {name: int(metadata.get(name, 1)) for name in ("channels", "slices", "frames")}
    if sizes["channels"] > 1 or min(sizes["slices"], sizes["frames"]) > 1:
        raise wrong_axes(file, sizes)
    return int(metadata.get("images", max(sizes.values())))


def imagej_size(metadata: Mapping[str, Any], per_unit: tuple[float, float]) -> StatedSize | None:
    """Return the voxel size that ImageJ wrote; None where it is in no unit of length."""
    y, x = (1 / pixels if pixels > 0 else nan for pixels in per_unit)
    units = [_unescaped(str(metadata.get(f"{axis}unit", metadata.get("unit")))) for axis in "zyx"]
    return size_by_axis("ImageJ's text", [metadata.get("spacing"), y, x], units)


def imagej_origin(metadata: Mapping[str, Any]) -> Size:
    """Return where the origin of ImageJ's coordinates lies, in voxels, z, y, x."""
    found = [metadata.get(f"{axis}origin", 0) for axis in "zyx"]
    z, y, x = (float(at) if isinstance(at, int | float) else 0.0 for at in found)
    return (z, y, x)


def _unescaped(text: str) -> str:
    """Return a text in which ImageJ wrote a character such as µ by its number."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


def _broken(file: str, what: str, hint: str) -> InputError:
    return InputError("input.broken-metadata", f"{file} {what}", hint=hint, where=file)
