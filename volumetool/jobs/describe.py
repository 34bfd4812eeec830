"""Words for a plan: what a person reads before saying yes."""

from __future__ import annotations

from volumetool.geometry import fused_count
from volumetool.jobs.checks import show_bytes, show_size
from volumetool.jobs.estimate import Estimates
from volumetool.jobs.plan import Plan

KEPT = {
    "none": "no patches for later regions",
    "sides": "patches that regions of a layer share",
    "all": "patches that regions share",
}


def describe_plan(plan: Plan) -> list[tuple[str, str]]:
    """Return the lines of a plan as (name, text)."""
    terms, cost, lattice = plan.terms, plan.estimates, plan.terms.lattice
    first = terms.levels[0]
    span = _shape(plan.grid.region(0).box.shape)
    share = cost.recomputed / max(1, cost.patches - cost.recomputed)
    lines = [
        ("input", f"{plan.job.input}: {_shape(plan.input_shape)} {plan.input_dtype}, voxels {show_size(plan.voxel_size)}"),
        ("model", f"{plan.model}, scale {_shape(lattice.scale)}, {plan.numerics.precision}"),
        ("output", f"{plan.job.output}: {_shape(first.shape)} {terms.dtype}, voxels {show_size(first.voxel_size)}"),
        ("levels", f"{len(terms.levels)}, of which {fused_count(terms.levels)} written with the regions"),
        ("storage", f"chunks {_shape(first.chunk)}, shards {_shape(first.shard)}, {cost.objects} objects"),
        ("patches", f"{cost.patches} of {_shape(lattice.patch)} voxels, overlap {_axes(plan)}; {share:.1%} computed twice"),
        (
            "regions",
            f"{plan.grid.count} of {span} voxels; {plan.workers} workers x {plan.threads} threads",
        ),
        *([("box", box)] if (box := describe_box(plan)) else []),
        ("network", _way(plan)),
        ("kept", _kept(cost)),
        ("read", f"{show_bytes(cost.read_bytes)} of voxels, halo included"),
        ("write", f"about {show_bytes(cost.written_bytes)} (voxels compress to {cost.compression:.0%} in a sample)"),
        ("disk", "unknown (object store)" if cost.free_bytes is None else f"{show_bytes(cost.free_bytes)} free"),
        ("memory", f"{show_bytes(cost.worker_bytes)} per worker, {show_bytes(cost.allowed_bytes)} allowed"),
        ("time", f"about {_duration(cost.seconds)}, from a sample on this machine"),
        ("fingerprint", plan.fingerprint),
    ]
    return lines + [("warning", note) for note in plan.notes]


def describe_box(plan: Plan) -> str | None:
    """Say which box was asked for and which is computed, in input voxels; None without a box, or where it is the output."""
    asked, computed = plan.roi, plan.computed_box
    if asked is None or computed is None:
        return None
    scale = plan.terms.lattice.scale
    words = f"{asked.coarsened(scale)} (z,y,x) asked for; "
    if computed == asked:
        return words + "just that is computed"
    times = f"{computed.voxels / asked.voxels:.3g} times as much"
    return f"{words}{computed.coarsened(scale)} computed, {times}, because regions are computed whole (--crop: the box alone)"


def _way(plan: Plan) -> str:
    """Say how the network runs, and why so."""
    chosen = f"{plan.streams} calls of {plan.numerics.batch} patches side by side"
    tried = ", ".join(f"{pace.streams} x {pace.batch} {1 / pace.patch_seconds:.3g}/s" for pace in plan.paces)
    return f"{chosen}; patches of the card's size tried here, calls x patches: {tried}"


def _kept(cost: Estimates) -> str:
    size = f", at most {show_bytes(cost.kept_bytes)} on disk at once" if cost.kept_bytes else ""
    return f"{KEPT[cost.kept]}{size} ({cost.kept_why})"


def _axes(plan: Plan) -> str:
    return ",".join(str(axis.overlap) for axis in plan.terms.lattice.axes)


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
