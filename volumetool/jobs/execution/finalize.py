"""The last pass: the levels too coarse for a region to own, and the word that the volume is complete."""

from __future__ import annotations

from collections.abc import Iterator

from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, LevelGrid, shard_boxes
from volumetool.jobs.job_dir import COARSE, UNBUILT
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.lease import confirm
from volumetool.jobs.records.ledger import Ledger
from volumetool.jobs.records.shard_digests import write_coarse
from volumetool.storage.create import open_for_writing, write_attributes
from volumetool.storage.downsample import build_level, require_stored
from volumetool.storage.io.kvstore import delete_key
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source


def coarse_shards(plan: Plan, within: Box | None = None) -> int:
    """Return the number of shards that the last pass writes."""
    return sum(len(list(shard_boxes(level, box))) for _, level, box in _coarse(plan, within)) * (plan.spec.channels or 1)


def build_coarse_levels(plan: Plan, within: Box | None = None, observer: Observer = ignore) -> None:
    """Write the coarse levels, each from the stored level before it.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    within : Box, optional
        Voxels of level 0 that changed; only shards that hold a shadow of them are written.
    observer : Observer, optional
        Told of each shard.

    Raises
    ------
    OutputError
        ``output.damaged``: shards of these levels were deleted meanwhile.
    """
    output, layout = plan.output, plan.spec.layout
    written, count = [], counting(observer, "coarse levels", coarse_shards(plan, within))
    for channel in range(plan.spec.channels or 1):
        for number, level, box in _coarse(plan, within):
            fine = open_for_writing(output, layout, number - 1, channel)
            coarse = open_for_writing(output, layout, number, channel)
            delete_torn_shards(coarse, layout, number, box, channel)
            told = build_level(Source(fine), coarse, level, reduction=plan.spec.reduction, within=box, ready=lambda _: count(1))
            written.append((coarse, told))
    for coarse, boxes in written:
        require_stored(coarse, boxes)


def finish(plan: Plan, ledger: Ledger) -> bool:
    """Write into the volume whether it is complete; return whether it is.

    A job with failed regions is complete only if it was told to accept them; they are then listed.
    """
    open_regions = len(ledger.states) - ledger.done
    accepted = plan.job.accept_failed and open_regions == len(ledger.failures)
    complete = open_regions == 0 or accepted
    holes = (
        [{"region": index, "box": str(plan.grid.region(index).box)} for index in sorted(ledger.failures)] if accepted else []
    )
    numerics = sorted({record.numerics for record in ledger.records()} - {""})
    if complete:
        write_coarse(plan)
    confirm(plan.job_dir.url)
    delete_key(plan.job_dir.url, UNBUILT)  # before the last word: nobody would come back for what a kill leaves of it
    write_attributes(plan.output, plan.provenance("complete" if complete else "unfinished", holes=holes, numerics=numerics))
    return complete


def is_marked_complete(plan: Plan) -> bool:
    """Return whether the volume calls itself complete."""
    return open_volume(plan.output).attributes.get("status") == "complete"


def mark_incomplete(plan: Plan) -> None:
    """Take a volume's word back that it is complete, so that the next run writes its coarse levels again."""
    confirm(plan.run_dir)
    write_attributes(plan.output, plan.provenance("unfinished"))
    delete_key(plan.job_dir.url, COARSE)


def _coarse(plan: Plan, within: Box | None) -> Iterator[tuple[int, LevelGrid, Box | None]]:
    """Yield number, grid and changed box of every level that regions do not write."""
    box = within
    for number, level in enumerate(plan.spec.levels):
        if number and box is not None:
            box = box.coarsened(level.factor)
        if not level.fused:
            yield number, level, box
