"""Adopting: a job whose folder was lost is taken up again from its output, as far as the output is shown to be right.

The output's own metadata name the job and the options that decide its bytes. A region counts as done where all its shards of
level 0 are stored, every chunk fits its checksum, and the next levels are the means of it; a sample is computed again from the
input. What is not stored may be the fill value or lost: it is not adopted, and the next run makes it again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

from numpy.typing import NDArray

from volumetool.errors import ConfigError, DataError, FingerprintError, OutputError, VolumetoolError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Region, slabs_of
from volumetool.jobs.execution.finalize import mark_incomplete
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.job_dir import LEASE, PLAN, JobDir, roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.conflicts import field_lines, told_by_specs
from volumetool.jobs.planning.planner import plan_anew
from volumetool.jobs.planning.resolve import resolve_as_begun
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.jobs.records.parts import own_job
from volumetool.jobs.records.plan_file import open_ledger, write_plan
from volumetool.jobs.records.shard_digests import note_unbuilt, open_owned, region_keys, region_shards
from volumetool.jobs.records.volumes import volumes_of
from volumetool.jobs.verification.layout_check import lost_metadata, restore_metadata
from volumetool.jobs.verification.verify import Extent, Report, recompute
from volumetool.options import Kind, kinds
from volumetool.processing.spec import check_version
from volumetool.processing.writer import extend_checksum
from volumetool.storage.create import read_root
from volumetool.storage.formats.base import Json
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.kvstore import canonical_url, delete_key, join_url, list_keys, parent_url, read_key
from volumetool.storage.io.roles import name_roles
from volumetool.storage.io.shards import level_keys
from volumetool.storage.io.urls import check_foreign
from volumetool.storage.provenance import is_damaged, provenance_of

SAMPLE = 3
"""Regions that are computed again unless told otherwise."""

COVERED = 0.9
"""Share of the stored shards of level 0 that whole regions hold."""


def adopt(
    output: str,
    *,
    extent: Extent | None = None,
    source: str | None = None,
    statistics: str | None = None,
    allow_hosts: Collection[str] = (),
    observer: Observer = ignore,
) -> Report:
    """Make the folder of a job again from its output, and record the regions that are right.

    Parameters
    ----------
    output : str
        The output; its folder is lost.
    extent : Extent, optional
        How many regions are computed again, by default `SAMPLE`, and what chooses them.
    source : str, optional
        Where the input is now, if not where the output says.
    statistics : str, optional
        The table of section statistics that the job was given.
    allow_hosts : collection of str
        Hosts that the output may name as those of its input although they are not public.
    observer : Observer, optional
        Told by `Progressed` of each region that is looked at.

    Returns
    -------
    Report
        Regions that were adopted, and those of the sample that are not right.

    Raises
    ------
    ConfigError
        ``config.adopt``: the job has its folder; ``config.option``: the output does not say where its input is;
        ``config.private-host``: it is on a host that is not public.
    OutputError
        ``output.no-job``: the output does not name a job.
    FingerprintError
        ``job.fingerprint``: the input, the model or a table is another one now.
    DataError
        ``data.other-voxels``: some of the sample has other voxels; nothing was adopted.
    LedgerError
        ``ledger.owned``.
    """
    folder = JobDir(output).url
    with name_roles(*roles_of(output)), own_job(folder, observer) as claim:
        try:
            given = {name: value for name, value in (("input", source), ("statistics", statistics)) if value is not None}
            worker, extent = _worker_of(output, given, allow_hosts), extent or Extent()
            plan, report = worker.plan, Report(extent=replace(extent, recompute=extent.recompute or SAMPLE))
            if lost_metadata(plan):
                restore_metadata(plan)
            candidates = list(_stored_regions(plan))
            wrong = _sample(worker, candidates, report)
        except BaseException:
            claim.withdraw()
            raise
        ledger = _begin(folder, worker)
        count = counting(observer, "adopting", len(candidates))
        for index in candidates:
            if index not in wrong and (record := _record(worker, plan.grid.region(index))) is not None:
                ledger.append(record)
                report.regions += 1
            count(1)
        ledger.flush()
    report.of = plan.grid.count
    return report


def _begin(folder: str, worker: Worker) -> Ledger:
    """Make the job's folder again; nothing is recorded yet."""
    for key in list_keys(folder):  # of another life: nothing says what it speaks of
        if key != LEASE:
            delete_key(folder, key)
    write_plan(worker.plan)
    mark_incomplete(worker.plan)
    note_unbuilt(worker.plan)
    ledger = open_ledger(worker.plan)
    ledger.begin()
    return ledger


