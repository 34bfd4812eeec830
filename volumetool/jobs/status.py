"""Status: how far a job is, from its folder alone."""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field
from typing import Any

from volumetool.jobs.job import ANY
from volumetool.jobs.job_dir import roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.jobs.records.holder import current_holder
from volumetool.jobs.records.ledger import Ledger, Record, Totals
from volumetool.jobs.records.parts import PartState, part_states
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.timeline import PAUSE, Timeline, WorkerState
from volumetool.storage.io.roles import name_roles
from volumetool.storage.open import open_volume
from volumetool.units import show_bytes, show_duration

CONSISTENCY = ((0.03, "grey values are as in the input"), (0.2, "usual where noise is removed"))
"""What consistency up to a value means. Measured on real data: 0.01 to 0.02 without noise, 0.06 to 0.17 with that of the
recipes, 0.17 to 0.2 on the noisiest scans."""

WORST = 3
"""Regions that are named for departing most from their input."""

RECENT = 64
"""The speed is that of the last finished regions, at most so many, without a pause of so many seconds between them."""


@dataclass(frozen=True)
class Status:
    """The state of a job.

    Attributes
    ----------
    output : str
        Path or URL of the job's output.
    state : {"complete", "running", "idle"}
        Complete as the volume's own attributes say; else whether a run is known to write it.
    model : str
        Name of the model.
    percent : float
        Share of the regions that are finished, in per cent, rounded down to a tenth.
    mvox_per_s : float, optional
        Speed of the regions that finished last, in millions of output voxels a second; None before the first.
    seconds_left : float, optional
        At that speed, until the last region; None where it is not known.
    done, failed, regions : int
        Regions finished, failed, in all.
    moved, opens : int
        Bytes read and written, and files opened or requests made for that, over finished regions.
    patches, recomputed, skipped : int
        Sums over finished regions.
    seconds, network_seconds : float
        Sums over finished regions, of all workers.
    idle_seconds : float, optional
        Since the last region ended; None before the first.
    owner : str, optional
        The run that writes the job, and where; None if no run is known to.
    absent : int
        Input chunks that were not stored and counted as the job says (``--missing``), once for every finished region that read
        them.
    failures : list of dict
        Region, box and error of each failed one.
    consistency : float, optional
        How far the output, averaged over each voxel of the input, departs from the input: root mean square over the regions
        that say it, in data windows. Noise that was removed is part of it.
    least_consistent : list of dict
        Region, box and consistency of those that depart most: where to look first.
    parts : list of PartState
        The parts that the job is cut into, where it is.
    workers : list of WorkerState
        The workers that ended a region last, with their speeds.
    node_hours : float
        Hours in which machines were at work, added up over the machines.
    next_command : str
        What to type next.
    """

    output: str
    state: str
    model: str
    percent: float
    mvox_per_s: float | None
    seconds_left: float | None
    done: int
    failed: int
    regions: int
    moved: int
    opens: int
    patches: int
    recomputed: int
    skipped: int
    seconds: float
    network_seconds: float
    idle_seconds: float | None
    owner: str | None
    absent: int
    failures: list[dict[str, Any]]
    consistency: float | None
    least_consistent: list[dict[str, Any]]
    parts: list[PartState]
    workers: list[WorkerState]
    node_hours: float
    next_command: str


def job_status(plan: Plan) -> Status:
    """Return where the job of a stored plan stands."""
    with name_roles(*roles_of(plan.job)):
        return _status(plan)


def _status(plan: Plan) -> Status:
    ledger = open_ledger(plan)
    totals, measured, pace, timeline = _sum_up(plan, ledger)
    parts = part_states(plan, ledger)
    owner = current_holder(plan.job_dir.url)
    writers = [*([owner.identity] if owner else []), *(part.owner for part in parts if part.owner)]
    complete = open_volume(plan.output).attributes.get("status") == "complete"
    speed, left = pace.speed, plan.spec.box.voxels * plan.grid.channels - pace.voxels
    failures = [
        {"region": index, "box": str(plan.grid.region(index).box), **record.error}
        for index, record in sorted(ledger.failures.items())
    ]
    return Status(
        output=plan.output,
        state="complete" if complete else "running" if writers else "idle",
        model=plan.title,
        percent=math.floor(1000 * ledger.done / plan.grid.count) / 10,
        mvox_per_s=None if speed is None else speed / 1e6,
        seconds_left=left / speed if speed else None,
        done=ledger.done,
        failed=len(ledger.failures),
        regions=plan.grid.count,
        moved=totals.moved,
        opens=totals.opens,
        patches=totals.patches,
        recomputed=totals.recomputed,
        skipped=totals.skipped,
        seconds=totals.seconds,
        network_seconds=totals.network_seconds,
        idle_seconds=time.time() - ledger.last_finished if ledger.last_finished else None,
        owner=", ".join(writers) or None,
        absent=totals.absent,
        failures=failures,
        consistency=measured.rms,
        least_consistent=[
            {"region": index, "box": str(plan.grid.region(index).box), "consistency": value} for value, index in measured.worst
        ],
        parts=parts,
        workers=timeline.workers(time.time()),
        node_hours=timeline.node_hours,
        next_command=f"volumetool verify {plan.output}"
        if complete
        else resume_command(plan.job) + (f" --part={ANY}" if parts else ""),
    )


