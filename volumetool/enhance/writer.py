"""The writer: slabs become shards on all fused levels, one step behind the sweep, and are read back before they count."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.enhance.blend import Slab
from volumetool.enhance.pyramid import shadows
from volumetool.enhance.recipe import Recipe
from volumetool.errors import DataError
from volumetool.geometry import Box, LevelGrid, Triple


@dataclass(frozen=True)
class _Written:
    box: Box
    voxels: NDArray[Any]
    write: ts.WriteFutures


def write_slabs(recipe: Recipe, slabs: Iterable[Slab], targets: Sequence[ts.TensorStore]) -> list[int]:
    """Write the slabs of a region on every fused level and read each back.

    Parameters
    ----------
    recipe : Recipe
        The job's recipe.
    slabs : iterable of Slab
        In the order of the sweep.
    targets : sequence of tensorstore.TensorStore
        The fused levels of the output, finest first; z, y, x of the region's channel.

    Returns
    -------
    list of int
        For each fused level the CRC-32 of its voxels: slab after slab, each in C order.

    Raises
    ------
    DataError
        ``data.read-back`` where the stored bytes are not those that were written.
    """
    checksums = [0] * len(targets)
    behind: list[_Written] = []
    for slab in slabs:
        current = _start(recipe, slab, targets)
        _finish(behind, targets, checksums)
        behind = current
    _finish(behind, targets, checksums)
    return checksums


def _start(recipe: Recipe, slab: Slab, targets: Sequence[ts.TensorStore]) -> list[_Written]:
    started = []
    for box, voxels, target in zip(
        slab_boxes(slab.box, recipe.fused),
        shadows(slab.voxels, recipe.fused, output_nodata(recipe)),
        targets,
        strict=True,
    ):
        write = target[box.slices].write(voxels, can_reference_source_data_indefinitely=True)
        started.append(_Written(box, voxels, write))
    return started


def _finish(written: list[_Written], targets: Sequence[ts.TensorStore], checksums: list[int]) -> None:
    for level, (one, target) in enumerate(zip(written, targets, strict=bool(written))):
        one.write.result()
        back = np.asarray(target[one.box.slices].read().result())
        # Bytes are compared, so that NaN equals NaN.
        if not np.array_equal(_as_bytes(back), _as_bytes(one.voxels)):
            raise DataError(
                "data.read-back",
                f"voxels {one.box} of level {level} were written, but other ones came back",
                hint="the storage changes bytes: check the disk or network file system; nothing of this region was recorded",
            )
        checksums[level] = extend_checksum(checksums[level], one.voxels)


def extend_checksum(checksum: int, voxels: NDArray[Any]) -> int:
    """Return the CRC-32 of everything so far and of `voxels` in C order."""
    return zlib.crc32(_as_bytes(voxels).data, checksum)


def _as_bytes(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(voxels).reshape(-1).view(np.uint8)


def slab_boxes(box: Box, levels: Sequence[LevelGrid]) -> list[Box]:
    """Return a slab of level 0 and its shadows on the following levels."""
    boxes = [box]
    for level in levels[1:]:
        boxes.append(boxes[-1].coarsened(level.factor))
    return boxes


def slabs_of(box: Box, shard: Triple) -> list[Box]:
    """Return the slabs of a region's box, in the order of the sweep."""
    starts = range(box.start[2], box.stop[2], shard[2])
    return [Box((*box.start[:2], x), (*box.stop[:2], min(x + shard[2], box.stop[2]))) for x in starts]


def output_nodata(recipe: Recipe) -> float | None:
    """Return the value of missing voxels in the output, or None where there are none."""
    return None if recipe.nodata is None else recipe.fill