def _worker_of(output: str, given: Json, allow_hosts: Collection[str]) -> Worker:
    """Return a worker for the job that an output names, as it would be planned now."""
    place = canonical_url(output)
    if read_key(JobDir(output).url, PLAN) is not None:
        raise ConfigError(
            "config.adopt",
            f"{output} has its job's folder; there is nothing to adopt",
            hint=f"volumetool verify {output} --repair",
        )
    own = provenance_of(read_root(place)[1] or {}) or {}
    spec, fingerprint = own.get("spec"), own.get("fingerprint")
    if "steps" in own:
        raise OutputError(
            "output.no-job",
            f"{place} grows under `volumetool live --watch`, whose books were lost: nothing says which sections are enhanced",
            hint="watch the folder again with another output",
            where=place,
        )
    if not isinstance(spec, dict) or not isinstance(fingerprint, str) or is_damaged(own):
        raise OutputError(
            "output.no-job",
            f"{place} does not name the job that made it, or its metadata are damaged",
            hint="bring its metadata back from a backup, or enhance anew at another place",
            where=place,
        )
    check_version(output, spec.get("numerics_version", 0))
    job = _asked(own, output, given, allow_hosts)
    resolved = resolve_as_begun(job.model_copy(update={"patch_cache": "never"}), spec.get("trust_level", 0))
    if resolved.spec.fingerprint != fingerprint:
        lines = "\n".join(f"  {line}" for line in told_by_specs(spec, resolved.spec.plain()))
        raise FingerprintError(
            "job.fingerprint",
            f"{output} was made with other settings than it names now:\n{lines}",
            hint="give the volume that it was made from with --input, and with --statistics the table that it was given. "
            "That of a finished watch was lost with its folder: such a volume is whole, and cannot be adopted",
            detail=field_lines(spec, resolved.spec.plain()),
        )
    plan = plan_anew(resolved).model_copy(update={"job": job})
    if plan.trust is not None and (provenance_of(read_root(plan.trust)[1] or {}) or {}).get("fingerprint") != fingerprint:
        raise OutputError(
            "output.no-job",
            f"{output} says that its trust volume is {plan.trust}, and that does not name the same job",
            hint="bring it back, or enhance anew at another place; nothing was touched",
            where=plan.trust,
        )
    return Worker(_cut(plan))


def _asked(own: Json, output: str, given: Json, allow_hosts: Collection[str]) -> Job:
    """Return the job that an output's metadata ask for; others may have written them."""
    stored = own.get("job")
    stored = stored if isinstance(stored, dict) else {}
    known = {name for name, kind in kinds(Job).items() if kind is Kind.SEMANTIC} | {"roi"}
    options: dict[str, Any] = {name: value for name, value in stored.items() if name in known}
    for name in ("input", "mask"):
        if name in options and name not in given:
            check_foreign(str(options[name]), allow_hosts)
    options |= given
    if "/" not in (beside := str(options.get("trust", "/"))):
        options["trust"] = join_url(parent_url(canonical_url(output))[0], beside)
    if "input" not in options or "model" not in options:
        raise ConfigError(
            "config.option",
            f"{output} does not say what it was made from, or with which model",
            hint="give the input with --input; where the model is not named, an older version made the output: enhance anew",
        )
    precisions = {step.get("precision") for step in own.get("chain", [own["spec"]])}  # of a chain each chose its own
    options |= {"precision": precisions.pop() if len(precisions) == 1 else None, "batch": own["spec"].get("padded_batch")}
    return make_job(**options, output=output)


