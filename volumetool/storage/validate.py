"""Return whether a volume is conformant OME-Zarr, and of N5 and precomputed, too, whether its levels lie where they should.

yaozarrs checks structure and metadata against the specification, through tensorstore so that buckets work alike. What
no validator checks is checked here: equal dtypes, level shapes that fit their scales, the half-voxel shift of averaged
levels, positive scales, dimension names, units, display settings. What mends a volume is a copy of what can be read of it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isnan, prod
from shlex import quote
from typing import Any, cast

import yaozarrs

from volumetool.errors import InputError, VolumetoolError
from volumetool.geometry.box import Size, Triple
from volumetool.storage.formats.base import NONSENSE, FoundLevel, ParsedMetadata, read_json, read_small, sense
from volumetool.storage.formats.n5 import find_n5
from volumetool.storage.formats.ome_zarr import find_ome_zarr, ome_of, omero_faults
from volumetool.storage.formats.precomputed import find_precomputed_volume
from volumetool.storage.io.arrays import PRECOMPUTED, SPACE
from volumetool.storage.io.kvstore import canonical_url, join_url
from volumetool.storage.open import open_levels, open_volume
from volumetool.storage.volume import Volume
from volumetool.units import is_long_name, show_size

_TOLERANCE = 1e-6
_ROOTS = ("zarr.json", ".zattrs", "attributes.json", "info")
"""Files that say what a place is: of OME-Zarr the first two."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a volume.

    Attributes
    ----------
    code : str
        Stable name, such as ``"validate.level-shape"``.
    message : str
        What clashed, with both values.
    path : str
        The level or metadata file; empty for the volume as a whole.
    hint : str
        What mends it: a command, where one can.
    """

    code: str
    message: str
    path: str = ""
    hint: str = ""


def validate_volume(url: str) -> list[Finding]:
    """Check an OME-Zarr, N5 or precomputed volume; a conformant one has no findings.

    Voxels are not read. Of N5 and precomputed, which no specification binds, it is what their levels hold and where they lie.

    Parameters
    ----------
    url : str
        Local path, or URL.

    Returns
    -------
    list of Finding
        With the codes ``validate.ome-zarr`` (the specification is broken), ``validate.ome-zarr-warning`` (a SHOULD is
        not followed), ``validate.unreadable``, ``validate.dtype``, ``validate.scale``, ``validate.order``,
        ``validate.unit``, ``validate.dimension-names``, ``validate.level-shape``, ``validate.translation``,
        ``validate.omero`` (display settings).

    Raises
    ------
    InputError
        ``input.not-a-volume``: there are no metadata of these. ``input.version``: OME-Zarr 0.6.
    """
    place = canonical_url(url)
    is_ome = any(read_json(place, key) is not None for key in _ROOTS[:2])
    if not is_ome and not any(read_json(place, key) is not None for key in _ROOTS[2:]):
        raise InputError(
            "input.not-a-volume",
            f"{place} has neither zarr.json, .zattrs, attributes.json nor info; OME-Zarr, N5 and precomputed can be validated",
            hint="Convert the volume first: volumetool convert",
            where=place,
        )
    findings = list(_by_the_specification(place)) if is_ome else []
    found = None
    try:
        with sense(place):
            found = find_ome_zarr(place) if is_ome else find_n5(place) or find_precomputed_volume(place)
            if found is not None:
                findings += _own_checks(found)
    except VolumetoolError as error:
        findings.append(Finding("validate.unreadable", error.message, error.where or "", error.hint))
        if error.code in ("input.labels", "input.not-a-volume", "input.version"):
            return findings  # no copy makes a volume of it
    if found is not None and found.format == "ome-zarr-0.6":
        raise InputError(
            "input.version",
            f"{place} is OME-Zarr 0.6; versions up to 0.5 can be validated",
            hint=f"`volumetool info {place}` says what is read of it; `volumetool convert` writes 0.5.",
            where=place,
        )
    mended_by = _mended_by(place, found) if findings else ""
    return [replace(finding, hint=" ".join(filter(None, (finding.hint, mended_by)))) for finding in findings]


def _mended_by(place: str, found: ParsedMetadata | None) -> str:
    """Return the command that copies what can be read of a volume: its finest level, of which `convert` makes the rest."""
    places = [place]
    if found is not None:
        finest = min(found.levels[0], found.levels[-1], key=lambda level: prod(level.scale))
        places.append(join_url(place, finest.path))
    for size, option in ((None, ""), ((1.0, 1.0, 1.0), " --voxel-size z,y,x")):
        if readable := [volume for each in places if (volume := _readable(each, size)) is not None]:
            volume = max(readable, key=lambda volume: prod(volume.shape))  # the first of equals: the volume before its level 0
            ending = {"n5": ".n5", "precomputed": ".precomputed"}.get(volume.format, ".zarr")
            version = " --format ome-zarr-0.4" if volume.driver == "zarr" else ""
            command = f"Write it anew: volumetool convert {quote(volume.url)} NEW{ending}{version}{option}."
            what = f"That has voxels of {show_size(volume.voxel_size)}, the first at {volume.translation} nm (z, y, x)."
            return command if option else f"{command} {what}"
    file = next(key for key in _ROOTS if read_json(place, key) is not None)
    return f"Correct {join_url(place, file)} by hand: no copy can be made of what it says."


def _readable(place: str, voxel_size: Size | None) -> Volume | None:
    try:
        return open_volume(place, voxel_size=voxel_size)
    except VolumetoolError:
        return None


class _Keys(Mapping[str, bytes]):
    """The files below a place, as yaozarrs wants them: an fsspec mapping, of whose file system it asks two names."""

    protocol = "place"

    def __init__(self, url: str) -> None:
        self._url = self.root = url
        self.fs = self

    def unstrip_protocol(self, path: str) -> str:
        return path

    def __getitem__(self, key: str) -> bytes:
        data = read_small(self._url, key)
        if data is None:
            raise KeyError(key)
        return _versioned(data) if key == ".zattrs" else data

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _versioned(attributes: bytes) -> bytes:
    """Return the attributes of a group with the version 0.4 where an image has none, as it may: yaozarrs asks for one."""
    value = json.loads(attributes)
    with suppress(*NONSENSE):
        value["multiscales"][0].setdefault("version", "0.4")
    return json.dumps(value).encode()


def _by_the_specification(place: str) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            yaozarrs.validate_zarr_store(yaozarrs.ZarrGroup(cast("Any", _Keys(place))))
        except (OSError, NotImplementedError, *NONSENSE) as error:
            yield from _sentences("validate.ome-zarr", error, getattr(error, "errors", list))
    for warning in seen:
        yield from _sentences("validate.ome-zarr-warning", warning.message, getattr(warning.message, "warnings", list))


def _sentences(code: str, said: object, tell: Callable[[], Iterable[Mapping[str, Any]]]) -> Iterator[Finding]:
    """Turn what yaozarrs and pydantic found into one plain sentence each: which member, and what is wrong with it."""
    details = tell()
    texts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details] or [str(said)]
    for text in texts:
        plain = text.replace("Value error, ", "").split("\n")[0].strip()
        unversioned = "discriminator" in plain or plain.startswith("Unable to determine")
        yield Finding(code, "the metadata are none of the version that they state, or state none" if unversioned else plain)


def _own_checks(found: ParsedMetadata) -> list[Finding]:
    arrays = open_levels(found)
    shapes = [_spatial(array.shape, found.axes) for array in arrays]
    is_ome = found.format.startswith("ome-zarr")
    said = [*_ome_zarr(found), *_omero(found, arrays[0].shape)] if is_ome else _known_unit(found)
    findings = [*_scales(found.levels), *said]
    dtypes = [array.dtype.name for array in arrays]
    findings += [
        Finding("validate.dtype", f"the level holds {dtype}, level 0 holds {dtypes[0]}", level.path)
        for level, dtype in zip(found.levels, dtypes, strict=True)
        if dtype != dtypes[0]
    ]
    if any(finding.code == "validate.scale" for finding in findings):
        return findings
    return [*findings, *_shapes(found.levels, shapes), *_translations(found)]


def _ome_zarr(found: ParsedMetadata) -> Iterator[Finding]:
    """Check what OME-Zarr alone has."""
    yield from (*_place(found), *_units(found), *_names(found))
    image = ome_of(found.attributes)["multiscales"][0]
    wanted = ("name", "type", "metadata", *(["version"] if found.driver == "zarr" else []))
    if missing := [member for member in wanted if member not in image]:
        text = f"the image has no {', '.join(missing)}: it should say how it is called, how levels were made, and a version"
        yield Finding("validate.ome-zarr-warning", text)


def _omero(found: ParsedMetadata, shape: Sequence[int]) -> Iterator[Finding]:
    if "omero" in (ome := ome_of(found.attributes)):
        channels = dict(zip(found.axes, shape, strict=True)).get("c")
        yield from (Finding("validate.omero", fault) for fault in omero_faults(ome["omero"], channels))


def _place(found: ParsedMetadata) -> Iterator[Finding]:
    """Check that the metadata stand where their version has them: readers of the other version look elsewhere."""
    if len({found.format == "ome-zarr-0.5", found.driver == "zarr3", "ome" in found.attributes}) > 1:
        text = "the metadata are not where their version has them: 0.4 in .zattrs, 0.5 in zarr.json below 'ome'"
        yield Finding("validate.ome-zarr", text)


def _scales(levels: Sequence[FoundLevel]) -> Iterator[Finding]:
    for level in levels:
        if min(level.scale) <= 0:
            yield Finding("validate.scale", f"the scale is {level.scale}; it must be greater than 0", level.path)
    for finer, coarser in pairwise(levels):
        if any(a > b for a, b in zip(finer.scale, coarser.scale, strict=True)):
            text = f"the scale is {coarser.scale}, finer than {finer.scale} of the level before"
            yield Finding("validate.order", text, coarser.path)


def _units(found: ParsedMetadata) -> Iterator[Finding]:
    for axis in _stated_axes(found):
        unit = axis.get("unit") if isinstance(axis, dict) else None
        if isinstance(axis, dict) and str(axis.get("name")) in SPACE and not is_long_name(unit):
            text = f"axis {axis['name']} has the unit {unit!r}; wanted is a full name such as 'nanometer'"
            yield Finding("validate.unit", text)


def _known_unit(found: ParsedMetadata) -> Iterator[Finding]:
    if found.unit is None or any(map(isnan, found.unit)):
        yield Finding("validate.unit", "no unit of length is stated, or not for every axis")


def _stated_axes(found: ParsedMetadata) -> list[Any]:
    axes: list[Any] = ome_of(found.attributes)["multiscales"][0].get("axes", [])
    return axes


def _names(found: ParsedMetadata) -> Iterator[Finding]:
    """Check 0.5's rule that each array carries the names of the axes; Zarr 2 has no such names."""
    if found.driver != "zarr3":
        return
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in _stated_axes(found)]
    for level in found.levels:
        names = (read_json(join_url(found.url, level.path), "zarr.json") or {}).get("dimension_names")
        if names != axes:
            text = f"the array's dimension_names are {names}, the axes are {axes}"
            yield Finding("validate.dimension-names", text, level.path)


