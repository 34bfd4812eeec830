"""The report of a job: one HTML file with the pace of the machines, what failed, and sections raw beside enhanced."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import VolumetoolError
from volumetool.evaluation.charts import Chart, Curve, draw
from volumetool.evaluation.pictures import data_uri, encode_png, fill_template, grey_limits, to_grey
from volumetool.evaluation.report import Picture
from volumetool.geometry import Box
from volumetool.jobs.job import check_places
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import DONE, Ledger
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.status import Status, describe_status, job_status
from volumetool.jobs.timeline import MOST_WORKERS, Timeline
from volumetool.paths import replace_file
from volumetool.redaction import printable, redact
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import read_voxels
from volumetool.units import show_duration

STEPS = 60
"""Parts of the time axis."""

BARS = 40
"""Bars of the histogram."""

SHOWN = 256
"""Output voxels along a side of a picture, at most."""

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))

COLOUR = "#e8590c"

SCRIPT = (
    "document.querySelectorAll('.compare + input').forEach(slider => slider.addEventListener('input', () => "
    "slider.previousElementSibling.style.setProperty('--at', slider.value + '%')));"
)
"""Moves the line between input and output; the page's policy names its digest and lets no other script run."""


@dataclass(frozen=True)
class Comparison:
    """A field of the volume, raw beside enhanced.

    Attributes
    ----------
    caption : str
        Where it is, and why it was chosen.
    pictures : tuple of Picture
        The input and the output; the output alone where the input cannot be read.
    """

    caption: str
    pictures: tuple[Picture, ...]


@dataclass
class FailureCount:
    """How often regions failed with one code.

    Attributes
    ----------
    code, message : str
        The code, and one of the messages.
    now : int
        Regions whose last record says so.
    mended : int
        Such records of regions that are done by now, as far as the ledger still has them.
    """

    code: str
    message: str
    now: int = 0
    mended: int = 0


def write_job_report(output: str, path: Path) -> None:
    """Write the report of a job, finished or not.

    Parameters
    ----------
    output : str
        Path or URL of the job's output.
    path : pathlib.Path
        The HTML file; one that is there is replaced.

    Raises
    ------
    OutputError
        ``output.no-job``, ``output.unwritable``.
    LedgerError
        ``ledger.plan``, ``ledger.other-output``.
    """
    text = render_job(stored_plan(output))
    replace_file(path, text.encode())