@dataclass
class _Measured:
    """Consistency over all regions, whatever their number."""

    count: int = 0
    squares: float = 0.0
    largest: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rms(self) -> float | None:
        return math.sqrt(self.squares / self.count) if self.count else None

    @property
    def worst(self) -> list[tuple[float, int]]:
        return sorted(self.largest, reverse=True)

    def add(self, region: int, consistency: float) -> None:
        self.count += 1
        self.squares += consistency**2
        heapq.heappush(self.largest, (consistency, region))
        if len(self.largest) > WORST:
            heapq.heappop(self.largest)


@dataclass
class _Pace:
    """The speed of the last regions."""

    voxels: int = 0
    recent: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def speed(self) -> float | None:
        """Output voxels a second, over the latest regions that followed each other without a pause."""
        began, voxels = math.inf, 0
        for finished, seconds, size in sorted(self.recent, reverse=True):
            if finished < began - PAUSE and voxels:
                break
            began, voxels = min(began, finished - seconds), voxels + size
        latest = max(self.recent, default=(0.0,))[0]
        return voxels / (latest - began) if latest > began else None

    def add(self, record: Record, voxels: int) -> None:
        self.voxels += voxels
        heapq.heappush(self.recent, (record.finished, record.seconds, voxels))
        if len(self.recent) > RECENT:
            heapq.heappop(self.recent)


def _sum_up(plan: Plan, ledger: Ledger) -> tuple[Totals, _Measured, _Pace, Timeline]:
    totals, measured, pace, timeline = Totals(), _Measured(), _Pace(), Timeline()
    for record in ledger.latest():
        if record.state == "done":
            totals.add(record)
            voxels = plan.grid.region(record.region).box.voxels
            pace.add(record, voxels)
            timeline.add(record, voxels)
            if record.consistency is not None:
                measured.add(record.region, record.consistency)
    return totals, measured, pace, timeline


def describe_status(status: Status) -> list[tuple[str, str]]:
    """Return the lines of a job's status as (name, text), all but the command to type next."""
    lines = [
        ("state", status.state if status.owner is None else f"{status.state}, written by {status.owner}"),
        ("model", status.model),
        ("done", f"{status.percent:.1f} %: {status.done} of {status.regions} regions; {status.failed} failed"),
    ]
    if status.mvox_per_s is not None and status.state != "complete":
        left = "" if status.seconds_left is None else f"; about {show_duration(status.seconds_left)} left"
        paused = "" if status.state == "running" else " when it last ran"
        lines.append(("speed", f"{status.mvox_per_s:.3g} million output voxels a second{paused}{left}"))
    if status.idle_seconds is not None:
        lines.append(("last region", f"ended {show_duration(status.idle_seconds)} ago"))
    lines += [("part" if number == 0 else "", str(part)) for number, part in enumerate(status.parts)]
    if status.state == "running":
        lines += [("worker" if number == 0 else "", str(worker)) for number, worker in enumerate(status.workers)]
    if status.done:
        lines.append(("node hours", f"{status.node_hours:.3g}: hours in which machines were at work, added up"))
    lines.append(("patches", f"{status.patches}; {status.recomputed} computed twice, {status.skipped} skipped"))
    if status.opens:
        moved, opens = status.moved / status.done, status.opens / status.done
        lines.append(("storage", f"{show_bytes(round(moved))} moved and {opens:.3g} files opened for each region"))
    if status.absent:
        lines.append(("not stored", f"{status.absent} input chunks were not stored, and counted as --missing says"))
    if status.consistency is not None:
        lines.append(("consistency", f"{status.consistency:.3g}: {_judge(status.consistency)}"))
        lines += [
            ("", f"region {each['region']} ({each['box']}): {each['consistency']:.3g}") for each in status.least_consistent
        ]
    for each in status.failures:
        lines.append(("failed", f"region {each['region']} ({each['box']}) [{each.get('code')}]: {each.get('message')}"))
        lines += [("", hint)] if (hint := each.get("hint")) else []
    return lines


def _judge(consistency: float) -> str:
    """Return what a consistency means, and the scale."""
    meaning = next((words for most, words in CONSISTENCY if consistency <= most), "large, look where it is largest")
    scale = "; ".join(f"up to {most:g} {words}" for most, words in CONSISTENCY)
    return f"{meaning} (how far the output's means depart from the input, in parts of its contrast: {scale}; above, look at it)"
