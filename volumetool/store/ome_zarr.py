"""OME-Zarr 0.4 and 0.5 metadata: they differ only in where they stand and in the Zarr version below.

Reading is tolerant where the meaning is clear: short unit names, transformations in any order, a missing version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.store.arrays import SPACE, Driver
from volumetool.store.found import Found, FoundLevel, Json, broken, read_json, wrong_axes, zyx
from volumetool.store.kvstore import join_url, parent_url
from volumetool.store.units import nanometres_per
from volumetool.store.urls import check_below
from volumetool.store.volume import Format

_FORMATS: dict[str, tuple[Format, Driver]] = {"0.4": ("ome-zarr-0.4", "zarr"), "0.5": ("ome-zarr-0.5", "zarr3")}
# Levels of one volume lie at most this deep below its group in any layout seen ("scale0/image").
_DEEPEST_LEVEL = 3


def find_ome_zarr(url: str) -> Found | None:
    """Describe the OME-Zarr image at a place.

    Returns
    -------
    Found or None
        None if no OME-Zarr metadata are there.

    Raises
    ------
    InputError
        ``input.not-a-volume``: a plate, a collection of labels or of several images. ``input.labels``: a label image.
        ``input.version``: neither 0.4 nor 0.5. ``input.axes``, ``input.broken-metadata``.
    """
    attributes, version = _attributes(url)
    ome = attributes.get("ome", {}) if version == "0.5" else attributes
    if not isinstance(ome, dict):
        raise broken(url, "has 'ome' metadata that are not an object")
    if "multiscales" in ome:
        _refuse_labels(url, ome)
        return _image(url, attributes, ome, version)
    if "bioformats2raw.layout" in ome:
        return _only_image(url)
    _refuse_collections(url, ome)
    return None


def find_level(url: str) -> Found | None:
    """Describe an array that is one level of an OME-Zarr image, with the scale that the image's metadata give it."""
    group, path = parent_url(url)
    for _ in range(_DEEPEST_LEVEL):
        if not group:
            return None
        attributes, version = _attributes(group)
        ome = attributes.get("ome", {}) if version == "0.5" else attributes
        if isinstance(ome, dict) and "multiscales" in ome:
            return _level_of(url, group, path, version)
        group, name = parent_url(group)
        path = f"{name}/{path}"
    return None


def _level_of(url: str, group: str, path: str, version: str) -> Found | None:
    attributes, _ = _attributes(group)
    ome = attributes["ome"] if version == "0.5" else attributes
    _refuse_labels(url, ome)
    image = _image(group, attributes, ome, version)
    for level in image.levels:
        if level.path.strip("/") == path:
            alone = FoundLevel("", level.scale, level.translation)
            return Found(url, image.format, image.driver, image.axes, (alone,), image.unit)
    return None


def _attributes(url: str) -> tuple[Json, str]:
    """Return the attributes of the group at a place, and the version that their location implies."""
    group = read_json(url, "zarr.json")
    if group is not None:
        attributes = group.get("attributes", {})
        return (attributes if isinstance(attributes, dict) else {}), "0.5"
    return read_json(url, ".zattrs") or {}, "0.4"


def _image(url: str, attributes: Json, ome: Json, version: str) -> Found:
    multiscales = ome["multiscales"]
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        raise broken(url, "has 'multiscales' metadata that are not a list of objects")
    image = multiscales[0]
    stated = str(ome.get("version") if version == "0.5" else image.get("version") or version)
    if stated not in ("None", version) and not (version == "0.4" and stated in ("0.1", "0.2", "0.3")):
        raise _wrong_version(url, stated)
    try:
        axes = _axis_names(url, image)
        unit = _units(image["axes"])
        shared = image.get("coordinateTransformations") or []
        levels = tuple(_level(url, dataset, shared, axes) for dataset in image["datasets"])
    except (KeyError, TypeError, AttributeError) as error:
        raise broken(url, f"has 'multiscales' metadata without the expected member {error}") from error
    if not levels:
        raise broken(url, "has 'multiscales' metadata without datasets")
    form, driver = _FORMATS[version]
    return Found(url, form, driver, axes, levels, unit, attributes)


def _axis_names(url: str, image: Json) -> tuple[str, ...]:
    """Return z, y, x, c, t for the axes as stored, whatever the metadata call them."""
    names = []
    for axis in image["axes"]:
        # Version 0.3 lists bare names.
        name, kind = (axis, None) if isinstance(axis, str) else (str(axis["name"]), axis.get("type"))
        names.append({"channel": "c", "time": "t"}.get(str(kind), name.lower()))
    if sorted(name for name in names if name in SPACE) != sorted(SPACE) or set(names) - {*SPACE, "c", "t"}:
        raise wrong_axes(url, names)
    if len(set(names)) != len(names):
        raise wrong_axes(url, names)
    return tuple(names)


def _units(axes: Sequence[Any]) -> Size | None:
    units = {axis["name"].lower(): nanometres_per(axis.get("unit")) for axis in axes if isinstance(axis, dict)}
    known = {name: unit for name, unit in units.items() if unit is not None}
    return zyx(known) if set(SPACE) <= set(known) else None


def _level(url: str, dataset: Json, shared: Sequence[Json], axes: tuple[str, ...]) -> FoundLevel:
    """Apply the level's transformations, then those of the whole image, in the order given."""
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    for step in [*(dataset.get("coordinateTransformations") or []), *shared]:
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
    by_axis: tuple[Mapping[str, float], ...] = (
        dict(zip(axes, scale, strict=True)),
        dict(zip(axes, translation, strict=True)),
    )
    return FoundLevel(str(dataset["path"]), zyx(by_axis[0]), zyx(by_axis[1]))


def _refuse_labels(url: str, ome: Json) -> None:
    if "image-label" in ome:
        raise InputError(
            "input.labels",
            f"{url} is a label image (it has 'image-label' metadata); wanted is an intensity image",
            hint="Give the image that the labels belong to, usually two levels up.",
            where=url,
        )


def _refuse_collections(url: str, ome: Json) -> None:
    seen, hint = "", ""
    if "plate" in ome or "well" in ome:
        seen, hint = "a plate or well of many images", "Give one field of view, such as PLATE/A/1/0."
    elif isinstance(ome.get("labels"), list):
        seen, hint = f"a collection of labels ({', '.join(map(str, ome['labels']))})", "Give the image one level up."
    elif "series" in ome:
        names = ", ".join(map(str, ome["series"]))
        seen, hint = f"a collection of the images {names}", "Give one of them, with its name behind the URL."
    elif "scene" in ome or "coordinateSystems" in ome:
        raise _wrong_version(url, str(ome.get("version", "0.6")))
    if seen:
        raise InputError("input.not-a-volume", f"{url} is {seen}, not one volume", hint=hint, where=url)


def _only_image(url: str) -> Found | None:
    """Open the single image of a bioformats2raw container."""
    series, version = _attributes(join_url(url, "OME"))
    names = (series.get("ome", {}) if version == "0.5" else series).get("series")
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
        f"{url} says OME-Zarr version {stated}; volumetool reads 0.4 (in Zarr 2) and 0.5 (in Zarr 3)",
        hint="Convert it to 0.5 with the software that wrote it.",
        where=url,
    )