def _shapes(levels: Sequence[FoundLevel], shapes: Sequence[Triple]) -> Iterator[Finding]:
    """Check that a level covers level 0, rounded up or down to whole voxels: writers differ in that."""
    for level, shape in zip(levels[1:], shapes[1:], strict=True):
        factor = [a / b for a, b in zip(level.scale, levels[0].scale, strict=True)]
        wanted = [n / f for n, f in zip(shapes[0], factor, strict=True)]
        # Repeated rounding adds up to one voxel in all: each rounding's rest is halved by the next.
        if any(abs(n - exact) > 1 + _TOLERANCE for n, exact in zip(shape, wanted, strict=True)):
            exact = ", ".join(f"{n:.2f}" for n in wanted)
            text = f"the shape is {shape}, but its scale over that of level 0 asks for ({exact})"
            yield Finding("validate.level-shape", text, level.path)


def _translations(found: ParsedMetadata) -> Iterator[Finding]:
    levels = found.levels
    share = 0.5 + _TOLERANCE if found.driver == PRECOMPUTED else _TOLERANCE  # its levels lie at whole voxels of their own
    for level in levels[1:]:
        wanted = _averaged(levels[0], level)
        off = [abs(a - b) for a, b in zip(level.translation, wanted, strict=True)]
        if any(distance > share * size for distance, size in zip(off, level.scale, strict=True)):
            text = (
                f"the translation is {level.translation}; the mean over blocks of level 0 lies at {wanted}, half the "
                "difference of the voxel sizes further in"
            )
            yield Finding("validate.translation", text, level.path)


def _averaged(first: FoundLevel, level: FoundLevel) -> Size:
    z, y, x = (
        origin + (coarse - fine) / 2 for origin, coarse, fine in zip(first.translation, level.scale, first.scale, strict=True)
    )
    return (z, y, x)


def _spatial(shape: Sequence[int], axes: tuple[str, ...]) -> Triple:
    by_axis = dict(zip(axes, shape, strict=True))
    return (by_axis.get("z", 1), by_axis["y"], by_axis["x"])
