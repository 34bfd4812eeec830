"""Keeping: whether a patch that several regions need is kept on disk, or computed again by each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from volumetool.geometry import Triple
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import PATCHES, JobDir
from volumetool.jobs.plan import CACHED_AXES, LOOK_AHEAD, WINDOW, CacheScope
from volumetool.jobs.planning import cost
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.layout import (
    RECOMPUTED_LIMIT,
    REGION_SECONDS,
    Partition,
    WorkerDemand,
    choose_partition,
    count_patches,
    recomputed_share,
)
from volumetool.machine import existing_folder
from volumetool.processing.patch_cache import kept_bytes
from volumetool.processing.spec import OutputSpec
from volumetool.scratch import scratch_folder
from volumetool.storage.io.kvstore import canonical_url, delete_key, is_local, join_url, local_path, read_key, write_key
from volumetool.units import show_bytes

ROUNDS = 2
"""Trials of the disk; the faster one counts."""

Choose = Callable[[CacheScope], Triple]
MemoryOf = Callable[[OutputSpec, Triple, CacheScope], int]


def plan_partition(job: Job, spec: OutputSpec, demand: WorkerDemand, sample: Sample, memory_of: MemoryOf) -> Partition:
    """Return the regions, and whether patches are kept between them, with the reason.

    They are where regions of about a minute would compute too much twice, where the disk is faster than the network, and
    where there is room: for all of them, else for those that a layer of regions along z shares.

    Parameters
    ----------
    job : Job
        May ask for it, forbid it, or fix the regions.
    spec : OutputSpec
        The lattice and the output.
    demand : WorkerDemand
        Workers, memory, and the time of a patch.
    sample : Sample
        How the output compresses, which decides what room it leaves.
    memory_of : callable
        Bytes that a worker needs for regions of a span.
    """

    def span(keep: CacheScope) -> Triple:
        return job.region or choose_partition(spec, replace(demand, keep=keep), memory_of)

    if job.patch_cache == "never":
        return Partition(span("none"), "none", "as asked for")
    if demand.earlier and job.patch_cache == "auto":
        return Partition(span("none"), "none", "the operations before the last are computed for each region anyway")
    if job.patch_cache == "always":
        return _kept(job, spec, demand.workers, (span("all"), "all"), "as asked for")
    if (why := _not_worth(job, spec, demand, span("all"))) is not None:
        return Partition(span("none"), "none", _twice(job, spec, span("none")) + why)
    return _fitting(job, spec, demand, sample, (span, memory_of))


def partition_again(job: Job, spec: OutputSpec, span: Triple, workers: int) -> Partition | None:
    """Return which patches a resumed run keeps if its options say so, or None if it keeps those that its plan says.

    Parameters
    ----------
    job : Job
        Options of the resumed run; ``patch_cache="auto"`` leaves the plan as it is.
    spec : OutputSpec
        The lattice and the output.
    span : tuple of int
        Shards per region and axis, z, y, x, as planned.
    workers : int
        Workers of the resumed run.
    """
    if job.patch_cache == "auto":
        return None
    keep: CacheScope = "all" if job.patch_cache == "always" else "none"
    return _kept(job, spec, workers, (span, keep), "as asked for")


def _not_worth(job: Job, spec: OutputSpec, demand: WorkerDemand, span: Triple) -> str | None:
    """Return what more there is to say where keeping would gain nothing, None where it gains."""
    asked = cost.asked_box(job, spec)
    share = recomputed_share(spec, span, asked=asked)
    if share <= RECOMPUTED_LIMIT:
        return ""
    repeated = count_patches(spec, span, "none", asked) - count_patches(spec, span, "all", asked)
    saved = repeated * demand.patch_seconds / demand.workers
    if saved < REGION_SECONDS:
        return f", and keeping them would save {saved:.0f} s"
    # All workers share the disk; of their patches only some are kept.
    disk = trial_seconds(job.output, kept_bytes(spec.lattice, spec.predicted or 1)) * max(1.0, demand.workers * share)
    if disk >= demand.patch_seconds:
        return f", but to write and read a patch takes {disk * 1000:.0f} ms, to compute it {demand.patch_seconds * 1000:.0f} ms"
    return None


def _fitting(job: Job, spec: OutputSpec, demand: WorkerDemand, sample: Sample, models: tuple[Choose, MemoryOf]) -> Partition:
    """Return the most that memory and, beside the output, the disk have room for."""
    span, memory_of = models
    free = cost.free_bytes(job.output)
    wanted: list[CacheScope] = ["all", "sides"]
    needs: list[str] = []
    for keep in wanted:
        shape = span(keep)
        if (memory := memory_of(spec, shape, keep)) > demand.memory:
            needs.append(f"{keep} would take {show_bytes(memory)} of memory")
            continue
        why = _twice(job, spec, shape)
        kept = _kept(job, spec, demand.workers, (shape, keep), f"{why}, {'; '.join(needs)}" if needs else why)
        room = None if free is None else free - cost.written_bytes(job, spec, shape, sample.compression)
        if room is None or kept.peak <= room:
            return kept
        needs.append(f"{keep} would take {show_bytes(kept.peak)}, the output leaves {show_bytes(max(0, room))} free")
    return Partition(span("none"), "none", "; ".join(needs))


def _twice(job: Job, spec: OutputSpec, span: Triple) -> str:
    return f"{recomputed_share(spec, span, asked=cost.asked_box(job, spec)):.1%} computed twice without"


def _kept(job: Job, spec: OutputSpec, workers: int, what: tuple[Triple, CacheScope], why: str) -> Partition:
    span, keep = what
    ahead = LOOK_AHEAD * WINDOW * workers if workers > 1 else 0
    patches = spec.sharing(span).peak(CACHED_AXES[keep], ahead, cost.asked_box(job, spec))
    return Partition(span, keep, why, patches * kept_bytes(spec.lattice, spec.predicted or 1))


def trial_seconds(output: str, size: int) -> float:
    """Return how long an object of `size` bytes takes to be written to the place of an output, synced, and read again.

    Patches are kept without waiting for the disk, but it has to take them sooner or later. The object is deleted.

    Raises
    ------
    OutputError
        ``output.unwritable``: the place takes no object.
    """
    content = np.random.default_rng(0).bytes(size)
    if not is_local(canonical_url(output)):
        return _trial(join_url(JobDir(output).url, PATCHES), content)
    with scratch_folder("trial", existing_folder(local_path(output))) as folder:
        return _trial(str(folder), content)


def _trial(url: str, content: bytes) -> float:
    rounds = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        write_key(url, f"trial-{number}", content)
        read_key(url, f"trial-{number}")
        rounds.append(time.perf_counter() - started)
        delete_key(url, f"trial-{number}")
    return min(rounds)
