"""Verification: what is stored is compared with the ledger, as deeply as asked for; nothing is changed and nothing raised.

``structure`` looks at metadata, records, and which shards are there; ``stored`` reads the bytes of every shard and compares
their CRC-32 with the records; ``full`` decodes them, too, and compares voxels: those of regions with their records, those of
coarse levels with the mean of the level before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import ConfigError, InputError, LedgerError, VolumetoolError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, shard_boxes, slabs_of
from volumetool.jobs.execution.finalize import coarse_shards
from volumetool.jobs.job import check_places
from volumetool.jobs.job_dir import roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import DONE, Record
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.records.shard_digests import open_owned
from volumetool.jobs.records.volumes import open_written, volume_of
from volumetool.jobs.verification.layout_check import Damage, DamageKind, Shards, check_job, check_unexpected_files, says_status
from volumetool.processing.spec import OutputSpec
from volumetool.processing.writer import extend_checksum
from volumetool.storage.downsample import box_of
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.roles import name_roles

if TYPE_CHECKING:
    from volumetool.jobs.execution.worker import Worker  # imports torch, which only computing again needs

Depth = Literal["structure", "stored", "full"]


@dataclass(frozen=True)
class Extent:
    """The part of a job that is verified.

    Parameters
    ----------
    depth : {"structure", "stored", "full"}
        How deeply to verify: metadata and sizes; also the bytes of shards; also their voxels.
    part, parts : int
        Read the `part`-th of `parts` parts of regions and coarse shards; the parts together are all of them. The structure
        is always looked at whole.
    recompute : int
        Regions that are computed again from the input and compared voxel by voxel.
    seed : int, optional
        Seed by which these regions are chosen.
    """

    depth: Depth = "full"
    part: int = 1
    parts: int = 1
    recompute: int = 0
    seed: int | None = None

    def takes(self, number: int) -> bool:
        """Return whether a region or coarse shard belongs to the part that is read."""
        return self.depth != "structure" and number % self.parts == self.part - 1

    @property
    def told(self) -> str:
        """The extent, for people."""
        sample = "" if self.parts == 1 else f", part {self.part} of {self.parts}"
        return f"depth {self.depth}{sample}"


def make_extent(depth: str, sample: str | None, recompute: int, seed: int | None) -> Extent:
    """Make an extent from options.

    Parameters
    ----------
    depth : {"structure", "stored", "full"}
        How deeply to verify.
    sample : str, optional
        Part of regions and coarse shards to read, as :func:`parse_sample` takes it; all without it.
    recompute : int
        Regions to compute again, 0 or more.
    seed : int, optional
        Chooses these regions; a random one without it.

    Raises
    ------
    ConfigError
        ``config.depth`` or ``config.sample``.
    """
    if depth not in get_args(Depth):
        names = ", ".join(get_args(Depth))
        raise ConfigError("config.depth", f"--depth {depth} is none of {names}", hint="see `volumetool verify --help`")
    part, parts = (1, 1) if sample is None else parse_sample(sample)
    return Extent(depth, part, parts, recompute, seed)  # type: ignore[arg-type]  # one of the three


def parse_sample(text: str) -> tuple[int, int]:
    """Read which part of an output is verified: ``2/7``, or ``5%`` for a random part of as many as make that share.

    Returns
    -------
    tuple of int
        Number of the part, counted from 1, and number of all parts.

    Raises
    ------
    ConfigError
        ``config.sample``.
    """
    try:
        if text.endswith("%"):
            parts = round(100 / float(text[:-1]))
            return secrets.randbelow(parts) + 1, parts
        part, parts = map(int, text.split("/"))
        if 1 <= part <= parts:
            return part, parts
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise ConfigError("config.sample", f"--sample {text} is no part of a whole", hint="such as 2/7 (the second of seven) or 5%")


@dataclass(repr=False)
class Report:
    """The findings of a verification.

    Attributes
    ----------
    regions, shards : int
        Finished regions and shards of coarse levels that were read, or looked for.
    recomputed : list of int
        Regions that were computed again.
    damaged : list of Damage
        What is not as it was written, and where.
    extent : Extent
        What was verified.
    marked : int
        Damaged regions that were marked, so that the next run makes them again.
    of : int, optional
        Regions of the job, of which `regions` were adopted; None where nothing was to be.
    """

    regions: int = 0
    shards: int = 0
    recomputed: list[int] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    extent: Extent = field(default_factory=Extent)
    marked: int = 0
    of: int | None = None

    def __repr__(self) -> str:
        found = f"{len(self.damaged)} damages" if self.damaged else "all as recorded"
        return f"<Report {found}: {self.regions} regions and {self.shards} coarse shards, depth {self.extent.depth}>"

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        extent = self.extent
        return {
            "ok": self.ok,
            "depth": extent.depth,
            "sample": f"{extent.part}/{extent.parts}",
            "regions": self.regions,
            "shards": self.shards,
            "recomputed": self.recomputed,
            "damaged": [damage.as_dict() for damage in self.damaged],
            "marked": self.marked,
            **({} if self.of is None else {"adopted": self.regions, "of": self.of}),
        }


def verify_output(
    output: str, extent: Extent | None = None, allow_hosts: Collection[str] = (), observer: Observer = ignore
) -> tuple[Plan | None, Report]:
    """Verify an output by its name. If its plan cannot be read, that is the one damage reported.

    Parameters
    ----------
    output : str
        Path or URL of the output.
    extent, allow_hosts, observer
        As for :func:`verify`.

    Returns
    -------
    Plan or None
        The job's plan; None if it cannot be read.
    Report
        The findings.

    Raises
    ------
    OutputError
        ``output.no-job``.
    VolumetoolError
        As `verify`.
    """
    try:
        plan = stored_plan(output)
    except LedgerError as error:
        if isinstance(error.__cause__, InputError):  # not to be reached is not damaged
            raise
        damage = Damage(DamageKind.RECORD, str(error), str(error.where))
        return None, Report(damaged=[damage], extent=extent or Extent())
    with name_roles(*roles_of(plan.job)):
        return plan, verify(plan, extent, allow_hosts, observer)


def verify(plan: Plan, extent: Extent | None = None, allow_hosts: Collection[str] = (), observer: Observer = ignore) -> Report:
    """Compare an output with its ledger; nothing is changed, and damage is reported, never raised.

    Parameters
    ----------
    plan : Plan
        The job's stored plan.
    extent : Extent, optional
        How much; by default all of it, as deeply as can be.
    allow_hosts : collection of str
        Hosts that the plan, which others may have written, may name as those of its input although they are not public.
    observer : Observer, optional
        Told by `Progressed` of each region and each coarse shard.

    Raises
    ------
    ConfigError
        ``config.private-host``: regions were to be computed again from another host that is not public.
    LedgerError
        ``ledger.version``: another version of volumetool wrote the records.
    FingerprintError, NumericsError
        ``job.fingerprint``, ``numerics.other-class``: regions were to be computed again by a version of volumetool, or on
        a machine, that makes other bytes.
    """
    report = Report(extent=extent or Extent())
    if report.extent.recompute:
        check_places(plan.job, allow_hosts)
    ledger = open_ledger(plan)
    check_job(plan, ledger, report.damaged)
    shards = Shards(plan, report.damaged)
    complete = says_status(plan) == "complete"
    count = counting(observer, "verifying", ledger.done + (coarse_shards(plan) if complete else 0))
    for record in ledger.latest():
        if record.state == "done":
            _verify_region(plan, record, shards, report)
            count(1)
    if complete:
        _verify_coarse(plan, shards, report, count)
    check_unexpected_files(plan, report.damaged)
    if report.extent.recompute and shards.decodable:
        from volumetool.jobs.execution.worker import Worker

        recompute(Worker(plan), np.flatnonzero(ledger.states == DONE).tolist(), report)
    return report


def _verify_region(plan: Plan, record: Record, shards: Shards, report: Report) -> None:
    report.regions += 1
    takes = report.extent.takes(record.region)
    sound = shards.check_region(record, content=takes)
    if takes and (report.extent.depth == "full" or not record.stored) and sound and shards.decodable:
        _verify_voxels(plan, record, report)


def _verify_voxels(plan: Plan, record: Record, report: Report) -> None:
    region = plan.grid.region(record.region)
    where = Damage(DamageKind.VOXELS, region=record.region)
    stores = _open_owned(plan, region.channel, report, where)
    if stores is None:
        return
    checksums = [0] * len(stores)
    for slab in slabs_of(region.box, plan.spec.levels[0].shard):
        for number, ((_, level, box), store) in enumerate(zip(plan.spec.shadows(slab), stores, strict=True)):
            voxels = _read(store, box, report, replace(where, level=level))
            if voxels is None:
                return
            checksums[number] = extend_checksum(checksums[number], voxels)
    for now, then, (_, level, _) in zip(checksums, record.checksums, plan.spec.shadows(region.box), strict=True):
        if now != then:
            what = "voxels are not those that were recorded"
            report.damaged.append(replace(where, level=level, box=region.box, detail=what))


def _verify_coarse(plan: Plan, shards: Shards, report: Report, count: Callable[[int], None]) -> None:
    """Verify the levels that no region owns: by the record of their shards, and against the level before."""
    recorded = shards.coarse()
    number = 0
    for channel in range(plan.spec.count):
        for level, grid in enumerate(volume_of(plan, channel)[0].layout.levels):
            if grid.fused:
                continue
            where = Damage(DamageKind.VOXELS, level=level)
            stores = _open_pair(plan, level, channel, report, where) if shards.decodable else None
            for place, box in enumerate(shard_boxes(grid)):
                report.shards += 1
                takes = report.extent.takes(number)
                sound = recorded is None or shards.check_coarse((level, channel, place), box, content=takes)
                if takes and sound and stores is not None and (report.extent.depth == "full" or recorded is None):
                    _verify_shard(stores, plan.spec, (level, channel), box, report)
                number += 1
                count(1)


def _verify_shard(stores: list[ts.TensorStore], spec: OutputSpec, which: tuple[int, int], box: Box, report: Report) -> None:
    (level, channel), (fine, coarse) = which, stores
    factor = spec.levels[spec.level_of(channel) + level].factor
    source = box.enlarged(factor).intersection(box_of(fine))
    finer = _read(fine, source, report, Damage(DamageKind.VOXELS, level=level - 1))
    voxels = _read(coarse, box, report, Damage(DamageKind.VOXELS, level=level))
    if finer is None or voxels is None:
        return
    if spec.reduction(channel)(finer, factor).tobytes() != voxels.tobytes():
        what = "voxels are not the mean of the level before"
        report.damaged.append(Damage(DamageKind.VOXELS, what, level=level, box=box))


def recompute(worker: Worker, regions: Sequence[int], report: Report) -> None:
    """Compute some regions again, and compare them with what is stored, bit for bit.

    Parameters
    ----------
    worker : Worker
        A worker of the job.
    regions : sequence of int
        Finished regions to choose from, by index.
    report : Report
        Its extent says how many regions to compute, and by which seed they are chosen. Chosen regions and damage are added
        to it.
    """
    plan = worker.plan
    seed = secrets.randbits(32) if report.extent.seed is None else report.extent.seed
    report.extent = replace(report.extent, seed=seed)
    report.recomputed = sorted(Random(seed).sample(regions, min(len(regions), report.extent.recompute)))  # noqa: S311
    for index in report.recomputed:
        region = plan.grid.region(index)
        where = Damage(DamageKind.VOXELS, region=index, box=region.box)
        try:
            again = worker.again(index)
        except VolumetoolError as error:
            # Its shards may be sound all the same: nothing is condemned.
            report.damaged.append(Damage(DamageKind.NOT_RECOMPUTED, f"cannot be computed again: {error.message}", region=index))
            continue
        stores = _open_owned(plan, region.channel, report, where)
        if stores is None:
            continue
        for made, store, (_, level, box) in zip(again, stores, plan.spec.shadows(region.box), strict=True):
            at = replace(where, level=level)
            voxels = _read(store, box, report, at)
            if voxels is not None and np.asarray(made[box.slices]).tobytes() != voxels.tobytes():
                report.damaged.append(replace(at, detail="computed again, it has other voxels"))


def _open_owned(plan: Plan, channel: int, report: Report, where: Damage) -> list[ts.TensorStore] | None:
    try:
        return open_owned(plan, channel)
    except VolumetoolError as error:
        report.damaged.append(replace(where, detail=error.message))
        return None


def _open_pair(plan: Plan, level: int, channel: int, report: Report, where: Damage) -> list[ts.TensorStore] | None:
    """Open a level of a channel of the output, and the one before."""
    try:
        return [open_written(plan, number, channel) for number in (level - 1, level)]
    except VolumetoolError as error:
        report.damaged.append(replace(where, detail=error.message))
        return None


def _read(store: ts.TensorStore, box: Box, report: Report, where: Damage) -> NDArray[Any] | None:
    try:
        return read_part(store, box.slices)
    except (ValueError, OSError) as error:
        report.damaged.append(replace(where, box=box, detail=str(error).partition(" [")[0][:300]))
        return None
