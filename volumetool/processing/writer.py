"""The writer: slabs become shards on all fused levels, one step behind the sweep, and are read back before they count."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import total_factor
from volumetool.processing.blend import Slab
from volumetool.processing.spec import OutputSpec
from volumetool.storage.voxels import VerifiedWrite, as_bytes


def downsample_slabs(spec: OutputSpec, slabs: Iterable[Slab]) -> Iterator[tuple[Slab, list[NDArray[Any]]]]:
    """Downsample slabs to every fused level.

    Yields
    ------
    Slab
        The slab.
    list of numpy.ndarray
        Its voxels on each fused level of its volume, finest first, in the dtype of that.
    """
    for slab in slabs:
        reduction, begin = spec.reduction(slab.number), spec.level_of(slab.number)
        factor = zip(total_factor(spec.levels, begin), spec.block_of(slab.number), strict=True)
        z, y, x = (whole // joined for whole, joined in factor)  # as far as they are not means already
        first = slab.voxels if max(z, y, x) == 1 else reduction(slab.voxels, (z, y, x))
        levels = list(reduction.chain(first, spec.fused[begin:]))  # (z, y, x), (z/fz, y/fy, x/fx), ...
        yield slab, levels


def write_slabs(
    spec: OutputSpec, slabs: Iterable[tuple[Slab, list[NDArray[Any]]]], targets: Sequence[ts.TensorStore]
) -> list[int]:
    """Write the slabs of a region on every fused level and read each back.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    slabs : iterable of (Slab, list of numpy.ndarray)
        From :func:`downsample_slabs`, in the order of the sweep.
    targets : sequence of tensorstore.TensorStore
        The fused levels of the volume, finest first; z, y, x of a channel. Of several channels, one after the other.

    Returns
    -------
    list of int
        For each target the CRC-32 of its voxels: slab after slab, each in C order.

    Raises
    ------
    OutputError
        ``output.unwritable`` where the storage refuses.
    DataError
        ``data.read-back`` where the stored bytes are not those that were written.
    """
    checksums = [0] * len(targets)
    behind: dict[int, VerifiedWrite] = {}
    for slab, levels in slabs:
        # The slab before is read back while this one is on its way.
        current = _begin(spec, slab, levels, targets)
        _finish(behind, checksums)
        behind = current
    _finish(behind, checksums)
    return checksums


def _begin(
    spec: OutputSpec, slab: Slab, levels: list[NDArray[Any]], targets: Sequence[ts.TensorStore]
) -> dict[int, VerifiedWrite]:
    """Begin to write a slab on each level; return the writes by the numbers of their targets."""
    # The slab's box on each level: divided by the level's factor.
    own = [(at, level, box) for at, (number, level, box) in enumerate(spec.shadows(slab.box)) if number == slab.number]
    return {
        at: VerifiedWrite(targets[at], box, voxels, f"level {level} of the output:")
        for (at, level, box), voxels in zip(own, levels, strict=True)
    }


def _finish(writes: dict[int, VerifiedWrite], checksums: list[int]) -> None:
    for number, write in writes.items():
        write.finish()
        checksums[number] = extend_checksum(checksums[number], write.voxels)


def extend_checksum(checksum: int, voxels: NDArray[Any]) -> int:
    """Return a CRC-32 extended by `voxels`, taken in C order."""
    return zlib.crc32(as_bytes(voxels).data, checksum)
