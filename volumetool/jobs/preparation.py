"""Before a run: the job's folder and the output, created or found as the plan left them."""

from __future__ import annotations

from contextlib import suppress

from volumetool.errors import LedgerError, OutputError
from volumetool.jobs.job_dir import LEASE, PLAN
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.inventory import write_inventory
from volumetool.jobs.records.lease import confirm
from volumetool.jobs.records.plan_file import check_output, keep_table, open_ledger, read_plan, write_plan
from volumetool.jobs.records.section_mask import write_section_mask
from volumetool.jobs.records.segments import SEGMENT, close_segments, delete_segments
from volumetool.jobs.records.volumes import WrittenVolume
from volumetool.jobs.verification.layout_check import lost_metadata
from volumetool.storage.create import create_levels, create_volume, read_root
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.kvstore import delete_key, delete_prefix, list_keys, read_key
from volumetool.storage.provenance import provenance_of, write_status


def prepare(plan: Plan) -> None:
    """Create the job's folder and the output, or find them as this plan left them; another job that did nothing yet gives way.

    The folder comes first: whatever a killed run leaves at the output is known as this job's.

    Raises
    ------
    LedgerError
        ``ledger.plan``: another run planned this output since then. ``ledger.other-output``: the output is another job's.
    InputError
        ``input.changed``: the input was written to while the job was planned.
    OutputError
        ``output.damaged``: metadata are lost, and what lies beside them is recorded as done.
    """
    folder = plan.job_dir.url
    if plan.job.overwrite:
        _delete_earlier(plan)
    confirm(folder)
    stored = read_plan(folder)
    check_output(stored or plan)
    if stored is not None and stored.identity != plan.identity:
        if open_ledger(stored).done:
            raise LedgerError(
                "ledger.plan",
                f"another run began {plan.output} with a plan of its own while this one was planned",
                hint="run again: what that job has done is taken up, or refused with the difference",
                where=folder,
            )
        _delete_earlier(plan)
        stored = None
    if stored is None:
        write_inventory(folder, plan)
        write_section_mask(plan)
        write_plan(plan)
    else:
        keep_table(stored)
    for volume, lost in lost_metadata(plan):
        _create(plan, volume, lost)


def _create(plan: Plan, volume: WrittenVolume, lost: list[str]) -> None:
    """Create what is lost of a volume: all of it, where the job begins.

    Raises
    ------
    OutputError
        ``output.damaged``: metadata are lost, and what lies beside them is recorded as done.
    """
    place, folder = volume.url, plan.job_dir.url
    if (done := open_ledger(plan).done) and list_keys(place):
        raise OutputError(
            "output.damaged",
            f"{place} has lost {', '.join(lost)}, but {done} of {plan.grid.count} regions are recorded as done, and there are "
            "still files of it",
            hint=f"bring that back, or let `volumetool verify {plan.output} --repair` write it anew and mark what else is "
            "lost; then the same command goes on (--overwrite begins anew)",
            where=place,
        )
    for key in lost:
        delete_key(place, key)
    if WRITTEN[plan.spec.format].root in lost:
        # No record is true without the volume that it speaks of.
        delete_segments(folder, close_segments(folder, ""))
        create_volume(place, volume.layout, volume.told(plan, "unfinished"))
    else:  # a deletion that was interrupted
        create_levels(place, volume.layout, range(len(volume.layout.levels)))


def _earlier_places(plan: Plan) -> list[str]:
    """Return where the job in the folder wrote, as far as its plan can be read: its trust volume may have another place."""
    places = [plan.job_dir.place]
    with suppress(LedgerError):  # a plan of another version, or damaged
        earlier = read_plan(plan.job_dir.url)
        if earlier is not None and earlier.trust is not None:
            own = provenance_of(read_root(earlier.trust)[1] or {}) or {}
            places += [earlier.trust] if own.get("fingerprint") == earlier.fingerprint else []
    return places


def _delete_earlier(plan: Plan) -> None:
    """Delete what an earlier job left; planning has made sure that nothing else is there."""
    folder = plan.job_dir.url
    confirm(folder)
    if read_key(folder, PLAN) is not None:
        # The records go first, because they speak of the volume, and the plan last, because it makes all of this the job's:
        # an interrupted deletion can be taken up again.
        delete_segments(folder, close_segments(folder, ""))
        for place in _earlier_places(plan):
            root = read_root(place)[0]
            if root:
                write_status(place, "unfinished")
            delete_prefix(place, root)
        for key in list_keys(folder):
            if SEGMENT.fullmatch(key):
                delete_segments(folder, [key])
            elif key not in (PLAN, LEASE):  # this run owns the folder
                confirm(folder)
                delete_key(folder, key)
        confirm(folder)
        delete_key(folder, PLAN)
