"""Before a run goes on, the input is compared with what finished regions read.

Memory and the ledger hold one digest per region, not one per chunk. States are asked for by several threads at once; voxels are
read again only where a state differs, or where the job wants to be strict.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from volumetool.errors import DataError, FingerprintError, InputError
from volumetool.events import Observer, Waiting, ignore
from volumetool.jobs.execution.finalize import is_marked_complete, mark_incomplete
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.input_digest import RegionInput
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.processing.columns import input_windows
from volumetool.processing.region import stored_region
from volumetool.storage.open import open_volume

THREADS = 16
"""Regions whose chunks are asked for at the same time: network file systems answer slowly, but many at once."""

BATCH = 256
"""Records in memory at once."""

SAY_SECONDS = 5.0
"""After so long, and then as often, the user is told how far it is."""

NAMED = 5
"""Regions that an error names."""


def check_input(plan: Plan, ledger: Ledger, observer: Observer = ignore) -> None:
    """Make sure that the input is still what finished regions read; regions that may be made again are marked for that.

    To be called by the job's owner.

    Parameters
    ----------
    plan : Plan
        The job's plan, which says by `input_check` how strictly to compare.
    ledger : Ledger
        Its records. Regions whose input changed are recorded as failed if the job has `recompute_changed`.
    observer : Observer, optional
        Told by `Waiting`, every few seconds, how many regions have been compared.

    Raises
    ------
    FingerprintError
        ``job.input-changed``: voxels that finished regions read are others now.
    """
    if plan.job.input_check == "metadata" or not ledger.done:
        return
    changed = list(_changed(plan, ledger, observer))
    if not changed:
        return
    if not plan.job.recompute_changed:
        raise _refused(plan, changed)
    if is_marked_complete(plan):
        mark_incomplete(plan)
    for region, what in changed:
        ledger.append(Record(region=region, state="failed", error={"code": "input.changed", "message": what}))
    ledger.flush()


def check_there(plan: Plan) -> None:
    """Make sure that the input and the mask of a job that runs are still where they were.

    Raises
    ------
    InputError
        ``input.vanished``.
    """
    job = plan.job
    asked = [(job.input, job.level, job.voxel_size, plan.first.input)]
    if job.second is not None:
        asked.append((job.second, 0, (1.0, 1.0, 1.0), plan.first.mask or ""))
    for place, level, size, identity in asked:
        try:
            there = open_volume(place, voxel_size=size).identity_of(level) == identity
        except (InputError, DataError, IndexError):
            there = False
        if not there:
            raise InputError(
                "input.vanished",
                f"{place} was there when the job began, and is gone",
                hint="bring it back and run the same command again; nothing that was read meanwhile is recorded",
                where=place,
            )


def _changed(plan: Plan, ledger: Ledger, observer: Observer) -> Iterator[tuple[int, str]]:
    """Yield the regions whose input is another one now, and what is."""
    job = plan.job
    mask = None if job.second is None else open_volume(job.second, voxel_size=(1.0, 1.0, 1.0))
    look = _Look(plan, RegionInput(job, open_volume(job.input, voxel_size=job.voxel_size), mask, plan.first_mask_factor))
    told, seen = time.monotonic(), 0
    mine = range(plan.grid.count) if plan.part is None else frozenset(plan.asked)
    records = (record for record in ledger.latest() if record.state == "done" and record.read and record.region in mine)
    with ThreadPoolExecutor(THREADS, "volumetool-input") as pool:
        while batch := list(islice(records, BATCH)):
            for record, (now, what) in zip(batch, pool.map(look, batch), strict=True):
                if what:
                    yield record.region, what
                elif now != record.read:  # the same voxels in files of another time: not to be read again with every run
                    ledger.append(replace(record, read=now))
            seen += len(batch)
            if time.monotonic() - told >= SAY_SECONDS:
                observer(Waiting(f"comparing the input with what finished regions read: {seen} of {ledger.done} regions"))
                told = time.monotonic()
    ledger.flush()


class _Look:
    """Looks at the input of one record's region; called by several threads."""

    def __init__(self, plan: Plan, source: RegionInput) -> None:
        self._plan, self._source = plan, source

    def __call__(self, record: Record) -> tuple[dict[str, object], str]:
        """Return what the record should say of its input now, and what is wrong with it."""
        spec, region = stored_region(self._plan.earlier, self._plan.spec, self._plan.grid.region(record.region))
        try:
            state = self._source.state(region.channel, list(input_windows(spec, region)))
            if state.gone:
                return {}, f"chunks of its input are gone: {'; '.join(state.gone)}"
            if state.digest == record.read["stored"] and self._plan.job.input_check != "strict":
                return record.read, ""
            voxels = self._source.content(spec, region, state)
        except (DataError, InputError) as error:
            return {}, f"its input can no longer be read: {error.message}"
        skips = self._plan.job.missing == "skip"
        if voxels != record.read["voxels"] or (skips and len(state.absent) != record.read["absent"]):
            return {}, "its input has other voxels now"
        return {**record.read, "stored": state.digest, "absent": len(state.absent)}, ""


def _refused(plan: Plan, changed: list[tuple[int, str]]) -> FingerprintError:
    names = [f"  region {region} ({plan.grid.region(region).box}): {what}" for region, what in changed[:NAMED]]
    more = [f"  and {len(changed) - NAMED} more"] if len(changed) > NAMED else []
    return FingerprintError(
        "job.input-changed",
        f"{plan.job.input} was changed since {len(changed)} finished regions read it:\n" + "\n".join([*names, *more]),
        hint="--recompute-changed makes these regions again and keeps the others; or bring the first input back, "
        "or choose another output",
        where=plan.job.input,
    )
