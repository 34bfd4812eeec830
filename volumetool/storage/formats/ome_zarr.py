"""OME-Zarr metadata up to 0.6: versions 0.4 and 0.5 differ only in where they stand and in the Zarr version below.

Reading is tolerant where the meaning is clear: short unit names, transformations in any order, a missing version, metadata
where the other version has them. Versions 0.1 and 0.2 name no axes, they are t, c, z, y, x; none before 0.4 knows a voxel size,
so that their levels are told apart by their shapes. An image of y and x alone is a volume of one section.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from typing import Any

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.storage.formats.base import (
    Format,
    FoundLevel,
    Json,
    ParsedMetadata,
    are_axes,
    broken,
    read_json,
    scale_zyx,
    wrong_axes,
    zyx,
)
from volumetool.storage.formats.coordinate_systems import STEPS, has_systems, in_one_system
from volumetool.storage.formats.voxel_sizes import StatedSize, contradiction, stated_by_daisy
from volumetool.storage.io.arrays import SPACE, Driver
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.storage.io.urls import check_below
from volumetool.storage.writing.layout import OWN_KEY
from volumetool.storage.writing.names import ReductionMethod
from volumetool.storage.writing.ome_zarr import SHARDED, UNSHARDED, V04
from volumetool.units import nanometres_per

_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")
_NUMBER = re.compile(r"[0-9]+\.[0-9]+")
_OWN_MEMBERS = ("ome", "multiscales", "omero", "bioformats2raw.layout", "labels", OWN_KEY)
_OLD_AXES = ("t", "c", *SPACE)
"""Axes of versions that name none; fewer dimensions are the last of these."""

_COLOR = re.compile("[0-9A-Fa-f]{6}")
_WINDOW = ("min", "max", "start", "end")

# Levels of one volume lie at most this deep below its group in any layout seen ("scale0/image").
_DEEPEST_LEVEL = 3


def find_ome_zarr(url: str) -> ParsedMetadata | None:
    """Describe the OME-Zarr image at a place.

    Returns
    -------
    ParsedMetadata or None
        None if no OME-Zarr metadata are there.

    Raises
    ------
    InputError
        ``input.not-a-volume``: a plate, a collection of labels or of several images. ``input.labels``: a label image.
        ``input.version``: later than 0.6. ``input.unsupported``: placed by other transformations than scale and translation.
        ``input.axes``, ``input.broken-metadata``.
    """
    attributes, driver = _attributes(url)
    ome = ome_of(attributes)
    if not isinstance(attributes.get("ome", {}), dict):
        raise broken(url, "has 'ome' metadata that are not an object")
    if "multiscales" in ome:
        _refuse_labels(url, ome)
        return _image(url, attributes, driver)
    if "bioformats2raw.layout" in ome:
        return _only_image(url)
    _refuse_collections(url, ome)
    return None


def find_level(url: str) -> ParsedMetadata | None:
    """Describe an array that is one level of an OME-Zarr image, with the scale that the image's metadata give it."""
    group, path = parent_url(url)
    for _ in range(_DEEPEST_LEVEL):
        if not group:
            return None
        attributes, driver = _attributes(group)
        if "multiscales" in ome_of(attributes):
            return _level_of(url, path, _image(group, attributes, driver))
        group, name = parent_url(group)
        path = f"{name}/{path}"
    return None


