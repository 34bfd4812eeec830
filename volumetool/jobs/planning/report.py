"""A plan in words, for a person to read before the run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence

from volumetool.geometry import fused_count, total_factor
from volumetool.jobs.choices import Familiarity
from volumetool.jobs.plan import EarlierStep, Estimates, Plan
from volumetool.jobs.planning.choice import ALIKE
from volumetool.jobs.records.staging import FROM
from volumetool.processing.operations.turns import turned_ways
from volumetool.processing.sections.quality import VERDICTS, show_sections
from volumetool.processing.sections.repair import REACH, RepairMode
from volumetool.processing.spec import OutputSpec
from volumetool.processing.survey import Evidence
from volumetool.units import show_bytes, show_duration, show_scale, show_shape, show_size

KEPT = {
    "none": "no patches are kept",
    "sides": "patches that regions of one layer share are kept",
    "all": "patches that regions share are kept",
}


REPAIRS: dict[RepairMode, str] = {
    "fill": "They are interpolated from the good ones around them before they are enhanced",
    "nearest": "The nearest good one is enhanced in place of each",
    "leave": "They are enhanced as they are",
}


def describe_plan(plan: Plan) -> list[tuple[str, str]]:
    """Return the lines of a plan as (name, text)."""
    spec, cost, lattice = plan.spec, plan.estimates, plan.spec.lattice
    first, fused = spec.levels[0], fused_count(spec.levels)
    twice = _twice(cost.patches, cost.recomputed)
    size, voxels = f"{show_shape(plan.input_shape)} voxels (z, y, x)", f"{show_shape(first.shape)} voxels"
    patches = f"{cost.patches} of {show_shape(lattice.patch)} input voxels, which overlap by {_axes(plan)}"
    regions = f"{plan.grid.count} of {show_shape(plan.grid.region(0).box.shape)} output voxels"
    resized = _resized([operation for _, _, operation in plan.operations])
    lines = [
        ("input", f"{plan.job.input}: {size} of {show_size(plan.voxel_size)}, {plan.input_dtype}"),
        ("model", f"{plan.title} ({why_model(plan)}); {resized}, computed in {plan.numerics.precision}"),
        *[(f"step {number}", _step(step)) for number, step in enumerate(plan.earlier, start=1)],
        *([("network", plan.about)] if plan.about else []),
        *describe_choice(plan),
        *([("gate", "; ".join([describe_gate(plan.gate), *plan.gate.reasons]))] if plan.gate is not None else []),
        *[("sections", line) for line in describe_sections(plan.first)],
        ("output", f"{plan.output}: {voxels} of {show_size(first.voxel_size)}, {spec.dtype}"),
        *([("rounded", spec.rounded)] if spec.store_error else []),
        *([] if plan.job.trust is None else [("trust", _trust(plan))]),
        *([("box", box)] if (box := describe_box(plan)) else []),
        (
            "levels",
            f"{len(spec.levels)}, each coarser than the one before; {fused} are written with the regions, the rest last",
        ),
        ("files", f"about {cost.objects} of at most {show_shape(first.shard)} voxels, in chunks of {show_shape(first.chunk)}"),
        ("patches", f"{patches}, go through the network; {twice}"),
        ("regions", f"{regions}; what is interrupted goes on with the first region that is not done"),
        ("workers", _workers(plan)),
        ("kept", _kept(cost)),
        ("read", f"{show_bytes(cost.read_bytes)}, margins of the patches included{_shared(cost)}"),
        ("write", f"about {show_bytes(cost.written_bytes)}; a sample compressed to {cost.compression:.0%}{_unrounded(cost)}"),
        ("disk", _room(cost)),
        ("per hour", _per_hour(cost)),
        ("memory", f"{show_bytes(cost.worker_bytes)} for each worker, {show_bytes(cost.allowed_bytes)} allowed"),
        ("time", f"about {show_duration(cost.seconds)}, from a sample on {_sampled(plan)}"),
    ]
    return lines + [("warning", note) for note in plan.notes]


def _trust(plan: Plan) -> str:
    names = ", ".join(channel.name for channel in plan.spec.outputs[1:])
    lattice = plan.spec.lattice
    square = lattice.patch[1] == lattice.patch[2] and lattice.scale[1] == lattice.scale[2]
    cost = f"; the network runs {len(turned_ways(square=square))} times for each patch, turned and mirrored" * plan.job.tta
    factor = total_factor(plan.spec.levels, plan.spec.trust_level)
    size = show_size(plan.spec.levels[plan.spec.trust_level].voxel_size)
    voxels = f"the means over {show_shape(factor)} voxels, of {size}" if max(factor) > 1 else "the same voxels"
    return f"{plan.job.trust}: {names} of {voxels}, {plan.spec.trust}, in grey values of the output{cost}"


def _unrounded(cost: Estimates) -> str:
    return "" if cost.unrounded is None else f", without --store-error to {cost.unrounded:.0%}"


def _per_hour(cost: Estimates) -> str:
    """Return what a job asks of the file system, for those who share it."""
    hours = max(cost.seconds, 1.0) / 3600
    moved = show_bytes(round((cost.read_bytes + cost.written_bytes) / hours))
    opened, new = cost.opens / hours, cost.objects / hours
    return f"{moved} read and written at most, {opened:.0f} files opened, {new:.0f} new files (inodes)"


def _twice(patches: int, recomputed: int) -> str:
    share = recomputed / max(1, patches - recomputed)
    return f"{share:.1%} of that is done twice" if share >= 0.0005 else "nothing is done twice"


def _resized(specs: Sequence[OutputSpec]) -> str:
    """Return what operations, one after the other, do to voxels."""
    scales, shrinks = ([getattr(spec.lattice, name) for spec in specs] for name in ("scale", "shrink"))
    up, down = (tuple(math.prod(axis) for axis in zip(*factors, strict=True)) for factors in (scales, shrinks))
    return show_scale((up[0], up[1], up[2]), (down[0], down[1], down[2]))


def _step(step: EarlierStep) -> str:
    """Describe an operation of a chain whose output is not stored."""
    lattice = step.spec.lattice
    around = (line.overlap - line.trim + more for line, more in zip(lattice.axes, (lattice.context, 0, 0), strict=True))
    patches = f"{step.patches} patches of {show_shape(lattice.patch)}, {' x '.join(map(str, around))} voxels looked at around"
    what = f"{step.model}: {_resized([step.spec])}, {step.spec.dtype}, computed in {step.numerics.precision}"
    return f"{what}; {patches}; {_twice(step.patches, step.recomputed)}; not stored"


def describe_start(plan: Plan, done: int) -> str:
    """Describe in one line what a run begins with.

    Parameters
    ----------
    plan : Plan
        The plan.
    done : int
        Regions that an earlier run finished.
    """
    first = plan.spec.levels[0]
    before = f"{show_shape(plan.input_shape)} voxels of {show_size(plan.voxel_size)}"
    after = f"{show_shape(first.shape)} of {show_size(first.voxel_size)}, about {show_bytes(plan.estimates.written_bytes)}"
    resumed = f"{done} of {plan.grid.count} regions are done already" if done else f"{plan.grid.count} regions"
    return f"{plan.title} ({why_model(plan)}): {before} -> {after}; {resumed}"


def why_model(plan: Plan) -> str:
    """Return why a plan has its model."""
    if plan.job.model != "auto":
        return "as asked"
    if plan.spec.lattice.scale == (1, 1, 1):
        return "chosen by auto: no built-in model makes such voxels finer without adding sections; this one removes noise"
    if plan.spec.lattice.scale[0] > 1:
        return "chosen by auto when the job was begun"
    why = "chosen by auto: the finest built-in model for such voxels that adds no sections"
    return f"{why}, and uses neighbouring ones" if plan.spec.lattice.context else why


def describe_choice(plan: Plan) -> list[tuple[str, str]]:
    """Return the lines, as (name, text), of what a choice by auto rests on; none where the job names its model."""
    if plan.choice is None:
        return []
    told, found = "too little structure in the sample to say anything", plan.choice.evidence
    if found is not None:
        told = f"noise {found.noise:.0%} of the contrast; sharpness {found.sharpness:.0%}, the step between voxels; "
        told += "no neighbouring sections to compare" if found.neighbours is None else _neighbours(found, plan.voxel_size[0])
    return [("measured", told), ("next best", plan.choice.next_best or "no other built-in model fits")]


def describe_sections(spec: OutputSpec) -> list[str]:
    """Say which sections are bad and what is done about them, a line for each channel; nothing where nobody looked at them."""
    quality, repair, lines = spec.statistics.quality, spec.repair, []
    if quality is None:
        return []
    seen = f"{quality.seen} looked at" if quality.seen else "by the table that was given"
    for channel, verdicts in enumerate(quality.verdicts):
        bad = quality.bad(channel)
        kinds = [f"{kind} {show_sections(z for z in bad if bad[z] == kind)}" for kind in VERDICTS if kind in bad.values()]
        where = f"channel {channel}: " if len(quality.verdicts) > 1 else ""
        lines.append(f"{where}{len(bad)} of {len(verdicts)} unlike the others, {seen}" + ": " * bool(kinds) + "; ".join(kinds))
        if repair is not None and bad:
            alone = [z for z in bad if repair.replacements(channel, z, len(verdicts)) == (z,)]
            lines[-1] += f". {REPAIRS[repair.mode]}; no z context holds bad ones"
            if alone and repair.mode != "leave":
                lines[-1] += f"; {show_sections(alone)} stay, with no good one within {REACH} sections"
    return lines


def describe_gate(gate: Familiarity) -> str:
    """Say whether the volume looks like what the model was trained on."""
    told = {"in": "like", "edge": "at the edge of", "out": "unlike"}[gate.verdict]
    return f"{told} the images that the model was trained on"


def _neighbours(found: Evidence, spacing: float) -> str:
    """Describe how alike neighbouring sections are, and what follows."""
    alike = found.neighbours is not None and found.neighbours >= ALIKE
    told = f"sections {spacing:g} nm apart correlate by {found.neighbours:.2f} without their noise, "
    told += f"{found.aligned:.2f} after the best shift (of {found.shift:.1f} voxels): "
    if alike:
        return told + f"alike ({ALIKE:g} or more), a model gains by them"
    if found.aligned is not None and found.aligned >= ALIKE:
        return told + "alike once they are aligned, and then a model would gain by them"
    return told + f"less than {ALIKE:g}, which helps only a model that leaves out what differs"


def describe_box(plan: Plan) -> str | None:
    """Return which box was asked for and which is computed, in input voxels; None without a box, or where it is the output."""
    asked, computed = plan.roi, plan.computed_box
    if asked is None or computed is None:
        return None
    words = f"{plan.in_input(asked)} (z,y,x) asked for; "
    if computed == asked:
        return words + "just that is computed"
    times = f"{computed.voxels / asked.voxels:.3g} times as much"
    whole = plan.in_input(computed)
    return f"{words}{whole} computed, {times}, because regions are computed whole (--crop: the box alone)"


def _workers(plan: Plan) -> str:
    """Describe the workers, and how the network runs."""
    number = f"{plan.workers} with {plan.threads} threads" + (" each" if plan.workers > 1 else "") + _speeds(plan)
    if not plan.paces:
        return number
    return f"{number}, {plan.streams * plan.numerics.batch} patches at a time: the fastest of {len(plan.paces)} ways tried here"


def _shared(cost: Estimates) -> str:
    """Describe what chunks that are wider than a strip cost."""
    if cost.rereads < FROM:
        return ""
    return (
        f"; strips share its chunks by {cost.rereads:.1f}: they are kept in {tempfile.gettempdir()} meanwhile, if it has room"
    )


def _speeds(plan: Plan) -> str:
    """Describe workers that measured how fast they are: the fastest and the slowest."""
    if len(plan.rates) < 2:
        return ""
    slowest, fastest = (choose(plan.rates, key=lambda name: plan.rates[name]) for choose in (min, max))
    least, most = plan.rates[slowest], plan.rates[fastest]
    like = sum(plan.rates.values()) / most
    told = f"{fastest} computes {most / 1e9:.3g} GFLOP/s, {slowest} {least / most:.2g} times as much"
    return f", together as fast as {like:.1f} of the fastest: {told}"


def _sampled(plan: Plan) -> str:
    """Return where the sample was timed."""
    if not plan.rates:
        return "this machine"
    return "one of the workers" + (", and how fast each is" if len(plan.rates) > 1 else "")


def _kept(cost: Estimates) -> str:
    size = f", at most {show_bytes(cost.kept_bytes)} on disk at once" if cost.kept_bytes else ""
    return f"{KEPT[cost.kept]}{size} ({cost.kept_why})"


def _room(cost: Estimates) -> str:
    if cost.free_bytes is None:
        return "unknown (object store)"
    whose = [name if "quota" in name else "" for name in cost.bounds]
    room = f"{show_bytes(cost.free_bytes)} free{_by(whose[0])}"
    return room if cost.free_files is None else f"{room}, {cost.free_files} files may be added{_by(whose[1])}"


def _by(quota: str) -> str:
    return f" by {quota}" if quota else ""


def _axes(plan: Plan) -> str:
    return " x ".join(str(axis.overlap) for axis in plan.spec.lattice.axes)
