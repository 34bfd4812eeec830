"""Verification: every stored shard read again and held against the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

from volumetool.enhancement.pyramid import box_of, downsample, shard_boxes
from volumetool.enhancement.statistics import no_normalisation
from volumetool.enhancement.writer import extend_checksum, output_nodata, slab_boxes, slabs_of
from volumetool.geometry import Box, LevelGrid
from volumetool.jobs.finish import mark_unfinished, says_complete
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.store.arrays import read_part
from volumetool.store.create import open_for_writing


@dataclass
class Report:
    """What verification found.

    Attributes
    ----------
    regions, shards : int
        Finished regions and shards of coarse levels that were read.
    damaged : list of dict
        One entry per damage: region or level, box and what is wrong.
    """

    regions: int = 0
    shards: int = 0
    damaged: list[dict[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def verify(plan: Plan, step: Callable[[], None] | None = None) -> Report:
    """Read every shard of an output and compare it with the ledger; nothing is changed.

    Regions are compared by the checksums of their records. The coarse levels of a complete volume are compared with the mean
    of the level before.

    Parameters
    ----------
    plan : Plan
        The job's stored plan.
    step : callable, optional
        Called after each region and each coarse shard.
    """
    from volumetool.jobs.folder import open_ledger

    report = Report()
    ledger = open_ledger(plan)
    for record in ledger.latest():
        if record.state == "done":
            _verify_region(plan, record, report)
            if step is not None:
                step()
    if says_complete(plan):
        _verify_coarse(plan, report, step)
    return report


def condemn(plan: Plan, report: Report) -> int:
    """Mark damaged regions as failed, so that the next run makes them and the coarse levels again; return how many.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a run writes this job.
    """
    from volumetool.jobs.folder import job_url, open_ledger
    from volumetool.jobs.ownership import own

    regions = sorted({int(entry["region"]) for entry in report.damaged if "region" in entry})
    error = {"code": "data.damaged", "message": "stored bytes are not those that were written"}
    with own(job_url(plan.job.output)):
        if report.damaged:  # first: a volume that is known to be damaged calls itself complete at no moment
            mark_unfinished(plan)
        ledger = open_ledger(plan)
        ledger.begin()
        for index in regions:
            ledger.append(Record(region=index, state="failed", error=error))
        ledger.flush()
    return len(regions)


def _verify_region(plan: Plan, record: Record, report: Report) -> None:
    report.regions += 1
    region = plan.grid.region(record.region)
    fused = plan.recipe(no_normalisation(1, 1)).fused
    stores = [open_for_writing(plan.job.output, plan.layout, level, region.channel) for level in range(len(fused))]
    checksums = [0] * len(fused)
    for slab in slabs_of(region.box, plan.terms.levels[0].shard):
        for level, (box, store) in enumerate(zip(slab_boxes(slab, fused), stores, strict=True)):
            voxels = _read(store, box, report, {"region": str(record.region), "level": str(level)})
            if voxels is None:
                return
            checksums[level] = extend_checksum(checksums[level], voxels)
    for level, (now, then) in enumerate(zip(checksums, record.checksums, strict=True)):
        if now != then:
            report.damaged.append(
                {
                    "region": str(record.region),
                    "level": str(level),
                    "box": str(region.box),
                    "what": "voxels are not those that were recorded",
                }
            )


def _verify_coarse(plan: Plan, report: Report, step: Callable[[], None] | None) -> None:
    nodata = output_nodata(plan.recipe(no_normalisation(1, 1)))
    for channel in range(plan.terms.channels or 1):
        for number, level in enumerate(plan.terms.levels):
            if level.fused:
                continue
            fine = open_for_writing(plan.job.output, plan.layout, number - 1, channel)
            coarse = open_for_writing(plan.job.output, plan.layout, number, channel)
            for box in shard_boxes(level):
                _verify_shard(fine, coarse, level, box, (number, nodata), report)
                if step is not None:
                    step()


def _verify_shard(
    fine: ts.TensorStore,
    coarse: ts.TensorStore,
    level: LevelGrid,
    box: Box,
    about: tuple[int, float | None],
    report: Report,
) -> None:
    number, nodata = about
    report.shards += 1
    source = box.enlarged(level.factor).intersection(box_of(fine))
    finer = _read(fine, source, report, {"level": str(number - 1)})
    voxels = _read(coarse, box, report, {"level": str(number)})
    if finer is None or voxels is None:
        return
    if downsample(finer, level.factor, nodata).tobytes() != voxels.tobytes():
        report.damaged.append({"level": str(number), "box": str(box), "what": "voxels are not the mean of the level before"})


def _read(store: ts.TensorStore, box: Box, report: Report, where: dict[str, str]) -> NDArray[Any] | None:
    try:
        return read_part(store, box.slices)
    except (ValueError, OSError) as error:
        report.damaged.append({**where, "box": str(box), "what": str(error).partition(" [")[0][:300]})
        return None
