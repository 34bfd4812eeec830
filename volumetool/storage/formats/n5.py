"""N5 and the ways in which software notes voxel sizes in it.

N5 lists dimensions fastest first (x, y, z), and so do all its attributes except COSEM's, which are slowest first. The
axes are named here once, in the driver's order; after this file everything is z, y, x.

A ``resolution`` without a unit is in nanometres for Paintera and what follows it, who know no other unit. BigDataViewer writes
it in whatever unit its XML names: without the XML it is in no known unit, nor is one below the size of an atom.

Coarser levels of N5 are means of whole blocks whose corners coincide, so that the centre of the first voxel of a level
with factor f lies (f - 1)/2 voxels of level 0 further in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from volumetool.storage.formats.bdv_xml import find_voxel_size, is_bdv
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.units import SMALLEST, nanometres_per

_KEY = "attributes.json"
_DEFAULT_AXES = ("x", "y", "z", "c")
_MOST_LEVELS = 32
# BigDataViewer nests setup/timepoint, n5-viewer has one group per channel, Paintera keeps voxels in "data".
_CHILDREN = ("data", "timepoint{}", "setup{}", "c{}")
# A level lies at most this deep below the group that describes it (setup0/timepoint0/s0).
_DEEPEST_LEVEL = 3


def find_n5(url: str) -> ParsedMetadata | None:
    """Describe the N5 dataset or multiscale group at a place.

    Returns
    -------
    Found or None
        None if no N5 dataset is there or in a known place below. Where exactly one is below, the result names that one.

    Raises
    ------
    InputError
        ``input.not-a-volume``: several setups, time points or channels. ``input.labels``, ``input.axes``,
        ``input.broken-metadata``.
    """
    own = read_json(url, _KEY) or {}
    try:
        if _is_dataset(own):
            return _dataset(url, own)
        return _group(url, own) or _only_child(url, _CHILDREN)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise broken(join_url(url, _KEY), f"has attributes that make no sense: {error!r}") from error


def _is_dataset(own: Json) -> bool:
    return "dimensions" in own and "dataType" in own


def _dataset(url: str, own: Json) -> ParsedMetadata:
    """Describe one dataset: by its own attributes, otherwise by those of the group that lists it as a level."""
    _refuse_labels(url, own)
    axes = _axes(url, own, len(own["dimensions"]))
    if "transform" in own:
        level, unit = _cosem_level("", own["transform"])
        return ParsedMetadata(url, "n5", "n5", axes, (level,), unit, own)
    resolution = _resolution(url, [own], axes)
    if (resolution is None or resolution[1] is None) and (of_group := _as_level(url)) is not None:
        return of_group
    scale, unit = resolution or ((1.0, 1.0, 1.0), None)
    factor = own.get("downsamplingFactors") if resolution else None
    level = _downsampled("", scale, factor or [1] * len(axes), axes)
    return ParsedMetadata(url, "n5", "n5", axes, tuple(_moved([level], own if resolution else {}, axes)), unit, own)


def _as_level(url: str) -> ParsedMetadata | None:
    group, path = parent_url(url)
    for _ in range(_DEEPEST_LEVEL):
        if not group:
            return None
        image = _group(group, read_json(group, _KEY) or {})
        for level in image.levels if image else ():
            if image and level.path == path:
                alone = FoundLevel("", level.scale, level.translation)
                return ParsedMetadata(url, "n5", "n5", image.axes, (alone,), image.unit)
        group, name = parent_url(group)
        path = f"{name}/{path}"
    return None


def _group(url: str, own: Json) -> ParsedMetadata | None:
    """Describe a multiscale group by whichever dialect it speaks."""
    multiscales = own.get("multiscales")
    if isinstance(multiscales, list) and multiscales and "transform" in multiscales[0]["datasets"][0]:
        return _cosem(url, own, [(each["path"], each["transform"]) for each in multiscales[0]["datasets"]])
    datasets = _datasets(url)
    if not datasets:
        return None
    _refuse_labels(url, own)
    if all("transform" in each for each in datasets):
        return _cosem(url, datasets[0], [(f"s{n}", each["transform"]) for n, each in enumerate(datasets)])
    described = {**_of_setup(url), **own}
    axes = _axes(url, described, len(datasets[0]["dimensions"]))
    factors = _factors(described, datasets)
    resolution = _resolution(url, [described, datasets[0]], axes)
    if (resolution is None or resolution[1] is None) and is_bdv(url):
        resolution = find_voxel_size(url) or resolution
    scale, unit = resolution or ((1.0, 1.0, 1.0), None)
    levels = [_downsampled(f"s{n}", scale, factor, axes) for n, factor in enumerate(factors)]
    return ParsedMetadata(url, "n5", "n5", axes, tuple(_moved(levels, described if resolution else {}, axes)), unit, own)


def _moved(levels: Sequence[FoundLevel], own: Json, axes: tuple[str, ...]) -> list[FoundLevel]:
    """Add the offset, which is a length like the resolution beside it."""
    shift = zyx({"z": 0.0, **dict(zip(axes, own.get("offset") or [0.0] * len(axes), strict=True))})
    return [FoundLevel(level.path, level.scale, _plus(level.translation, shift)) for level in levels]


def _datasets(url: str) -> list[Json]:
    """Return the attributes of the datasets s0, s1, ... of a group."""
    found: list[Json] = []
    for number in range(_MOST_LEVELS):
        own = read_json(join_url(url, f"s{number}"), _KEY)
        if own is None or not _is_dataset(own):
            break
        found.append(own)
    return found


def _of_setup(url: str) -> Json:
    """Return what BigDataViewer notes on the setup, one above the time point that holds the levels."""
    setup, name = parent_url(url)
    return (read_json(setup, _KEY) or {}) if name.startswith("timepoint") else {}


def _factors(described: Json, datasets: Sequence[Json]) -> list[Sequence[float]]:
    """Return each level's factor from level 0: as the group says, as the levels say, or as their sizes show."""
    listed = described.get("downsamplingFactors") or described.get("scales")
    if listed:
        return list(listed)
    first = datasets[0]["dimensions"]
    shown = [[round(a / b) for a, b in zip(first, each["dimensions"], strict=True)] for each in datasets]
    return [each.get("downsamplingFactors") or ratio for each, ratio in zip(datasets, shown, strict=True)]