def render_job(plan: Plan) -> str:
    """Return the report of a stored plan's job as HTML; it fetches nothing, and names of others are shown, never obeyed."""
    status, ledger = job_status(plan), open_ledger(plan)
    timeline = _timeline(plan, ledger)
    comparisons, why_none = _comparisons(plan, ledger, status)
    failures = _failures(ledger)
    told = replace(status, failures=[])  # they have a table of their own
    mended = sum(each.mended for each in failures)
    throughput, times = (_throughput(timeline), _times(timeline)) if status.done else ("", "")
    return fill_template(
        "volumetool.evaluation",
        "job_report.html",
        title=_said(plan.output),
        mood={"complete": "better", "running": "open"}.get(status.state, "worse" if status.failed else "open"),
        sentence=_said(f"{status.state.capitalize()}: {status.done} of {status.regions} regions done. {plan.title}."),
        facts=_facts(status),
        comparisons=comparisons,
        why_none=_said(why_none),
        same_scale=plan.spec.restores,
        throughput=throughput,
        times=times,
        retried=f"{status.failed} regions have failed; {mended} failures were mended since, by running the region again.",
        failures=failures,
        workers=_workers(status),
        most=MOST_WORKERS,
        lines=[(name, _said(text)) for name, text in [("input", plan.job.input), *describe_status(told)]],
        script=SCRIPT,
        script_digest="sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )


def _said(text: str) -> str:
    return printable(redact(text))


def _timeline(plan: Plan, ledger: Ledger) -> Timeline:
    timeline = Timeline()
    for record in ledger.latest():
        if record.state == "done":
            timeline.add(record, plan.grid.region(record.region).box.voxels)
    return timeline


def _facts(status: Status) -> list[tuple[str, str]]:
    at_work = show_duration(status.seconds) if status.done else "none"
    speed = "n/a" if status.mvox_per_s is None else f"{status.mvox_per_s:.3g} Mvox/s"
    return [
        ("done", f"{status.percent:.1f} %"),
        ("failed regions", str(status.failed)),
        ("node hours", f"{status.node_hours:.3g}"),
        ("time of all workers", at_work),
        ("last speed", speed),
        ("consistency", "n/a" if status.consistency is None else f"{status.consistency:.3g}"),
    ]


def _throughput(timeline: Timeline) -> str:
    hours, rates = timeline.throughput(min(STEPS, 2 * len(timeline.seconds)))
    unit, seconds = next(((name, size) for name, size in UNITS if hours[-1] * 3600 > 2 * size), UNITS[-1])
    x, y = _steps(hours * 3600 / seconds, rates)
    curve = Curve("", x, y, COLOUR)
    return draw(Chart("Throughput over the time at work", f"{unit} at work", "million output voxels a second", [curve]))


def _times(timeline: Timeline) -> str:
    counts, edges = np.histogram(timeline.seconds, bins=min(BARS, max(4, len(timeline.seconds))))
    x, y = _steps(edges, counts.astype(np.float64))
    return draw(Chart("How long regions took", "seconds", "regions", [Curve("", x, y, COLOUR)]))


def _steps(edges: NDArray[np.float64], heights: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the outline of bars, from the axis up and down to it again."""
    return np.repeat(edges, 2).tolist(), [0.0, *np.repeat(heights, 2).tolist(), 0.0]


def _failures(ledger: Ledger) -> list[FailureCount]:
    """Return failures by their code, the most frequent first."""
    found: dict[str, FailureCount] = {}
    recorded: Counter[str] = Counter()
    for record in ledger.records():
        if record.state == "failed":
            code = record.error.get("code", "unknown")
            found.setdefault(code, FailureCount(_said(code), _said(record.error.get("message", ""))))
            recorded[code] += ledger.states[record.region] == DONE
    for record in ledger.failures.values():
        found[record.error.get("code", "unknown")].now += 1
    for code, count in recorded.items():
        found[code].mended = int(count)
    return sorted(found.values(), key=lambda each: -(each.now + each.mended))


def _workers(status: Status) -> list[dict[str, Any]]:
    named = [{**vars(each), "worker": _said(each.worker), "device": _said(each.device)} for each in status.workers]
    shares = [each | {"share": each["regions"] / status.done} for each in named]
    return sorted(shares, key=lambda each: -each["regions"])


def _comparisons(plan: Plan, ledger: Ledger, status: Status) -> tuple[list[Comparison], str]:
    """Return some fields raw beside enhanced, and why there are none, or why the input is not shown."""
    done = np.flatnonzero(ledger.states == DONE)
    if not done.size:
        return [], "No region is done yet."
    chosen = {int(done[len(done) // 2]): "the middle one of the regions that are done"}
    for each in status.least_consistent[:1]:
        chosen.setdefault(each["region"], "the one that departs most from its input")
    why, found = "", list[Comparison]()
    for index, reason in chosen.items():
        region = plan.grid.region(index)
        seen, output = _field(plan, plan.spec.core(region))
        caption = f"{reason.capitalize()}: region {index}; output voxels {output}"
        try:
            enhanced = _section(plan.output, 0, plan.spec.output_channels(region.channel)[0], _within(output, plan))
        except VolumetoolError as error:
            return found, f"The output cannot be read: {error.message}"
        raw = None
        try:
            check_places(plan.job)  # the stored plan may have been written by others
            raw = _section(plan.job.input, plan.first.level, region.channel, seen)
        except VolumetoolError as error:
            why = f"The input cannot be read, and the output alone is shown: {error.message}"
        found.append(Comparison(caption, _pictures(raw, enhanced, caption, same=plan.spec.restores)))
    return found, why


def _field(plan: Plan, core: Box) -> tuple[Box, Box]:
    """Return a section of the input around the middle of a region of the full output, and the voxels that are made of it."""
    z, y, x = ((a + b) // 2 for a, b in zip(core.start, core.stop, strict=True))
    half = SHOWN // 2
    around = Box((z, max(0, y - half), max(0, x - half)), (z + 1, y + half, x + half)).intersection(plan.spec.box)
    seen = plan.in_input(around).intersection(Box.whole(plan.input_shape))
    made = seen
    for _, _, spec in plan.operations:
        made = spec.lattice.made_of(made).intersection(Box.whole(spec.lattice.output_shape))
    made = made.intersection(plan.spec.box)
    return _at(seen, (seen.start[0] + seen.stop[0] - 1) // 2), _at(made, min(max(z, made.start[0]), made.stop[0] - 1))


def _at(box: Box, section: int) -> Box:
    return Box((section, *box.start[1:]), (section + 1, *box.stop[1:]))


def _within(box: Box, plan: Plan) -> Box:
    """Return a box of the full output in voxels of the stored one."""
    z, y, x = plan.spec.origin
    return box.shifted((-z, -y, -x))


def _section(volume: str, level: int, channel: int, box: Box) -> NDArray[Any]:
    opened = open_volume(volume)
    section = read_voxels(opened.open(level, channel), box, volume)[0]  # (y, x)
    shown: NDArray[Any] = np.nan_to_num(section)
    return shown


def _pictures(raw: NDArray[Any] | None, enhanced: NDArray[Any], caption: str, *, same: bool) -> tuple[Picture, ...]:
    limits = grey_limits(enhanced)
    found = [] if raw is None else [("input", raw, limits if same else grey_limits(raw))]
    return tuple(
        Picture(label, f"{label}, {caption}", data_uri(encode_png(to_grey(section, grey))))
        for label, section, grey in (*found, ("output", enhanced, limits))
    )
