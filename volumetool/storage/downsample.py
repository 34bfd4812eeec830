"""The pyramid: every level is made from the stored level before it, by default as its mean.

Integers are rounded half to even. Floats are averaged in float32 (in float64 where voxels are missing) by the same routine
whatever the block, and agree with a float64 mean within 1e-4 of the largest value. Blocks begin at voxel 0; the last block of
an odd axis is what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import OutputError
from volumetool.geometry import Box, LevelGrid, Triple, shard_boxes
from volumetool.storage.formats.precomputed import ScaleKeys
from volumetool.storage.io.arrays import PRECOMPUTED
from volumetool.storage.io.limits import spec_of, stored_range
from volumetool.storage.io.prefetch import prefetch
from volumetool.storage.io.presence import url_of
from volumetool.storage.io.retries import STORAGE, unwritable
from volumetool.storage.voxels import Source, VerifiedWrite, read_voxels, valid_voxels
from volumetool.storage.writing.names import ReductionMethod

SPAN_VOXELS = 2**24
"""Voxels of the finer level that the pass over coarse levels holds at once."""


@dataclass(frozen=True)
class Reduction:
    """How blocks of voxels become the voxels of the next level.

    Parameters
    ----------
    method : {"mean", "mode"}
        ``mean`` for intensities; ``mode``, the most frequent value, of several the least, for labels.
    nodata : float, optional
        Value that a mean leaves out; a block of nothing else becomes `nodata` itself.
    """

    method: ReductionMethod = "mean"
    nodata: float | None = None

    def __call__(self, voxels: NDArray[Any], factor: Triple) -> NDArray[Any]:
        """Reduce blocks of `factor` voxels.

        Parameters
        ----------
        voxels : numpy.ndarray, shape (z, y, x)
            A block that begins on a multiple of `factor`.
        factor : tuple of int
            Voxels per block and axis.

        Returns
        -------
        numpy.ndarray
            Same dtype, shape divided by `factor`, rounded up.
        """
        if self.method == "mean" and self.nodata is not None:
            return _mean_of_valid(voxels, factor, self.nodata)
        store = ts.downsample(ts.array(np.ascontiguousarray(voxels)), list(factor), method=self.method)
        return np.asarray(store.read().result())  # (z, y, x) -> (z/fz, y/fy, x/fx), each rounded up

    def chain(self, voxels: NDArray[Any], levels: tuple[LevelGrid, ...]) -> Iterator[NDArray[Any]]:
        """Yield a block of level 0 and what it becomes on the following levels, each made from the one before.

        Parameters
        ----------
        voxels : numpy.ndarray, shape (z, y, x)
            A block of level 0 that begins at a voxel of each of these levels.
        levels : tuple of LevelGrid
            The levels, beginning with level 0; each gives its factor over the level before.

        Yields
        ------
        numpy.ndarray
            For each level its block, in the dtype of `voxels`; the first is `voxels` itself.
        """
        yield voxels
        for level in levels[1:]:
            voxels = self(voxels, level.factor)  # shorter by this level's factor along each axis
            yield voxels


MEAN = Reduction()


def _mean_of_valid(voxels: NDArray[Any], factor: Triple, nodata: float) -> NDArray[Any]:
    valid = valid_voxels(voxels, nodata)
    count = _block_sums(valid.astype(np.float64), factor)  # (z, y, x) -> (z/fz, y/fy, x/fx): valid voxels of each block
    sums = _block_sums(np.where(valid, voxels, 0).astype(np.float64), factor)
    # Sums of whole numbers are exact in float64, and so is the comparison at one half.
    mean = sums / np.maximum(count, 1)
    if voxels.dtype.kind in "iu":
        mean = np.rint(mean)
        # The mean of valid voxels on both sides of an inner nodata value may hit it; it must stay a valid voxel.
        mean[(mean == nodata) & (count > 0)] += 1 if nodata <= 0 else -1
    mean[count == 0] = nodata
    return mean.astype(voxels.dtype)


def _block_sums(values: NDArray[np.float64], factor: Triple) -> NDArray[np.float64]:
    for axis, size in enumerate(factor):
        if size > 1:
            # This axis becomes shorter by its factor; the last block may hold fewer voxels.
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], size), axis=axis)
    return values


def build_level(
    fine: Source,
    coarse: ts.TensorStore,
    level: LevelGrid,
    *,
    reduction: Reduction = MEAN,
    within: Box | None = None,
    ready: Callable[[Box], None] | None = None,
) -> list[Box]:
    """Write one level from the stored level before it, whole shards at a time.

    Parameters
    ----------
    fine : Source
        The stored level before, read as z, y, x.
    coarse : tensorstore.TensorStore
        The level to write; z, y, x.
    level : LevelGrid
        The level to write.
    reduction : Reduction, optional
        How voxels of the level before become one; by default their mean.
    within : Box, optional
        Write only shards that share a voxel with this box of the coarse level.
    ready : callable, optional
        Called with the box of each shard right before it is written.

    Returns
    -------
    list of Box
        The shards that hold anything but the fill value: what `require_stored` is to find at the end.

    Raises
    ------
    DataError, OutputError
        Voxels that cannot be read or written, or do not read back as written.
    """
    behind: VerifiedWrite | None = None
    stored = []
    reduced = prefetch(_reduced(fine, level, reduction, within))
    with closing(reduced):  # type: ignore[type-var]  # generators have close
        for box, voxels in reduced:
            if ready is not None:
                ready(box)
            write = VerifiedWrite(coarse, box, voxels, "coarser level:")
            if is_stored(voxels, coarse.fill_value):
                stored.append(box)
            if behind is not None:
                behind.finish()
            behind = write
        if behind is not None:
            behind.finish()
    return stored


def is_stored(voxels: NDArray[Any], fill: Any) -> bool:
    """Return whether any voxel differs from the fill value; if that is NaN, a NaN does not differ."""
    fill = 0 if fill is None else fill
    return bool(((voxels != fill) & ~(np.isnan(voxels) & np.isnan(fill))).any())


def require_stored(level: ts.TensorStore, boxes: Iterable[Box]) -> None:
    """Make sure that shards that were written are still stored, before a volume is marked complete.

    A shard that was deleted since then reads as the fill value, and the next level may have been made from that.

    Parameters
    ----------
    level : tensorstore.TensorStore
        The level that was written, with axes z, y, x.
    boxes : iterable of Box
        Its shards that hold a voxel other than the fill value, from `build_level`.

    Raises
    ------
    OutputError
        ``output.damaged``; ``output.unwritable``: the storage does not answer.
    """
    for box in boxes:
        part = level[box.slices]
        try:
            gone = STORAGE.call(partial(_is_absent, part))
        except (ValueError, OSError) as error:
            raise unwritable(f"coarser level: voxels {box} (z,y,x)", error) from error
        if gone:
            raise OutputError(
                "output.damaged",
                f"what was written to {url_of(level)} for the voxels {box} (z,y,x) is no longer there",
                hint="run the same command again, where nothing else deletes files",
                where=url_of(level),
            )


def _is_absent(part: ts.TensorStore, _: int) -> bool:
    spec, store = spec_of(part), part.kvstore
    if spec["driver"] == PRECOMPUTED and store is not None:  # tensorstore 0.1.86 looks for its chunks at other places
        scale = spec["scale_metadata"]
        x, y, z = ((start - zero) for (start, _), zero in zip(stored_range(part)[:3], scale["voxel_offset"], strict=True))
        name = ScaleKeys.of(scale).key_at((z, y, x))
        return bool(store.read(f"{scale['key']}/{name}", byte_range=slice(0, 0)).result().state != "value")
    return bool(part.storage_statistics(query_not_stored=True).result().not_stored)


def _reduced(fine: Source, level: LevelGrid, reduction: Reduction, within: Box | None) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield the shards of a level, each with its voxels, from the stored level before."""
    for box in shard_boxes(level, within):
        fine_box = box.enlarged(level.factor).intersection(box_of(fine.voxels))
        target = np.empty(box.shape, fine.voxels.dtype.numpy_dtype)  # (z, y, x) of one coarse shard
        for part in _parts(box, level, fine.voxels.chunk_layout.read_chunk.shape):
            source = part.enlarged(level.factor).intersection(fine_box)
            voxels = read_voxels(fine.voxels, source, "finer level:", check=fine.check)  # (z*fz, y*fy, x*fx), less at the faces
            target[part.shifted((-box.start[0], -box.start[1], -box.start[2])).slices] = reduction(voxels, level.factor)
        yield box, target


def box_of(store: ts.TensorStore) -> Box:
    """Return the box of a whole stored level."""
    z, y, x = store.shape
    return Box.whole((z, y, x))


def _parts(box: Box, level: LevelGrid, chunk: Sequence[int | None] | None) -> Iterator[Box]:
    """Cut a shard along z so that its finer voxels stay within `SPAN_VOXELS`, but no finer chunk is read twice."""
    _, height, width = box.enlarged(level.factor).shape
    whole = max(1, ((chunk[0] if chunk else None) or 1) // level.factor[0])
    depth = max(1, SPAN_VOXELS // (height * width * level.factor[0]) // whole) * whole
    for z in range(box.start[0], box.stop[0], depth):
        yield Box((z, *box.start[1:]), (min(z + depth, box.stop[0]), *box.stop[1:]))