def _downsampled(path: str, scale: Size, factor: Sequence[float], axes: tuple[str, ...]) -> FoundLevel:
    by = zyx({"z": 1.0, **dict(zip(axes, factor, strict=True))})
    size = (scale[0] * by[0], scale[1] * by[1], scale[2] * by[2])
    return FoundLevel(path, size, ((size[0] - scale[0]) / 2, (size[1] - scale[1]) / 2, (size[2] - scale[2]) / 2))


def _resolution(url: str, described: Sequence[Json], axes: tuple[str, ...]) -> tuple[Size, Size | None] | None:
    """Return scale and unit from the first attributes that name both; without any unit, what that means."""
    found = [each for own in described for each in _resolutions(own, axes)]
    stated = next((each for each in found if each[1] is not None), None)
    if stated is not None or not found:
        return stated
    plain = all("resolution" in own and not own.get("units") and not own.get("unit") for own in described[:1])
    nanometres = plain and not is_bdv(url) and min(found[0][0]) >= SMALLEST
    return found[0][0], (1.0, 1.0, 1.0) if nanometres else None


def _resolutions(own: Json, axes: tuple[str, ...]) -> Iterator[tuple[Size, Size | None]]:
    """Yield scale and unit from ``resolution`` (Neuroglancer, Paintera), ``pixelResolution`` (n5-viewer) or ``voxelSize``."""
    units = own.get("units") or [own.get("unit")] * len(axes)
    if "resolution" in own:
        yield scale_zyx(axes, own["resolution"]), _unit(axes, units)
    for pixel in (own.get("pixelResolution"), own.get("voxelSize")):
        if isinstance(pixel, dict):
            sizes = pixel["dimensions"] if "dimensions" in pixel else pixel["size"]
            yield _per_space_axis(sizes, axes), _unit(axes, [pixel.get("unit")] * len(axes))
        elif isinstance(pixel, list):
            # A bare list names no unit, and readers disagree on what it is.
            yield _per_space_axis(pixel, axes), _unit(axes, units)


