"""Estimates: what a plan costs, in patches, bytes, memory and time."""

from __future__ import annotations

import math
import shutil

from pydantic import BaseModel, ConfigDict

from volumetool.geometry import Box, RegionGrid
from volumetool.jobs.job import Job
from volumetool.jobs.layout import Work
from volumetool.jobs.sample import Sample
from volumetool.store.kvstore import canonical_url, is_local, local_path


class Estimates(BaseModel):
    """What the plan costs.

    Parameters
    ----------
    patches : int
        Patches that all regions asked for evaluate.
    recomputed : int
        Those of them that an earlier region evaluates too.
    read_bytes : int
        Input voxels, halo included, before compression.
    written_bytes : int
        Output of all levels, compressed as a sample of it was.
    objects : int
        Files or objects of the output.
    free_bytes : int, optional
        Free space where the output goes; unknown for object stores.
    worker_bytes, allowed_bytes : int
        Memory that one worker needs, and that it may use.
    seconds : float
        From a measured sample of this machine.
    compression : float
        Stored bytes per byte of voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patches: int
    recomputed: int
    read_bytes: int
    written_bytes: int
    objects: int
    free_bytes: int | None
    worker_bytes: int
    allowed_bytes: int
    seconds: float
    compression: float


def estimate(job: Job, work: Work, grid: RegionGrid, sample: Sample, memory: tuple[int, int], workers: int) -> Estimates:
    """Return what the regions of a grid cost.

    Parameters
    ----------
    job : Job
        What is asked for.
    work : Work
        The geometry.
    grid : RegionGrid
        The regions.
    sample : Sample
        What a sample showed.
    memory : tuple of int
        Bytes that a worker needs, and that it may use.
    workers : int
        Workers that share the patches.
    """
    every = grid.patches(work.lattice, work.box.start)
    asked = _asked(job, work)
    patches = every if asked is None else sum(_patches(work, grid.region(index).box) for index in grid.touching(asked))
    share = patches / every
    distinct = round(work.grid(work.shards).patches(work.lattice, work.box.start) * share)
    voxels = sum(math.prod(level.shape) for level in work.levels) * work.channels
    shards = sum(math.prod(RegionGrid(level.shape, level.shard, (1, 1, 1)).grid) for level in work.levels)
    return Estimates(
        patches=patches,
        recomputed=patches - distinct,
        read_bytes=patches * math.prod(work.lattice.patch) * work.itemsize,
        written_bytes=int(voxels * work.itemsize * sample.compression * share),
        objects=shards * work.channels,
        free_bytes=free_bytes(job.output),
        worker_bytes=memory[0],
        allowed_bytes=memory[1],
        seconds=patches * sample.patch_seconds / workers + voxels * work.itemsize * share * sample.store_seconds,
        compression=sample.compression,
    )


def _asked(job: Job, work: Work) -> Box | None:
    """Return the voxels of the output that are asked for, or None for all."""
    if job.roi is None or job.crop:
        return None
    return job.roi.intersection(Box.whole(work.lattice.shape)).enlarged(work.lattice.scale)


def _patches(work: Work, box: Box) -> int:
    core = box.shifted(work.box.start)
    return math.prod(len(axis.touching(*ends)) for axis, *ends in zip(work.lattice.axes, core.start, core.stop, strict=True))


def free_bytes(output: str) -> int | None:
    """Return the free space where an output goes, or None for an object store."""
    place = canonical_url(output)
    if not is_local(place):
        return None
    folder = local_path(place)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
