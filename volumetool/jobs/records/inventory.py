"""The inventory: which chunks of its input a job found stored when it began, one bit each, in the job's folder.

A chunk of it that is missing later is gone. Of a store that gives no list nothing is known at first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import InputError, LedgerError
from volumetool.geometry import Triple
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import INVENTORY
from volumetool.jobs.plan import Plan
from volumetool.processing.statistics import sample_state
from volumetool.storage.io.chunks import MOST_LISTED, StoredChunks, stored_chunks
from volumetool.storage.io.kvstore import join_url, read_key, write_key
from volumetool.storage.io.presence import check_there, looked
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume


def input_name(channel: int) -> str:
    """Return the name of the inventory of a channel of the input."""
    return f"input-{channel}"


MASK = "mask"


def write_inventory(url: str, plan: Plan) -> None:
    """List what is stored of a plan's input and mask, and write it into the job's folder.

    Raises
    ------
    InputError
        ``input.vanished``: the input is gone. ``input.changed``: what the statistics were fitted on was written to.
    DataError
        ``data.unreadable``: the store does not answer.
    OutputError
        ``output.unwritable``, ``output.full``.
    """
    job = plan.job
    volume = open_volume(job.input, voxel_size=job.voxel_size)
    inventory = {name: _list(chunks, array) for name, chunks, array in _inputs(job, volume)}
    sampled = plan.first.statistics.sampled
    if sampled and sample_state(volume, job.level, job.seed) != sampled:
        raise InputError(
            "input.changed",
            f"{job.input} was written to while the job was planned",
            hint="let whatever writes there end, and run the same command again; nothing was begun",
            where=volume.url,
        )
    for name, listed in inventory.items():
        if listed is not None:
            write_key(url, f"{INVENTORY}/{name}", zlib.compress(np.packbits(listed).tobytes()))


def _list(chunks: StoredChunks, array: ts.TensorStore) -> NDArray[np.bool_] | None:
    listed = chunks.listed()
    looked(lambda _: check_there(array), chunks.url)
    return listed


def _inputs(job: Job, volume: Volume) -> Iterator[tuple[str, StoredChunks, ts.TensorStore]]:
    for channel in range(volume.channels or 1):
        yield input_name(channel), stored_chunks(volume, job.level, channel), volume.open(job.level, channel)
    if job.second is not None:
        mask = open_volume(job.second, voxel_size=(1.0, 1.0, 1.0))
        yield MASK, stored_chunks(mask, 0, 0), mask.open()


def read_inventory(url: str, name: str, grid: Triple) -> NDArray[np.bool_] | None:
    """Return which chunks are known to have been stored (z, y, x); none are where nothing was written.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    name : str
        `MASK`, or of `input_name`.
    grid : tuple of int
        Chunks along z, y, x.

    Returns
    -------
    numpy.ndarray or None
        None of an input of more than `MOST_LISTED` chunks.

    Raises
    ------
    LedgerError
        ``ledger.inventory``: it is damaged.
    """
    count = math.prod(grid)
    if count > MOST_LISTED:
        return None
    raw = read_key(url, f"{INVENTORY}/{name}")
    if raw is None:
        return np.zeros(grid, bool)
    try:
        bits = np.frombuffer(zlib.decompressobj().decompress(raw, count), np.uint8)
        return np.unpackbits(bits, count=count).astype(bool).reshape(grid)
    except (zlib.error, ValueError) as error:
        raise LedgerError(
            "ledger.inventory",
            f"{join_url(url, INVENTORY, name)} is damaged: {error}",
            hint="bring it back from a backup; or delete it, and what is gone of the input is told by its metadata alone",
            where=url,
        ) from error
