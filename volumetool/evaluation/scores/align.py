"""Volumes side by side: the same place in space, or a clear refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import ConfigError, DataError, InputError
from volumetool.evaluation.scores.ssim import TAPS
from volumetool.geometry import Box, Size, Triple, mirror_index, upscaled, whole_ratio
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.retries import brief
from volumetool.storage.volume import Volume

_SAME_SIZE = 1e-3  # relative difference of voxel sizes that is rounding
_SAME_PLACE = 0.02  # voxels of the truth


@dataclass(frozen=True)
class Volumes:
    """The volumes that are compared.

    Attributes
    ----------
    restored, truth : Volume
        The restored volume and the truth, on the same voxel grid.
    low : Volume, optional
        The volume that `restored` was made from, a whole number of times coarser.
    second : Volume, optional
        A second acquisition of the same field, restored separately; on the same grid.
    """

    restored: Volume
    truth: Volume
    low: Volume | None = None
    second: Volume | None = None


class Matched:
    """Volumes that were checked against each other, open for reading.

    Parameters
    ----------
    volumes : Volumes
        Level 0 and channel 0 of each is compared.
    roi : Box, optional
        The part to compare, in voxels of the truth; by default all of it, and then all shapes must agree.
    same_corner : bool
        Assume that the first voxels of all volumes share their outer corner, whatever the translations say.

    Attributes
    ----------
    volumes : Volumes
        The volumes as they were given.
    box : Box
        The part that is compared, in voxels of the truth.
    scale : tuple of int or None
        Voxels of the truth per voxel of `low`, z, y, x.

    Raises
    ------
    InputError
        ``input.voxel-size-mismatch``, ``input.position-mismatch``, ``input.shape-mismatch``, ``input.dtype-mismatch``,
        ``input.scale``, ``input.too-small``.
    ConfigError
        ``config.roi``: the box is not inside all volumes. ``config.second``: `second` is `restored`.
    """

    def __init__(self, volumes: Volumes, *, roi: Box | None = None, same_corner: bool = False) -> None:
        self.volumes = volumes
        self.scale = None if volumes.low is None else _scale(volumes.low, volumes.truth)
        for other in (volumes.restored, volumes.second):
            if other is not None:
                _check_grid(other, volumes.truth, same_corner=same_corner)
        if volumes.low is not None and self.scale is not None and not same_corner:
            first = upscaled(volumes.low.voxel_size, volumes.low.translation, self.scale)[1]
            _check_position(volumes.low, first, volumes.truth)
        if volumes.second is not None and volumes.second.url == volumes.restored.url:
            raise ConfigError(
                "config.second",
                f"--second is the restored volume itself, {volumes.second.url}",
                hint="give a second acquisition of the same field, restored separately; one image tells nothing of its noise",
            )
        self.box = self._box(roi)
        self._arrays = {
            name: volume.open(strict=True)
            for name in ("restored", "truth", "low", "second")
            if (volume := getattr(volumes, name)) is not None
        }

    def read(self, name: str, box: Box) -> NDArray[Any]:
        """Return voxels (z, y, x) of ``"restored"``, ``"truth"``, ``"low"`` or ``"second"``; the box counts its own voxels.

        Raises
        ------
        DataError
            ``data.unreadable``.
        """
        array: ts.TensorStore = self._arrays[name]
        try:
            voxels: NDArray[Any] = read_part(array, box.slices)  # (z, y, x)
        except (ValueError, OSError) as error:
            url = getattr(self.volumes, name).url
            raise DataError(
                "data.unreadable",
                f"{url} cannot be read in the voxels {box}: {brief(error)}",
                hint="The data may be damaged or incomplete; copy them again.",
                where=url,
            ) from error
        return voxels

    def read_low(self, box: Box, reach: int = 0) -> NDArray[Any]:
        """Return voxels (z, y, x) of the low-resolution volume, mirrored beyond its faces as networks see it.

        Parameters
        ----------
        box : Box
            Part to read, in voxels of that volume.
        reach : int
            Sections before and after the box that come along.
        """
        assert self.volumes.low is not None  # noqa: S101  (asked for only where there is one)
        grown = (reach, 0, 0)
        index = [
            mirror_index(a - more, b + more, n)
            for a, b, more, n in zip(box.start, box.stop, grown, self.volumes.low.shape, strict=True)
        ]  # (z + 2 reach,), (y,), (x,)
        (z, y, x), (far_z, far_y, far_x) = ([int(pick(each)) for each in index] for pick in (np.min, np.max))
        voxels = self.read("low", Box((z, y, x), (far_z + 1, far_y + 1, far_x + 1)))
        return voxels[np.ix_(index[0] - z, index[1] - y, index[2] - x)]  # (z + 2 reach, y, x) of the box

    def _box(self, roi: Box | None) -> Box:
        fine = self._fine_boxes()
        shared = Box.whole(self.volumes.truth.shape)
        for box in fine.values():
            shared = shared.intersection(box)
        if roi is None:
            for name, box in fine.items():
                if box.stop != self.volumes.truth.shape:
                    raise InputError(
                        "input.shape-mismatch",
                        f"{name} covers {_by(box.shape)} voxels of the truth's size, the truth {_by(self.volumes.truth.shape)}",
                        hint=f"all share the part --roi {shared}",
                    )
        box = roi or shared
        if box.voxels == 0 or not shared.contains(box):
            hint = "it counts voxels of the truth, z,y,x"
            raise ConfigError("config.roi", f"the box {box} is not inside {shared}, the part that all share", hint=hint)
        if min(box.shape[1:]) < TAPS:
            raise InputError(
                "input.too-small",
                f"sections of {_by(box.shape[1:])} voxels are smaller than the window of {TAPS} x {TAPS}",
                hint="compare a larger field",
            )
        return box

    def _fine_boxes(self) -> dict[str, Box]:
        """Return what each volume but the truth covers, in voxels of the truth."""
        volumes = self.volumes
        boxes = {"the restored volume": Box.whole(volumes.restored.shape)}
        if volumes.second is not None:
            boxes["the second volume"] = Box.whole(volumes.second.shape)
        if volumes.low is not None and self.scale is not None:
            boxes["the low-resolution volume"] = Box.whole(volumes.low.shape).enlarged(self.scale)
        return boxes


def _scale(low: Volume, truth: Volume) -> Triple:
    ratio = whole_ratio(low.voxel_size, truth.voxel_size, _SAME_SIZE)
    if ratio is None:
        raise InputError(
            "input.scale",
            f"{low.url} has voxels of {_by(low.voxel_size)} nm, the truth {truth.url} of {_by(truth.voxel_size)} nm",
            hint="the low-resolution voxels must be a whole number of times the truth's, per axis",
            where=low.url,
        )
    return ratio


def _check_grid(other: Volume, truth: Volume, *, same_corner: bool) -> None:
    sizes = zip(other.voxel_size, truth.voxel_size, strict=True)
    if any(abs(a / b - 1) > _SAME_SIZE for a, b in sizes):
        raise InputError(
            "input.voxel-size-mismatch",
            f"{other.url} has voxels of {_by(other.voxel_size)} nm, {truth.url} of {_by(truth.voxel_size)} nm",
            hint="compare volumes of one voxel size; a coarser input goes to --low",
            where=other.url,
        )
    if other.dtype != truth.dtype:
        raise InputError(
            "input.dtype-mismatch",
            f"{other.url} holds {other.dtype.name}, {truth.url} holds {truth.dtype.name}",
            hint="convert one of them, so that both count the same grey levels",
            where=other.url,
        )
    if not same_corner:
        _check_position(other, other.translation, truth)


def _check_position(other: Volume, translation: Size, truth: Volume) -> None:
    away = [(a - b) / s for a, b, s in zip(translation, truth.translation, truth.voxel_size, strict=True)]
    if max(map(abs, away)) > _SAME_PLACE:
        raise InputError(
            "input.position-mismatch",
            f"{other.url} lies {_by(away)} voxels (z, y, x) away from {truth.url}: {_by(translation)} nm against "
            f"{_by(truth.translation)} nm",
            hint="correct the translation in the metadata, or add --same-corner if all begin at the same corner of the sample",
            where=other.url,
        )


def _by(values: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in np.asarray(values, float).tolist())