def _per_space_axis(values: Sequence[float], axes: tuple[str, ...]) -> Size:
    """Name values that n5-viewer may give for the space axes alone."""
    return scale_zyx(axes if len(values) == len(axes) else [axis for axis in axes if axis in SPACE], values)


def _unit(axes: Sequence[str], units: Sequence[object]) -> Size | None:
    known = {axis: nanometres_per(unit) for axis, unit in zip(axes, units, strict=True) if axis in SPACE}
    sizes = [size for size in known.values() if size is not None]
    return scale_zyx(tuple(known), sizes) if len(sizes) == len(known) else None


def _cosem(url: str, own: Json, transforms: Sequence[tuple[str, Json]]) -> ParsedMetadata:
    placed = [_cosem_level(path, transform) for path, transform in transforms]
    axes = _axes(url, {"transform": transforms[0][1]}, len(transforms[0][1]["axes"]))
    return ParsedMetadata(url, "n5", "n5", axes, tuple(level for level, _ in placed), placed[0][1], own)


def _cosem_level(path: str, transform: Json) -> tuple[FoundLevel, Size | None]:
    axes = tuple(str(axis).lower() for axis in transform["axes"])
    scale = scale_zyx(axes, transform["scale"])
    translation = zyx({"z": 0.0, **dict(zip(axes, transform.get("translate") or [0.0] * len(axes), strict=True))})
    return FoundLevel(path, scale, translation), _unit(axes, transform.get("units") or [None] * len(axes))


def _axes(url: str, own: Json, rank: int) -> tuple[str, ...]:
    """Return the names of the dimensions in N5's own order, fastest first."""
    transform: Any = own.get("transform")
    if isinstance(transform, dict) and "axes" in transform:
        listed = [str(axis).lower() for axis in transform["axes"]]
        # COSEM lists axes as NumPy shows them unless it says otherwise.
        names = tuple(listed if transform.get("order") == "F" else reversed(listed))
    elif "axes" in own:
        names = tuple(str(axis).lower() for axis in own["axes"])
    else:
        names = _DEFAULT_AXES[:rank]
    if len(names) != rank or not are_axes(names):
        raise wrong_axes(url, names if len(names) == rank else f"of an array of {rank} dimensions")
    return names


def _plus(left: Size, right: Size) -> Size:
    return (left[0] + right[0], left[1] + right[1], left[2] + right[2])


def _refuse_labels(url: str, own: Json) -> None:
    paintera = own.get("painteraData")
    if own.get("isLabelMultiset") or (isinstance(paintera, dict) and paintera.get("type") == "label"):
        raise InputError(
            "input.labels",
            f"{url} holds labels; wanted is an intensity image",
            hint="Give the image that the labels belong to.",
            where=url,
        )


def _only_child(url: str, children: Sequence[str]) -> ParsedMetadata | None:
    """Describe the one dataset in a known place below, and refuse to choose between several."""
    for pattern in children:
        below = ("timepoint{}",) if pattern == "setup{}" else ()
        first = _below(join_url(url, pattern.format(0)), below)
        if first is None:
            continue
        second = pattern.format(1)
        if second != pattern and _below(join_url(url, second), below) is not None:
            raise InputError(
                "input.not-a-volume",
                f"{url} holds {pattern.format(0)}, {second}, ...: several volumes, not one",
                hint=f"Give one of them, such as {first.url}.",
                where=url,
            )
        return first
    return None


def _below(url: str, children: Sequence[str]) -> ParsedMetadata | None:
    own = read_json(url, _KEY) or {}
    if _is_dataset(own):
        return _dataset(url, own)
    return _group(url, own) or _only_child(url, children)


N5 = Format("N5", find_n5)
