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
from dataclasses import replace
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
from volumetool.storage.formats.n5.bdv_xml import find_setup, is_bdv
from volumetool.storage.formats.n5.transform import read_transform
from volumetool.storage.formats.voxel_sizes import (
    NANOMETRES,
    UNKNOWN,
    StatedSize,
    contradiction,
    daisy_axes,
    of_space,
    read_offset,
    read_unit,
    stated_by_daisy,
)
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.storage.io.urls import check_below
from volumetool.storage.writing.n5 import WRITTEN
from volumetool.units import SMALLEST

_KEY = "attributes.json"
_DEFAULT_AXES = ("x", "y", "z", "c")
_TRANSFORMS = {"transform", "spatialTransform"}
_MOST_LEVELS = 32
# BigDataViewer nests setup/timepoint, n5-viewer has one group per channel, Paintera keeps voxels in "data".
_CHILDREN = ("data", "timepoint{}", "setup{}", "c{}")
# A level lies at most this deep below the group that describes it (setup0/timepoint0/s0).
_DEEPEST_LEVEL = 3


def find_n5(url: str) -> ParsedMetadata | None:
    """Describe the N5 dataset or multiscale group at a place.

    Returns
    -------
    ParsedMetadata or None
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
    stated = list(_stated(own, axes))
    placed = read_transform(url, "", own, axes)
    if placed is not None:
        level, unit = placed
        beside = [] if _is_coarser(own) else stated
        conflict = contradiction([StatedSize("its transform", level.scale, unit), *beside])
        return ParsedMetadata(url, "n5", "n5", axes, (level,), unit, own, conflict=conflict)
    size = _choice(url, stated, own)
    if size.unit is None and (of_group := _as_level(url)) is not None:
        return of_group
    factor = own.get("downsamplingFactors") if stated else None
    level = _downsampled("", size.scale, factor or [1] * len(axes), axes)
    moved = _moved([level], own, size, axes)
    return ParsedMetadata(url, "n5", "n5", axes, tuple(moved), size.unit, own, conflict=contradiction(stated))


def _is_coarser(own: Json) -> bool:
    return any(factor != 1 for factor in own.get("downsamplingFactors") or ())


def _as_level(url: str) -> ParsedMetadata | None:
    group, path = parent_url(url)
    for _ in range(_DEEPEST_LEVEL):
        if not group:
            return None
        image = _group(group, read_json(group, _KEY) or {})
        for level in image.levels if image else ():
            if image and level.path == path:
                alone = FoundLevel("", level.scale, level.translation)
                return replace(image, url=url, levels=(alone,), attributes={})
        group, name = parent_url(group)
        path = f"{name}/{path}"
    return None


def _group(url: str, own: Json) -> ParsedMetadata | None:
    """Describe a multiscale group by whichever dialect it speaks."""
    multiscales = own.get("multiscales")  # of COSEM a list, of n5-universe one object
    listed = (multiscales[0] if isinstance(multiscales, list) and multiscales else multiscales or {}).get("datasets") or [{}]
    if _TRANSFORMS & listed[0].keys():
        finest = read_json(join_url(url, check_below(url, str(listed[0]["path"]))), _KEY) or {}
        return _placed(url, own, [(str(each["path"]), each) for each in listed], finest)
    datasets = _datasets(url)
    if not datasets:
        return None
    _refuse_labels(url, own)
    if all(_TRANSFORMS & each.keys() for each in datasets):
        return _placed(url, own, [(f"s{n}", each) for n, each in enumerate(datasets)], datasets[0])
    described = {**_of_setup(url), **own}
    axes = _axes(url, described, len(datasets[0]["dimensions"]))
    factors = _factors(described, datasets)
    stated = [*_stated(described, axes), *_stated(datasets[0], axes)]
    setup = find_setup(url) if is_bdv(url) else None
    stated += [] if setup is None else [setup.size]
    merged = {**datasets[0], **described}
    size = _choice(url, stated, merged)
    levels = [_downsampled(f"s{n}", size.scale, factor, axes) for n, factor in enumerate(factors)]
    moved = _moved(levels, merged, size, axes)
    if setup is not None:
        z, y, x = (voxels * length for voxels, length in zip(setup.shift, size.scale, strict=True))
        moved = [replace(level, translation=_plus(level.translation, (z, y, x))) for level in moved]
    return ParsedMetadata(url, "n5", "n5", axes, tuple(moved), size.unit, own, conflict=contradiction(stated))


def _moved(levels: Sequence[FoundLevel], own: Json, size: StatedSize, axes: tuple[str, ...]) -> list[FoundLevel]:
    """Add the offset, which is in the unit of the size beside it; where no size is stated, it is in none."""
    if size is UNKNOWN or not own.get("offset"):
        return list(levels)
    beside = next(iter(_stated(own, axes)), size)
    shift = zip(read_offset(_order_of(own, axes), own["offset"]), size.scale, beside.scale, strict=True)
    z, y, x = (at * chosen / there for at, chosen, there in shift)
    return [replace(level, translation=_plus(level.translation, (z, y, x))) for level in levels]


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
    coarse = (scale[0] * by[0], scale[1] * by[1], scale[2] * by[2])
    return FoundLevel(path, coarse, ((coarse[0] - scale[0]) / 2, (coarse[1] - scale[1]) / 2, (coarse[2] - scale[2]) / 2))


def _choice(url: str, stated: Sequence[StatedSize], own: Json) -> StatedSize:
    """Return the first size with a unit; without any, the first, in nanometres if that is what its writers mean."""
    known = next((each for each in stated if each.unit is not None), None)
    if known is not None or not stated:
        return known or UNKNOWN
    first = stated[0]
    plain = "resolution" in own and not own.get("units") and not own.get("unit")
    nanometres = plain and not is_bdv(url) and min(first.scale) >= SMALLEST
    return replace(first, unit=NANOMETRES) if nanometres else first


def _stated(own: Json, axes: tuple[str, ...]) -> Iterator[StatedSize]:
    """Yield what ``resolution`` (Neuroglancer, Paintera), ``pixelResolution`` (n5-viewer), ``voxelSize`` and funlib say."""
    units = own.get("units") or [own.get("unit")] * len(axes)
    if "resolution" in own:
        sizes = own["resolution"]
        yield StatedSize("resolution", scale_zyx(of_space(axes, sizes), sizes), read_unit(of_space(axes, units), units))
    for name in ("pixelResolution", "voxelSize"):
        pixel = own.get(name)
        if isinstance(pixel, dict):
            sizes, unit = pixel["dimensions"] if "dimensions" in pixel else pixel["size"], [pixel.get("unit")] * len(axes)
        elif isinstance(pixel, list):
            sizes, unit = pixel, units  # without any, readers disagree on what it is
        else:
            continue
        yield StatedSize(name, scale_zyx(of_space(axes, sizes), sizes), read_unit(of_space(axes, unit), unit))
    if daisy_axes(own) is not None and "voxel_size" in own:
        yield from stated_by_daisy({name: own.get(name) for name in ("voxel_size", "units")}, _order_of(own, axes))


def _order_of(own: Json, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the axes in the order of lists among the attributes: zarr's store for N5 leaves them as NumPy shows the array."""
    return axes if daisy_axes(own) is None else axes[::-1]