def _cut(plan: Plan) -> Plan:
    """Cut regions as finely as it takes for whole ones to hold most of what is stored: the lost plan may have had smaller."""
    stored = 0
    for volume in volumes_of(plan):
        names = level_keys(volume.layout, 0)
        stored += sum(key in names for key in list_keys(volume.level(0)))
    while max(plan.grid.span) > 1 and sum(map(len, _stored_regions(plan).values())) < COVERED * stored:
        span = list(plan.grid.span)
        longest = span.index(max(span))
        span[longest] = -(-span[longest] // 2)
        plan = plan.model_copy(update={"grid": plan.spec.grid((span[0], span[1], span[2]))})
    return plan


def _stored_regions(plan: Plan) -> dict[int, list[tuple[str, str]]]:
    """Return the regions whose shards of level 0 are all stored, with their places and keys."""
    stored = {(place, key) for place in (each.level(0) for each in volumes_of(plan)) for key in list_keys(place)}
    finest = {volume.level(0) for volume in volumes_of(plan)}
    shards = {
        index: [(place, key) for place, keys in region_keys(plan, plan.grid.region(index)) if place in finest for key in keys]
        for index in range(plan.grid.count)
    }
    return {index: keys for index, keys in shards.items() if stored.issuperset(keys)}


def _sample(worker: Worker, candidates: list[int], report: Report) -> set[int]:
    """Compute some of the regions again that seem right; return those that are not.

    One that is not tells that others may not be, either: then all must be computed again.

    Raises
    ------
    DataError
        ``data.other-voxels``.
    """
    seed = secrets.randbits(32) if report.extent.seed is None else report.extent.seed
    order = Random(seed).sample(candidates, len(candidates))  # noqa: S311
    sound = (index for index in order if _record(worker, worker.plan.grid.region(index)) is not None)
    recompute(worker, list(islice(sound, report.extent.recompute)), report)
    wrong = {damage.region for damage in report.damaged if damage.is_remade and damage.region is not None}
    if wrong and (len(wrong) == len(report.recomputed) or next(sound, None) is not None):
        raise DataError(
            "data.other-voxels",
            f"{len(wrong)} of {len(report.recomputed)} regions of {worker.plan.output} have other voxels, computed again",
            hint="the input was changed since, or the output was, and nothing was adopted: enhance anew at another place, or "
            f"compute all again with --adopt --recompute {len(candidates)}, and those that are right are adopted",
            where=worker.plan.output,
        )
    return wrong


def _record(worker: Worker, region: Region) -> Record | None:
    """Return the record of a region as it is stored, None where a chunk is damaged or a level is not the mean of level 0."""
    plan = worker.plan
    try:
        stores = open_owned(plan, region.channel)
        checksums = [0] * len(stores)
        for slab in slabs_of(region.box, plan.spec.levels[0].shard):
            stored: list[NDArray[Any]] = []
            for store, (number, level, box) in zip(stores, plan.spec.shadows(slab), strict=True):
                voxels, factor = read_part(store, box.slices), plan.spec.fused[plan.spec.level_of(number) + level].factor
                if level and voxels.tobytes() != plan.spec.reduction(number)(stored[-1], factor).tobytes():
                    return None
                stored.append(voxels)
            checksums = [extend_checksum(*each) for each in zip(checksums, stored, strict=True)]
        shards = region_shards(plan, region)
    except (VolumetoolError, ValueError, OSError):
        return None
    return Record(
        region=region.index,
        state="done",
        checksums=tuple(checksums),
        stored=shards,
        worker=worker.name,
        numerics=worker.probe,
        finished=time.time(),
    )
