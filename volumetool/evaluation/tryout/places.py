"""The crops of a tryout: rules choose them, so that nobody does, and they are the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import DataError
from volumetool.events import Observer, counting
from volumetool.geometry import Box, Size, Triple
from volumetool.processing.statistics import WHOLE_SECTION
from volumetool.processing.survey import LEAST_SIDE, MOST_ZEROS, describe_piece
from volumetool.storage.voxels import Source, valid_voxels

SECTIONS, ACROSS = 24, 3
"""Sections that are looked at, and places along each side of a section, at most; all evenly spread."""

SHALLOWEST, DEEPEST = 8, 24
"""Sections of a crop: as deep as half its side, within these bounds."""


@dataclass(frozen=True)
class Crop:
    """A part of the volume that is shown.

    Attributes
    ----------
    name : str
        What it is: ``textured``, ``flat``, ``large shapes``, ``worst section``, ``middle`` or ``as asked``.
    rule : str
        How it was chosen.
    box : Box
        Voxels of the input.
    section : int
        The section that is shown in plane.
    """

    name: str
    rule: str
    box: Box
    section: int


@dataclass(frozen=True)
class _Place:
    """What a place that may be shown looks like; all in dB, the grey values' own for contrast and detail."""

    box: Box
    section: int
    contrast: float
    detail: float
    sharpness: float
    noise: float


def section_of(box: Box, section: int) -> Box:
    """Return the part of a box in one section."""
    (_, *low), (_, *high) = box.start, box.stop
    return Box((section, low[0], low[1]), (section + 1, high[0], high[1]))


