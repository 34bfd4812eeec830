"""Estimates: what a plan costs, in patches, bytes, memory and time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from volumetool.geometry import Box, RegionGrid, Triple
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Estimates
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.layout import Partition, count_patches
from volumetool.machine import byte_limits, file_limits
from volumetool.processing.columns import input_windows
from volumetool.processing.spec import OutputSpec
from volumetool.storage.io.kvstore import canonical_url, is_local, local_path
from volumetool.storage.io.stores.traffic import WRITTEN_FILE


def estimate(job: Job, spec: OutputSpec, keeping: Partition, sample: Sample, memory: tuple[int, int], pace: float) -> Estimates:
    """Return what the regions of a plan cost.

    Parameters
    ----------
    job : Job
        What is asked for.
    spec : OutputSpec
        The lattice and the output.
    keeping : Partition
        The regions, and which patches are kept between them.
    sample : Sample
        What a sample showed.
    memory : tuple of int
        Bytes that a worker needs, and that it may use.
    pace : float
        How many times as fast as the sample's worker all workers are together.
    """
    facts = patch_facts(job, spec, keeping)
    patches = facts["patches"]
    return Estimates(
        **facts,
        read_bytes=patches * math.prod(spec.lattice.patch) * spec.itemsize,
        written_bytes=written_bytes(job, spec, keeping.span, sample.compression),
        objects=shards(spec),
        free_bytes=free_bytes(job.output),
        free_files=output_files(job.output),
        bounds=bounds(job.output),
        worker_bytes=memory[0],
        allowed_bytes=memory[1],
        seconds=patches * sample.patch_seconds / pace + written_bytes(job, spec, keeping.span, 1.0) * sample.store_seconds,
        compression=sample.compression,
        unrounded=sample.unrounded,
    )


def opens(job: Job, spec: OutputSpec, span: Triple, chunk: Triple, *, sharded: bool) -> int:
    """Return about how often all regions together open a file: chunks to read, and each shard to write, read back and digest.

    Parameters
    ----------
    job : Job
        Its output is local, where a written file is opened `WRITTEN_FILE` times, or in a bucket, where it is one request.
    spec : OutputSpec
        The lattice and the output.
    span : tuple of int
        Shards per region and axis.
    chunk : tuple of int
        Voxels of a stored chunk of the input, or shard, z, y, x.
    sharded : bool
        It is a shard, which is opened twice to be read: its index comes first.
    """
    grid = spec.grid(span)

    def read(number: int) -> int:
        return sum(math.prod(window.coarsened(chunk).shape) for window in input_windows(spec, grid.region(number)))

    # What a region reads is a product over the axes: three lines of regions say it of all.
    _, wide, long = grid.grid
    lines = [sum(read(n * step) for n in range(count)) for count, step in zip(grid.grid, (wide * long, long, 1), strict=True)]
    written = shards(spec, fused=True) * ((WRITTEN_FILE if is_local(canonical_url(job.output)) else 1) + 2)
    return round(grid.channels * math.prod(lines) / read(0) ** 2) * (2 if sharded else 1) + written


def shards(spec: OutputSpec, *, fused: bool = False) -> int:
    """Return how many shards the volumes of a job have, all channels together; `fused`: on the levels that regions write."""
    return sum(
        math.prod(RegionGrid(level.shape, level.shard, (1, 1, 1)).grid) * (layout.channels or 1)
        for layout in spec.layouts
        for level in layout.levels
        if level.fused or not fused
    )


def patch_facts(job: Job, spec: OutputSpec, keeping: Partition) -> dict[str, Any]:
    """Return what the estimates say of patches and of keeping them.

    Parameters
    ----------
    job, spec, keeping
        As for :func:`estimate`.

    Returns
    -------
    dict
        The fields ``patches``, ``recomputed``, ``kept``, ``kept_why`` and ``kept_bytes`` of :class:`Estimates`.
    """
    asked = asked_box(job, spec)
    patches = count_patches(spec, keeping.span, keeping.keep, asked)
    return {
        "patches": patches,
        "recomputed": patches - count_patches(spec, keeping.span, "all", asked),
        "kept": keeping.keep,
        "kept_why": keeping.why,
        "kept_bytes": keeping.peak,
    }


def written_bytes(job: Job, spec: OutputSpec, span: Triple, compression: float) -> int:
    """Return the bytes of all levels over the regions asked for.

    Parameters
    ----------
    job, spec
        As for :func:`estimate`.
    span : tuple of int
        Shards per region and axis, z, y, x.
    compression : float
        Stored bytes per byte of voxels, as a sample of the output showed; 1 gives the bytes before compression.
    """
    whole = sum(
        math.prod(level.shape) * (layout.channels or 1) * np.dtype(layout.dtype).itemsize
        for layout in spec.layouts
        for level in layout.levels
    )
    share = count_patches(spec, span, "none", asked_box(job, spec)) / count_patches(spec, span)
    return int(whole * compression * share)


def asked_box(job: Job, spec: OutputSpec) -> Box | None:
    """Return the voxels of the output that are asked for, or None for all."""
    if job.roi is None or job.crop:
        return None
    return spec.lattice.made_of(job.roi.intersection(Box.whole(spec.lattice.shape)))


def left_over(estimates: Estimates, output: str, memory: tuple[int, int], share: float) -> Estimates:
    """Return what a job that goes on still needs, and what there is now.

    Parameters
    ----------
    estimates : Estimates
        Estimates of the whole job.
    output : str
        Where it is written.
    memory : tuple of int
        Bytes that a worker of this run needs, and that it may use.
    share : float
        Share of the regions that are not done.
    """
    return estimates.model_copy(
        update={
            "written_bytes": int(estimates.written_bytes * share),
            "kept_bytes": estimates.kept_bytes if share else 0,
            "objects": int(estimates.objects * share),
            "free_bytes": free_bytes(output),
            "free_files": output_files(output),
            "bounds": bounds(output),
            "worker_bytes": memory[0] if share else 0,
            "allowed_bytes": memory[1],
        }
    )


def free_bytes(output: str) -> int | None:
    """Return the bytes that may still be written where an output goes, or None for an object store."""
    place = canonical_url(output)
    if not is_local(place):
        return None
    return min(byte_limits(local_path(place)))[0]


def output_files(output: str) -> int | None:
    """Return how many files may still be made where an output goes, or None where nobody counts them."""
    place = canonical_url(output)
    limits = file_limits(local_path(place)) if is_local(place) else []
    return min(limits)[0] if limits else None


def bounds(output: str) -> tuple[str, str]:
    """Return what bounds the bytes and what the files where an output goes, each by name; empty where nothing is known to."""
    place = canonical_url(output)
    limits = (byte_limits(local_path(place)), file_limits(local_path(place))) if is_local(place) else ([], [])
    return min(limits[0], default=(0, ""))[1], min(limits[1], default=(0, ""))[1]
