"""What is shown of a crop: the input, the same enlarged, and the voxels that jobs would store there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.evaluation.scores.resample import enlarge
from volumetool.evaluation.tryout.places import Crop, section_of
from volumetool.geometry import Box, Triple
from volumetool.jobs.planning.resolve import Resolved

Read = Callable[[Box], NDArray[Any]]
"""Gives the voxels of a box of the input."""


@dataclass(frozen=True)
class CropView:
    """A crop as one volume has it.

    Attributes
    ----------
    label : str
        Name of the volume.
    xy : numpy.ndarray, shape (y, x)
        The crop's section.
    xz : numpy.ndarray, shape (z, x), optional
        The crop from the side, through its middle row; None where only the section was computed.
    is_error : bool
        The values are expected errors, not grey values.
    is_grey : bool
        The values are on the scale of the input.
    """

    label: str
    xy: NDArray[Any]
    xz: NDArray[Any] | None
    is_error: bool = False
    is_grey: bool = True


def read_once(resolved: Sequence[Resolved], crop: Crop) -> Read:
    """Read all that jobs need for a crop, and return what gives the voxels of a box of it: a store is asked once.

    Parameters
    ----------
    resolved : sequence of Resolved
        The jobs.
    crop : Crop
        What is shown.
    """
    boxes = [each.reads(0, _made_of(each, crop.box)) for each in resolved]
    around = functools.reduce(Box.joined, boxes, crop.box)
    voxels = resolved[0].source(0).read(around)  # (z, y, x)

    def read(box: Box) -> NDArray[Any]:
        z, y, x = around.start
        return voxels[box.shifted((-z, -y, -x)).slices]

    return read


def view_input(voxels: NDArray[Any], crop: Crop, finest: Triple) -> list[CropView]:
    """Return the input as it is, and enlarged.

    Parameters
    ----------
    voxels : numpy.ndarray, shape (z, y, x)
        The crop.
    crop : Crop
        What is shown.
    finest : tuple of int
        Voxels of the finest output per voxel of the input, z, y, x.
    """
    raw = _cut(voxels, crop, (1, 1, 1), "raw")
    fine = _cut(enlarge(voxels, finest, "linear"), crop, finest, "bilinear")
    return [raw, fine]


def view_output(resolved: Resolved, crops: Sequence[Crop], reads: Sequence[Read]) -> Iterator[CropView]:
    """Yield what a job would store of each crop, as it is asked for: as many are computed at once as the network has streams.

    Parameters
    ----------
    resolved : Resolved
        The job.
    crops : sequence of Crop
        What is shown.
    reads : sequence of callable
        Of each crop what gives the voxels of a box of the input.
    """
    name, scale = resolved.inputs.operation.card.name, _scale(resolved)

    def view(crop: Crop, read: Read) -> CropView:
        stored = resolved.compute(0, _made_of(resolved, crop.box), read)  # (z, y, x)
        return _cut(stored, crop, scale, name, is_grey=resolved.spec.restores)

    with ThreadPoolExecutor(resolved.engine.streams, "volumetool-crops") as pool:
        yield from pool.map(view, crops, reads)


def view_error(error: Resolved, crops: Sequence[Crop], reads: Sequence[Read]) -> Iterator[CropView]:
    """Yield the error that a network expects in the section that is shown of each crop.

    Parameters
    ----------
    error : Resolved
        The job with the expected error as its second channel.
    crops, reads
        As for :func:`view_output`.
    """
    name, scale = error.inputs.operation.card.name, _scale(error)

    def view(crop: Crop, read: Read) -> CropView:
        expected = error.compute(1, _made_of(error, section_of(crop.box, crop.section)), read)  # (z, y, x), float32
        return CropView(f"{name}: expected error", expected[_middle(scale)], None, is_error=True)

    with ThreadPoolExecutor(error.engine.streams, "volumetool-crops") as pool:
        yield from pool.map(view, crops, reads)


def finest_scale(resolved: Sequence[Resolved]) -> Triple:
    """Return the largest scale along each axis, and no less than 2 in plane: the input is enlarged by it."""
    z, y, x = (max(axis) for axis in zip(*map(_scale, resolved), strict=True))
    return z, max(2, y), max(2, x)


def _scale(resolved: Resolved) -> Triple:
    z, y, x = (int(np.prod(axis)) for axis in zip(*(each.spec.lattice.scale for each in resolved.chain), strict=True))
    return z, y, x


def _made_of(resolved: Resolved, box: Box) -> Box:
    """Return what a job makes of a box of its input, in voxels of its output."""
    for each in resolved.chain:
        box = each.spec.lattice.made_of(box).intersection(Box.whole(each.spec.lattice.output_shape))
    return box


def _middle(scale: Triple) -> int:
    """Return which of the sections that become one, or the last before their middle, is shown."""
    return (scale[0] - 1) // 2


def _cut(voxels: NDArray[Any], crop: Crop, scale: Triple, label: str, *, is_grey: bool = True) -> CropView:
    """Copy section and side view out of the voxels (z, y, x) that a volume has of a crop, which are needed no more."""
    section = (crop.section - crop.box.start[0]) * scale[0] + _middle(scale)
    row = voxels.shape[1] // 2
    return CropView(label, voxels[min(section, len(voxels) - 1)].copy(), voxels[:, row].copy(), is_grey=is_grey)
