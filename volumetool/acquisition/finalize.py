"""The end of a watch: thin shards become those of an ordinary job, with its plan, its ledger and its levels.

What is written is what `enhance` writes of the same raw volume with the same statistics, by the same code from blended voxels
on; only that these are read from the growing arrays. The volume shows the growing arrays until the last shard is there; then
its metadata are replaced in one move, and the growing arrays are deleted. Killed anywhere, the next run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import tensorstore as ts

from volumetool.acquisition.growing import STAGED
from volumetool.errors import LedgerError, OutputError
from volumetool.events import Observer, counting
from volumetool.geometry import Region, slab_boxes, slabs_of
from volumetool.jobs.execution.finalize import build_coarse_levels, is_marked_complete
from volumetool.jobs.execution.schedule import to_do
from volumetool.jobs.job_dir import WATCH, JobDir
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.jobs.records.plan_file import open_ledger, read_plan, write_plan
from volumetool.jobs.records.shard_digests import region_shards, write_coarse
from volumetool.jobs.run import write_maps
from volumetool.jobs.verification.repair import check_whole
from volumetool.processing.blend import Slab
from volumetool.processing.writer import downsample_slabs, write_slabs
from volumetool.storage.create import create_levels, group_metadata, open_for_writing
from volumetool.storage.io.kvstore import canonical_url, delete_prefix, encode_json, join_url, write_key
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.voxels import read_voxels


def compact(plan: Plan, staged: ts.TensorStore, observer: Observer) -> None:
    """Make a finished job's output of a volume whose every section is enhanced.

    Parameters
    ----------
    plan : Plan
        Plan of the batch job.
    staged : tensorstore.TensorStore
        Level 0 of the growing arrays.
    observer : Observer
        Is told of each region and of each shard of the coarse levels.

    Raises
    ------
    LedgerError
        ``ledger.plan``: a compaction with another plan was begun; ``ledger.lost``.
    OutputError
        ``output.damaged``: what was written is no longer there; the growing arrays stay.
    """
    place, folder = plan.job_dir.place, plan.job_dir.url
    stored = read_plan(folder)
    if stored is None:
        create_levels(place, plan.spec.layout, range(len(plan.spec.levels)))
        write_plan(plan)
    elif stored.fingerprint != plan.fingerprint:
        raise LedgerError(
            "ledger.plan",
            f"{folder} holds a plan with the fingerprint {stored.fingerprint[:12]}, not {plan.fingerprint[:12]}",
            hint="watch with the settings that it was begun with",
            where=folder,
        )
    else:
        plan = stored.model_copy(update={"job": plan.job})
    ledger = _write_regions(plan, staged, observer)
    if not check_whole(plan, ledger):
        raise OutputError(
            "output.damaged",
            f"shards of {place} were deleted or changed while they were written: {len(ledger.failures)} regions",
            hint="watch with the same command again: they are written again",
            where=place,
        )
    write_coarse(plan)
    _switch(plan)
    clear(plan.output)


def is_complete(output: str) -> bool:
    """Return whether a watch has been finished."""
    plan = read_plan(JobDir(output).url)
    if plan is None:
        return False
    return is_marked_complete(plan.model_copy(update={"job": plan.job.model_copy(update={"output": output})}))


def clear(output: str) -> None:
    """Delete what a finished watch needs no more; again, if need be."""
    delete_prefix(join_url(canonical_url(output), STAGED))
    delete_prefix(join_url(JobDir(output).url, WATCH))


def _write_regions(plan: Plan, staged: ts.TensorStore, observer: Observer) -> Ledger:
    ledger = open_ledger(plan)
    ledger.begin()
    count = counting(observer, "regions", plan.grid.count, ledger.done)
    targets = [open_for_writing(plan.output, plan.spec.layout, level) for level in range(len(plan.spec.fused))]
    try:
        for index in to_do(plan, ledger):
            ledger.append(_write_region(plan, plan.grid.region(index), staged, targets))
            count(1)
    finally:
        ledger.flush()
        write_maps(plan, ledger)
    build_coarse_levels(plan, observer=observer)
    return ledger


def _write_region(plan: Plan, region: Region, staged: ts.TensorStore, targets: list[ts.TensorStore]) -> Record:
    started, spec = time.time(), plan.spec
    for level, box in enumerate(slab_boxes(region.box, spec.fused)):
        delete_torn_shards(targets[level], spec.layout, level, box)
    checksums = write_slabs(spec, downsample_slabs(spec, _slabs(plan, region, staged)), targets)
    return Record(
        region=region.index,
        state="done",
        checksums=tuple(checksums),
        stored=region_shards(plan, region),
        seconds=round(time.time() - started, 4),
        numerics=plan.probe,
        finished=time.time(),
    )


def _slabs(plan: Plan, region: Region, staged: ts.TensorStore) -> Iterator[Slab]:
    for box in slabs_of(region.box, plan.spec.levels[0].shard):
        yield Slab(box, read_voxels(staged, box, "growing volume:"))


def _switch(plan: Plan) -> None:
    """Show the finished levels instead of the growing ones, in one move."""
    attributes = plan.provenance("complete", holes=[], numerics=[plan.probe])
    write_key(plan.job_dir.place, "zarr.json", encode_json(group_metadata(plan.spec.layout, attributes)))