def crop_around(centre: Triple, shape: Triple, inside: Box) -> Box:
    """Return a box around a voxel, moved and cut so that it lies inside another.

    Parameters
    ----------
    centre : tuple of int
        The voxel, z, y, x.
    shape : tuple of int
        Shape of the box where there is room for it, in voxels.
    inside : Box
        Box that it lies in.
    """
    start, stop = [], []
    for at, size, low, high in zip(centre, shape, inside.start, inside.stop, strict=True):
        begin = max(low, min(at - size // 2, high - size))
        start.append(begin)
        stop.append(min(begin + size, high))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def crop_shape(side: int, voxel_size: Size) -> Triple:
    """Return the shape of crops in voxels, z, y, x: deep enough for a view from the side, and no deeper."""
    depth = round(side / 2 * voxel_size[2] / voxel_size[0])
    return max(SHALLOWEST, min(DEEPEST, depth)), side, side


def choose_crops(
    source: Source, inside: Box, shape: Triple, nodata: float | None, bad: tuple[int, str] | None, observer: Observer
) -> tuple[Crop, ...]:
    """Choose crops by rules from places that are evenly spread.

    Parameters
    ----------
    source : Source
        The input.
    inside : Box
        Voxels among which they are chosen.
    shape : tuple of int
        Shape of a crop in voxels, z, y, x.
    nodata : float, optional
        Value of voxels without data; crops have none in the section that is shown.
    bad : tuple of int and str, optional
        The worst section and what is wrong with it, if the plan says so.
    observer : Observer
        Told by `Progressed` how many places were looked at.

    Returns
    -------
    tuple of Crop
        Those whose rule finds a place of its own; the middle alone where nothing has any contrast.
    """
    sections = sorted({*_evenly(inside), *([] if bad is None else [bad[0]])})
    across = [(y, x) for y in _spread(inside, shape, 1) for x in _spread(inside, shape, 2)]
    count = counting(observer, "places", len(sections) * len(across))
    places = []
    for z in sections:
        read = _reader(source, section_of(inside, z))
        for y, x in across:
            places += _looked_at(read, crop_around((z, y, x), shape, inside), z, nodata)
            count(1)
    if not places:
        centre = inside.start[0] + inside.shape[0] // 2, *across[len(across) // 2]
        return (Crop("middle", "nowhere is enough contrast to choose by", crop_around(centre, shape, inside), centre[0]),)
    return tuple(_chosen(places, bad))


def _evenly(inside: Box) -> list[int]:
    """Return at most `SECTIONS` sections of a box, evenly spread."""
    depth = inside.shape[0]
    count = min(SECTIONS, depth)
    return [inside.start[0] + (2 * number + 1) * depth // (2 * count) for number in range(count)]


def _spread(inside: Box, shape: Triple, axis: int) -> list[int]:
    """Return the middles of at most `ACROSS` crops that are evenly spread along an axis, and overlap by half at most."""
    start, length = inside.start[axis], inside.shape[axis]
    side = min(shape[axis], length)
    count, room = min(ACROSS, 2 * length // side - 1), length - side
    return [start + side // 2 + (room // 2 if count == 1 else room * number // (count - 1)) for number in range(count)]


def _reader(source: Source, section: Box) -> Callable[[Box], NDArray[Any] | None]:
    """Return what gives the voxels of a part of a section, or None where they cannot be read; a small section is read once."""

    def read(box: Box) -> NDArray[Any] | None:
        try:
            return source.read(box)  # (1, y, x)
        except DataError:
            return None  # the page shows other places; the job will name the chunk

    whole = read(section) if section.voxels <= WHOLE_SECTION else None
    if whole is None:
        return read
    z, y, x = section.start
    return lambda box: whole[box.shifted((-z, -y, -x)).slices]


def _looked_at(read: Callable[[Box], NDArray[Any] | None], box: Box, section: int, nodata: float | None) -> list[_Place]:
    """Return what a place looks like; nothing where it cannot be read, has no data, or no contrast."""
    voxels = read(section_of(box, section))
    if voxels is None:
        return []
    piece = voxels[0]  # (y, x)
    valid = bool(valid_voxels(piece, nodata).all() and np.isfinite(piece).all())
    if not valid or min(piece.shape) < LEAST_SIDE or np.count_nonzero(piece == 0) >= MOST_ZEROS * piece.size:
        return []
    piece = piece.astype(np.float64)
    figures = describe_piece(piece)
    if figures is None:
        return []
    noise, sharpness = figures["noise"], figures["sharpness"]
    contrast = 10 * float(np.log10(piece.var() / (1 + 10 ** (noise / 10))))  # of the structure, without its noise
    return [_Place(box, section, contrast, contrast + sharpness, sharpness, noise)]


def _chosen(places: Sequence[_Place], bad: tuple[int, str] | None) -> Iterator[Crop]:
    half = float(np.median([place.contrast for place in places]))
    strong = [place for place in places if place.contrast >= half]
    worst, why = _worst_section(places), "with most noise over its contrast"
    if bad is not None:
        worst, why = [place for place in places if place.section == bad[0]], f"that the plan calls {bad[1]}"
    rules: tuple[tuple[str, str, Sequence[_Place], Callable[[_Place], float]], ...] = (
        ("textured", "most detail: the largest steps between voxels, without their noise", places, lambda p: p.detail),
        ("flat", "least contrast, without its noise", places, lambda p: -p.contrast),
        (
            "large shapes",
            "smoothest of the half with more contrast, as nuclei, somata, vessels and mitochondria are",
            strong,
            lambda p: -p.sharpness,
        ),
        ("worst section", f"most detail in the section {why}", worst, lambda p: p.detail),
    )
    taken: list[_Place] = []
    for name, rule, among, value in rules:
        free = [place for place in among if place not in taken]
        if free:
            best = max(free, key=value)  # of equals the first
            taken.append(best)
            yield Crop(name, f"{rule} ({len(places)} places looked at)", best.box, best.section)


def _worst_section(places: Sequence[_Place]) -> list[_Place]:
    """Return the places of the section with most noise over its contrast, the median over its places; none of a single one."""
    sections: dict[int, list[_Place]] = {}
    for place in places:
        sections.setdefault(place.section, []).append(place)
    if len(sections) == 1:
        return []
    return max(sections.values(), key=lambda found: float(np.median([place.noise for place in found])))