def _placed(url: str, own: Json, levels: Sequence[tuple[str, Json]], described: Json) -> ParsedMetadata:
    """Describe levels that are placed by a transform each.

    Parameters
    ----------
    url : str
        The group.
    own : dict
        Its attributes.
    levels : sequence of tuple
        Path of each level, and the attributes with its transform.
    described : dict
        Attributes of the finest dataset.
    """
    # Where no array is there, opening it says so.
    dimensions = described.get("dimensions") or levels[0][1].get("transform", {}).get("axes") or _DEFAULT_AXES[:3]
    axes = _axes(url, {**described, **levels[0][1]}, len(dimensions))
    placed = [each for path, of in levels if (each := read_transform(url, path, of, axes)) is not None]
    stated = [StatedSize("its transform", placed[0][0].scale, placed[0][1]), *_stated(own, axes)]
    if (alone := read_transform(url, "", described, axes)) is not None:
        stated.append(StatedSize(f"the transform of {levels[0][0]}", alone[0].scale, alone[1]))
    found = tuple(level for level, _ in placed)
    return ParsedMetadata(url, "n5", "n5", axes, found, placed[0][1], own, conflict=contradiction(stated))


def _axes(url: str, own: Json, rank: int) -> tuple[str, ...]:
    """Return the names of the dimensions in N5's own order, fastest first."""
    transform: Any = own.get("transform")
    if isinstance(transform, dict) and "axes" in transform:
        listed = [str(axis).lower() for axis in transform["axes"]]
        # COSEM lists axes as NumPy shows them unless it says otherwise.
        names = tuple(listed if transform.get("order") == "F" else reversed(listed))
    elif "axes" in own:
        names = tuple(str(axis).lower() for axis in own["axes"])
    elif labelled := [str(axis.get("label")).lower() for axis in own.get("spatialTransform", {}).get("axes") or ()]:
        names = tuple(labelled)
    elif (numpys := daisy_axes(own)) is not None and are_axes(numpys):
        names = tuple(reversed(numpys))
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


N5 = Format("N5", find_n5, written=(WRITTEN,))
