"""What the metadata of a format say, before the arrays themselves are looked at.

Each format's file turns its own metadata into a `ParsedMetadata`; `open` makes a `Volume` of it. Axes are already z, y, x here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from stat import S_ISREG
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.paths import refuse_special
from volumetool.storage.formats.reader import Reader
from volumetool.storage.io.arrays import SPACE, Driver
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url, list_keys, read_key
from volumetool.storage.io.limits import MOST_METADATA
from volumetool.storage.writing.layout import WrittenFormat

Json = dict[str, Any]

MOST_XML = 2**24
"""Characters of XML: 100,000 planes with a file each."""


@dataclass(frozen=True)
class FoundLevel:
    """A level as its metadata place it.

    Attributes
    ----------
    path : str
        Below the volume's URL.
    scale, translation : tuple of float
        z, y, x, in the units of `ParsedMetadata.unit`.
    """

    path: str
    scale: Size
    translation: Size = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ParsedMetadata:
    """A volume as its metadata describe it.

    Attributes
    ----------
    url, format, driver, axes, reader
        As in `Volume`.
    levels : tuple of FoundLevel
        Finest first.
    unit : tuple of float, or None
        Nanometres per unit of scale, for z, y, x; NaN along an axis whose unit is not known. None if the metadata name no unit
        of length: then scales are relative.
    attributes : mapping
        The attributes of the volume, as stored.
    conflict : str
        The voxel sizes that two places of the metadata state, where they are not the same: the user decides.
    """

    url: str
    format: str
    driver: Driver
    axes: tuple[str, ...]
    levels: tuple[FoundLevel, ...]
    unit: Size | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    reader: Reader | None = None
    conflict: str = ""


@dataclass(frozen=True)
class Format:
    """A format that is read, and perhaps written.

    Attributes
    ----------
    name : str
        Name of the format as users read it.
    find : callable
        Looks at a place, an absolute path or a URL, and describes the volume there; None where it is not of this format.
    endings : tuple of str
        How the names of its files usually end, where a single file may be such a volume. A file is asked whatever its name is;
        folders and URLs are always asked.
    written : tuple of WrittenFormat
        The ways in which it is written.
    """

    name: str
    find: Callable[[str], ParsedMetadata | None]
    endings: tuple[str, ...] = ()
    written: tuple[WrittenFormat, ...] = ()


def parse_xml(text: str) -> Element:
    """Return the root of an XML text that is no longer than metadata of images, and declares nothing.

    Raises
    ------
    ValueError
        It is no such text.
    """
    if len(text) > MOST_XML:
        raise ValueError(f"it has {len(text)} characters; at most {MOST_XML} are read")
    if "<!" in text.replace("<!--", ""):
        raise ValueError("it declares types or entities, which no writer of such files does")
    try:
        return fromstring(text)  # noqa: S314  (without declarations there is nothing to expand)
    except ParseError as error:
        raise ValueError(str(error)) from error


def read_json(url: str, key: str) -> Json | None:
    """Return a JSON object, or None if the file does not exist.

    Public buckets that may not be listed answer "forbidden" for keys that do not exist, so while formats are tried that means
    missing. A caller that needs the file calls `check_allowed`.

    Raises
    ------
    InputError
        ``input.broken-metadata``: the file is not a JSON object.
    """
    data = read_small(url, key)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise broken(join_url(url, key), f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise broken(join_url(url, key), f"holds a {type(value).__name__} where a JSON object is wanted")
    return value


def read_small(url: str, key: str) -> bytes | None:
    """Return the bytes of a metadata file; None if it does not exist, or is forbidden, as `read_json` explains.

    Raises
    ------
    InputError
        ``input.broken-metadata``: it is too long.
    """
    _check_size(url, key)
    try:
        return read_key(url, key)
    except InputError as error:
        if error.code != "input.forbidden":
            raise
        return None


def check_allowed(url: str, key: str) -> None:
    """Make sure that a file that was not found is missing, and neither forbidden nor in a bucket that does not exist.

    Raises
    ------
    InputError
        ``input.forbidden``, ``input.unlistable``.
    """
    read_key(url, key)
    if url.startswith(("s3://", "gs://")):
        try:
            list_keys(url, key)
        except InputError as error:
            if "NOT_FOUND" in error.message:
                raise


def _check_size(url: str, key: str) -> None:
    """Refuse a local file that is too long to be read at once; servers tell no size before."""
    found = refuse_special(file := f"{canonical_url(url)}/{key}") if is_local(url) else None
    if found is not None and S_ISREG(found.st_mode) and (size := found.st_size) > MOST_METADATA:
        raise broken(file, f"has {size} bytes; metadata have at most {MOST_METADATA}")


NONSENSE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What breaks over metadata that hold other things than they should."""


@contextmanager
def sense(url: str) -> Iterator[None]:
    """Turn any error over metadata into one that calls them senseless.

    Raises
    ------
    InputError
        ``input.broken-metadata``.
    """
    try:
        yield
    except NONSENSE as error:
        raise broken(url, f"has metadata that make no sense: {type(error).__name__}: {error}") from error


def broken(url: str, what: str) -> InputError:
    """Return the error for metadata that contradict their own format."""
    return InputError("input.broken-metadata", f"{url} {what}", hint="Restore or correct this file.", where=url)


def wrong_axes(url: str, found: object) -> InputError:
    """Return the error for an array whose axes are not those of a volume."""
    shown = ", ".join(map(str, found)) if isinstance(found, list | tuple) else str(found)
    return InputError(
        "input.axes",
        f"{url} has the axes {shown}; wanted are z, y, x, or y, x, with at most one c and a t of length 1",
        hint="Select one time point, or convert the data to a z, y, x volume first.",
        where=url,
    )


def are_axes(names: Sequence[str]) -> bool:
    """Return whether axes are those of a volume, or of one section of it."""
    return len(set(names)) == len(names) and {"y", "x"} <= set(names) <= {*SPACE, "c", "t"}


def scale_zyx(axes: Sequence[str], sizes: Sequence[float]) -> Size:
    """Return voxel sizes along z, y, x; where there is no z, a voxel is as thick as it is high."""
    by_axis = dict(zip(axes, sizes, strict=True))
    return zyx({"z": by_axis["y"], **by_axis})


def zyx(values: Mapping[str, float]) -> Size:
    """Return the values of the axes z, y, x, in this order."""
    return (float(values["z"]), float(values["y"]), float(values["x"]))