def ome_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME-Zarr metadata among the attributes of a group: 0.5 gives them a member of their own."""
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def said_reduction(root: Json) -> ReductionMethod:
    """Return how an image says that its levels were made: ``mode``, or else ``mean``.

    Parameters
    ----------
    root : dict
        Content of the file that describes the group: ``zarr.json``, or ``.zattrs``.
    """
    images = ome_of(root.get("attributes", root)).get("multiscales")
    first = images[0] if isinstance(images, list) and images else None
    return "mode" if isinstance(first, dict) and first.get("type") == "mode" else "mean"


def name_and_rest(root: Json) -> tuple[str, Json]:
    """Return an image's name, and what its metadata say beside its levels: ``omero``, and attributes of others.

    Parameters
    ----------
    root : dict
        Content of the file that describes the group: ``zarr.json``, or ``.zattrs``.
    """
    attributes = root.get("attributes", {}) if "node_type" in root else root
    ome = ome_of(attributes)
    rest = {name: value for name, value in attributes.items() if name not in _OWN_MEMBERS}
    images = ome.get("multiscales") or [{}]
    return str(images[0].get("name") or ""), rest | ({"omero": ome["omero"]} if "omero" in ome else {})


def omero_faults(omero: Any, channels: int | None) -> Iterator[str]:
    """Yield what is wrong with the display settings of an image.

    Parameters
    ----------
    omero : any
        What the image's metadata have as ``omero``.
    channels : int or None
        Length of the image's c axis; None if there is none.
    """
    described = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(described, list):
        yield "'omero' has no list of channels"
        return
    if len(described) != (channels or 1):
        yield f"'omero' describes {len(described)} channels, the image has {channels or 1}"
    for number, channel in enumerate(described):
        said = channel if isinstance(channel, dict) else {}
        color, window = said.get("color"), said.get("window")
        if not isinstance(color, str) or not _COLOR.fullmatch(color):
            yield f"the color of 'omero' channel {number} is {color!r}; wanted are six hexadecimal digits such as 'FFFFFF'"
        if not isinstance(window, dict) or not all(isinstance(window.get(name), int | float) for name in _WINDOW):
            yield f"the window of 'omero' channel {number} is {window}; wanted are numbers for {', '.join(_WINDOW)}"


def _level_of(url: str, path: str, image: ParsedMetadata) -> ParsedMetadata | None:
    _refuse_labels(url, ome_of(image.attributes))
    for level in image.levels:
        if level.path.strip("/") == path:
            alone = FoundLevel("", level.scale, level.translation)
            return replace(image, url=url, levels=(alone,), attributes={})
    return None


def _attributes(url: str) -> tuple[Json, Driver]:
    """Return the attributes of the group at a place, and the driver of its arrays."""
    group = read_json(url, "zarr.json")
    if group is not None:
        attributes = group.get("attributes", {})
        return (attributes if isinstance(attributes, dict) else {}), "zarr3"
    return read_json(url, ".zattrs") or {}, "zarr"


def _image(url: str, attributes: Json, driver: Driver) -> ParsedMetadata:
    ome = ome_of(attributes)
    multiscales = ome["multiscales"]
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        raise broken(url, "has 'multiscales' metadata that are not a list of objects")
    image = multiscales[0]
    stated = ome.get("version") or image.get("version")
    number = _NUMBER.match(str(stated)) if stated else None  # drafts have more behind it, such as 0.6.dev3
    version = number[0] if number else str(stated or ("0.5" if driver == "zarr3" else "0.4"))
    if version not in _VERSIONS:
        raise _wrong_version(url, str(stated))
    try:
        image, notes = in_one_system(url, image) if has_systems(image) else (image, ())
        axes = _axis_names(url, image, lambda: len(_shape(url, image["datasets"][0], driver)))
        datasets = _placed(url, image["datasets"], driver)
        shared = image.get(STEPS) or []
        levels = tuple(_level(url, dataset, shared, axes) for dataset in datasets)
    except (KeyError, TypeError, AttributeError) as error:
        raise broken(url, f"has 'multiscales' metadata without the expected member {error}") from error
    if not levels:
        raise broken(url, "has 'multiscales' metadata without datasets")
    if "z" not in axes:  # one section, as thick on all levels
        levels = tuple(replace(level, scale=(levels[0].scale[1], *level.scale[1:])) for level in levels)
    sized = any("scale" in step for step in [*(image["datasets"][0].get(STEPS) or []), *shared])
    unit = _units(image.get("axes") or [], axes, levels[0].scale) if sized else None
    proper = driver == "zarr3" and version in ("0.5", "0.6") and "ome" in attributes
    name = f"ome-zarr-{version}" if proper else "ome-zarr-0.4"
    if notes:
        attributes = {**attributes, OWN_KEY: {**(attributes.get(OWN_KEY) or {}), "notes": list(notes)}}
    conflict = _conflict(url, levels[0], unit, axes)
    return ParsedMetadata(url, name, driver, axes, levels, unit, attributes, conflict=conflict)


def _conflict(url: str, first: FoundLevel, unit: Size | None, axes: tuple[str, ...]) -> str:
    """Return in words how the attributes of the finest array contradict the image's metadata."""
    own, _ = _attributes(join_url(url, check_below(url, first.path)))
    return contradiction([StatedSize("its multiscales", first.scale, unit), *stated_by_daisy(own, axes)])


def _axis_names(url: str, image: Json, rank: Callable[[], int]) -> tuple[str, ...]:
    """Return z, y, x, c, t for the axes as stored, whatever the metadata call them."""
    if "axes" not in image:
        if not 2 <= (number := rank()) <= len(_OLD_AXES):
            raise wrong_axes(url, f"of an array of {number} dimensions")
        return _OLD_AXES[-number:]
    names = []
    for axis in image["axes"]:
        # Version 0.3 lists bare names.
        name, kind = (axis, None) if isinstance(axis, str) else (str(axis["name"]), axis.get("type"))
        names.append({"channel": "c", "time": "t"}.get(str(kind), name.lower()))
    if not are_axes(names):
        raise wrong_axes(url, names)
    return tuple(names)


def _units(described: Sequence[Any], axes: tuple[str, ...], scale: Size) -> Size | None:
    """Return the nanometres of each axis's unit, NaN where they are not known; None where no axis has a unit.

    Some writers give y and x a unit and none to z. A size along z is then in that unit, too; but the size 1 is what they write
    where they know none.
    """
    units = {name: axis.get("unit") for name, axis in zip(axes, described, strict=False) if isinstance(axis, dict)}
    stated = {name: unit for name, unit in units.items() if unit}
    known = {axis: nanometres_per(stated[axis]) or nan for axis in SPACE if axis in stated}
    if not known or all(map(isnan, known.values())):
        return None
    (shared, *others) = set(known.values())
    sizes = dict(zip(SPACE, scale, strict=True))
    missing = {axis: nan if others or sizes[axis] == 1 else shared for axis in SPACE if axis not in known}
    if "z" not in axes:
        missing["z"] = known.get("y", nan)
    return zyx({**known, **missing})


