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
from volumetool.jobs.records.volumes import open_written, volume_of, volumes_of
from volumetool.storage.create import write_attributes
from volumetool.storage.downsample import build_level, require_stored
from volumetool.storage.io.kvstore import delete_key
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.open import read_attributes
from volumetool.storage.voxels import Source


def coarse_shards(plan: Plan, within: Box | None = None) -> int:
    """Return the number of shards that the last pass writes."""
    every = range(plan.spec.count)
    return sum(len(list(shard_boxes(level, box))) for channel in every for _, level, box in _coarse(plan, channel, within))


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
    written, count = [], counting(observer, "coarse levels", coarse_shards(plan, within))
    for channel in range(plan.spec.count):
        volume, own = volume_of(plan, channel)
        for number, level, box in _coarse(plan, channel, within):
            fine, coarse = (open_written(plan, each, channel) for each in (number - 1, number))
            delete_torn_shards(coarse, volume.layout, number, box, own)
            reduction = plan.spec.reduction(channel)
            told = build_level(Source(fine), coarse, level, reduction=reduction, within=box, ready=lambda _: count(1))
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
    status = "complete" if complete else "unfinished"
    for volume in reversed(volumes_of(plan)):  # the output last: its word is the job's
        write_attributes(volume.url, volume.told(plan, status, holes=holes, numerics=numerics))
    return complete


def is_marked_complete(plan: Plan) -> bool:
    """Return whether the volume calls itself complete."""
    return read_attributes(plan.output).get("status") == "complete"


def mark_incomplete(plan: Plan) -> None:
    """Take a volume's word back that it is complete, so that the next run writes its coarse levels again."""
    confirm(plan.run_dir)
    for volume in volumes_of(plan):
        write_attributes(volume.url, volume.told(plan, "unfinished"))
    delete_key(plan.job_dir.url, COARSE)


def _coarse(plan: Plan, channel: int, within: Box | None) -> Iterator[tuple[int, LevelGrid, Box | None]]:
    """Yield number in its volume, grid and changed box of every level of a channel that regions do not write."""
    box, first = within, plan.spec.level_of(channel)
    for number, level in enumerate(plan.spec.levels):
        if number and box is not None:
            box = box.coarsened(level.factor)
        if not level.fused:
            yield number - first, level, box
