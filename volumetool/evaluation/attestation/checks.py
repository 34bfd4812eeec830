"""The checks of an attestation: what each looks at, what it finds, and from which value on it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from volumetool.evaluation.attestation.content import OutputVoxels, Places
from volumetool.evaluation.attestation.seams import FAINT, FARTHER, LEVEL, PLAIN, Seams
from volumetool.geometry import Box
from volumetool.jobs.records.ledger import Ledger
from volumetool.jobs.verification.verify import Report

MOST_SATURATED = 0.01
"""Voxels at the ends of the data type beyond the input's share of them. Outputs of real data have fewer than their inputs,
because noise reaches the ends; a wrong window cuts whole per cents."""

MOST_DISTANCE = 0.02
"""Distance of the distributions of means of 8 x 8 input voxels, in data windows: five grey levels of 256. Models and smoothing
filters on three real data sets move them by 0.0002 to 0.008; the wrong polarity would move them by 0.08 to 0.1, a window that
is a tenth too wide by 0.05."""

MOST_JUMP = 0.02
"""Step between neighbouring sections beyond the input's, in data windows. On real volumes it is at most 0.0006, and 0.012 where
a network took the strongest noise of the recipes off."""

State = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Check:
    """One check of an attestation.

    Attributes
    ----------
    name : str
        ``ledger``, ``bytes``, ``finite``, ``blank``, ``saturation``, ``histogram``, ``seams`` or ``sections``.
    state : {"passed", "failed", "not applicable"}
        What it ended with.
    found : str
        What was found, in words.
    limit : str
        What would fail, in words.
    places : tuple of Box
        Where to look first, in voxels of the output.
    """

    name: str
    state: State
    found: str
    limit: str = ""
    places: tuple[Box, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return {
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "limit": self.limit,
            "places": [str(place) for place in self.places],
        }


def check_ledger(ledger: Ledger, status: str | None) -> Check:
    """Check that every region is done and the volume calls itself complete."""
    regions, failed = len(ledger.states), len(ledger.failures)
    ok = ledger.done == regions and status == "complete" and not ledger.damaged
    found = f"{ledger.done} of {regions} regions done, {failed} failed; the volume says {status or 'nothing'}"
    return Check("ledger", _state(ok), found, "all regions done, none failed, and the volume complete")


def check_bytes(report: Report, content: OutputVoxels | None) -> Check:
    """Check that what is stored is what was recorded."""
    unreadable = Places() if content is None else content.unreadable
    what = f"{len(report.damaged)} damages" if report.damaged else "all as recorded"
    found = f"{report.regions} regions and {report.shards} coarse shards, {report.extent.told}: {what}"
    first = "".join(f"; {damage}" for damage in report.damaged[:1])
    first += f"; {unreadable.count} blocks cannot be read" if unreadable.count else ""
    places = [damage.box for damage in report.damaged if damage.box is not None and not damage.level][:8]
    places += [box for _, box in unreadable.worst]
    return Check("bytes", _state(report.ok and not unreadable.count), found + first, "no damage", tuple(places))


def check_content(content: OutputVoxels) -> list[Check]:
    """Check the voxels of an output, beside those of its input where they can be compared."""
    strange = sum(int(size) for size, _ in content.strange.worst)
    checks = [
        Check(
            "finite",
            _state(not content.strange.count),
            f"at least {strange} values are NaN or infinite" if strange else "all values are finite",
            "no value that is NaN or infinite, but for missing data",
            _boxes(content.strange),
        )
    ]
    if not content.alike:
        return checks + [not_applicable(name) for name in ("blank", "saturation", "histogram", "seams", "sections")]
    made, given = content.saturated()
    distance = content.distance()
    jump = content.jumps.worst[0][0] if content.jumps.worst else 0.0
    return [
        *checks,
        Check(
            "blank",
            _state(not content.lost.count),
            f"{content.blank} of {content.chunks} chunks have one value ({content.blank / max(1, content.chunks):.2%}); of "
            f"{content.lost.count} of them the input has structure",
            "no chunk of one value where the input has structure",
            _boxes(content.lost),
        ),
        Check(
            "saturation",
            _state(made - given <= MOST_SATURATED),
            f"{made:.2%} of the voxels are at an end of the data type, of the input's {given:.2%}",
            f"not more than {MOST_SATURATED:.0%} beyond the input's share",
        ),
        Check(
            "histogram",
            _state(distance <= MOST_DISTANCE),
            f"the distributions of local means are {distance:.4f} data windows apart",
            f"at most {MOST_DISTANCE} data windows",
        ),
        _check_seams(content.seams),
        Check(
            "sections",
            _state(jump <= MOST_JUMP),
            f"neighbouring sections of a region differ by at most {max(jump, 0.0):.4f} data windows more than the input's",
            f"at most {MOST_JUMP} data windows",
            _boxes(content.jumps, MOST_JUMP),
        ),
    ]


def not_applicable(name: str, why: str = "the operation makes no grey values that can be compared with the input's") -> Check:
    """Return a check that was not made, with the reason."""
    return Check(name, "not applicable", why)


def _check_seams(all_seams: tuple[Seams, ...]) -> Check:
    compared = [(axis, seams) for axis, seams in zip("zyx", all_seams, strict=True) if seams.ratios.inside]
    if not compared:
        return not_applicable("seams", "no two regions are thick enough to have planes inside that could be compared")
    told, places = [], []
    for axis, seams in compared:
        border, inside = seams.ratios.medians
        shifts = f"{seams.shifts.largest:.4f} against {max(seams.shifts.inside):.4f}"
        told.append(f"{axis} {border / inside:.3f}, {seams.ratios.largest / max(seams.ratios.inside):.3f}, {shifts}")
        places += seams.found
    return Check(
        "seams",
        _state(not places),
        "borders of regions against planes inside (ratio of medians, of largest; largest shifts in data windows): "
        + "; ".join(told),
        f"medians up to {FAINT}, unless by chance; largest ratios up to {PLAIN}; shifts up to {LEVEL} windows, or "
        f"{FARTHER} times those inside",
        tuple(places),
    )


def _state(ok: bool) -> State:  # noqa: FBT001
    return "passed" if ok else "failed"


def _boxes(places: Places, least: float = 0.0) -> tuple[Box, ...]:
    return tuple(box for size, box in places.worst if size > least)