def _placed(url: str, datasets: Sequence[Json], driver: Driver) -> list[Json]:
    """Return datasets with a scale each: where the metadata have none, as the shapes of the arrays show."""
    bare = [dataset["path"] for dataset in datasets[1:] if not dataset.get(STEPS)]
    if not bare:
        return list(datasets)
    if len(bare) < len(datasets) - 1 or datasets[0].get(STEPS):
        raise broken(url, f"gives some levels a scale, but not {', '.join(map(str, bare))}")
    first, placed = _shape(url, datasets[0], driver), []
    for dataset in datasets:
        factors = [max(1, round(n / m)) for n, m in zip(first, _shape(url, dataset, driver), strict=True)]
        shifts = [(factor - 1) / 2 for factor in factors]  # levels are means of blocks, or take their place
        steps = [{"type": "scale", "scale": factors}, {"type": "translation", "translation": shifts}]
        placed.append({**dataset, STEPS: steps})
    return placed


def _shape(url: str, dataset: Json, driver: Driver) -> list[int]:
    place = join_url(url, check_below(url, str(dataset["path"])))
    shape = (read_json(place, "zarr.json" if driver == "zarr3" else ".zarray") or {}).get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise broken(place, "has no array with a shape there, though the metadata list it as a level")
    return shape


def _level(url: str, dataset: Json, shared: Sequence[Json], axes: tuple[str, ...]) -> FoundLevel:
    """Apply the level's transformations, then those of the whole image, in the order given."""
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    for step in [*(dataset.get(STEPS) or []), *shared]:
        kind = step["type"]
        values = step.get(kind)
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or not isinstance(values, list) or len(values) != len(axes):
            raise broken(url, f"has the transformation {step}; wanted are scale and translation with {len(axes)} numbers")
        if kind == "scale":
            scale = [old * float(factor) for old, factor in zip(scale, values, strict=True)]
            translation = [old * float(factor) for old, factor in zip(translation, values, strict=True)]
        else:
            translation = [old + float(shift) for old, shift in zip(translation, values, strict=True)]
    shift = dict(zip(axes, translation, strict=True))
    return FoundLevel(str(dataset["path"]), scale_zyx(axes, scale), zyx({"z": 0.0, **shift}))


def _refuse_labels(url: str, ome: Mapping[str, Any]) -> None:
    if "image-label" in ome:
        raise InputError(
            "input.labels",
            f"{url} is a label image (it has 'image-label' metadata); wanted is an intensity image",
            hint="Give the image that the labels belong to, usually two levels up.",
            where=url,
        )


def _refuse_collections(url: str, ome: Mapping[str, Any]) -> None:
    seen, hint = "", ""
    if "plate" in ome or "well" in ome:
        seen, hint = "a plate or well of many images", "Give one field of view, such as PLATE/A/1/0."
    elif isinstance(ome.get("labels"), list):
        seen, hint = f"a collection of labels ({', '.join(map(str, ome['labels']))})", "Give the image one level up."
    elif "series" in ome:
        names = ", ".join(map(str, ome["series"]))
        seen, hint = f"a collection of the images {names}", "Give one of them, with its name behind the URL."
    elif "scene" in ome:
        steps = (ome["scene"] or {}).get(STEPS) or []
        ends = [step[end] for step in steps for end in ("input", "output") if isinstance(step[end], dict)]
        names = ", ".join(sorted({str(end["path"]) for end in ends if end.get("path")})) or "(none)"
        seen = f"a scene of the images {names}, placed by transformations"
        hint = "Give one of them, with its name behind the URL; it is taken as it lies by itself."
    if seen:
        raise InputError("input.not-a-volume", f"{url} is {seen}, not one volume", hint=hint, where=url)


def _only_image(url: str) -> ParsedMetadata | None:
    """Open the single image of a bioformats2raw container."""
    names = ome_of(_attributes(join_url(url, "OME"))[0]).get("series")
    if not isinstance(names, list):
        names = [name for name in ("0", "1") if _attributes(join_url(url, name))[0]]
    if len(names) == 1:
        return find_ome_zarr(join_url(url, check_below(url, str(names[0]))))
    raise InputError(
        "input.not-a-volume",
        f"{url} is a collection of the images {', '.join(map(str, names)) or '(none)'}, not one volume",
        hint=f"Give one of them, such as {join_url(url, '0')}.",
        where=url,
    )


def _wrong_version(url: str, stated: str) -> InputError:
    return InputError(
        "input.version",
        f"{url} says OME-Zarr version {stated}; volumetool reads 0.1 to 0.6",
        hint="Convert it to 0.5 with the software that wrote it.",
        where=url,
    )


OME_ZARR = Format("OME-Zarr up to 0.6", find_ome_zarr, written=(SHARDED, UNSHARDED, V04))
