"""What differs between a job and the one that an output belongs to, in the words of who typed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volumetool.errors import FingerprintError
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.status import as_typed, option_name, resume_command
from volumetool.jobs.terms import Terms, check_version, differences

DECIDED_BY: dict[str, tuple[str, ...]] = {
    "lattice": ("patch", "overlap", "exact"),
    "precision": ("precision", "exact"),
    "padded_batch": ("batch",),
    "statistics": ("sections",),
    "fill": ("fill", "nodata"),
    "box": ("crop", "roi"),
    "input": ("input", "level", "voxel_size"),
    "levels": ("chunk", "shard", "voxel_size"),
}
"""The options that decide a term, where it is not the one of its own name. What follows from other terms is not said twice."""

UNSAID: dict[str, str] = {
    "input": "the input: its metadata (shape, dtype, voxel size or chunks) are others now",
    "model": "--model: its weights are others now",
    "mask": "--mask: its metadata are others now",
    "precision": "--precision: {before} then, {after} now, chosen for the device",
    "statistics": "the table of section statistics: the input's voxels, or the file of --sections, were changed",
}
"""What has happened where a term is another one and none of its options is."""

FOLLOWS = ("precision", "statistics")
"""Terms that may be others because something else is."""


def refuse_other_settings(existing: Plan, job: Job, terms: Terms) -> None:
    """Refuse to go on with an output that belongs to a job with other settings.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: names the options, with both values, and the command that goes on; its `detail` has the terms.
    """
    if existing.terms.fingerprint == terms.fingerprint:
        return
    check_version(job.output, existing.terms.numerics_version)
    before, after = existing.terms.plain(), terms.plain()
    lines = _told(before, after, existing.job.placed, job.placed)
    place = {"output": job.output, "input": job.input if before["input"] == after["input"] else existing.job.input}
    raise FingerprintError(
        "job.fingerprint",
        f"{job.output} belongs to a job with other settings:\n" + "\n".join(f"  {line}" for line in lines),
        hint=f"to go on with it: {resume_command(existing.job.model_copy(update=place))}\n"
        "  or choose another output, or begin anew with --overwrite",
        detail=term_lines(before, after),
    )


def told_by_terms(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield what differs where nothing but the terms of the first job is known: of some options the value is not."""
    for term in changed_terms(before, after):
        if term in DECIDED_BY or term in UNSAID:
            yield " or ".join(map(option_name, DECIDED_BY.get(term, (term,)))) + ": others then"
        else:
            yield f"{option_name(term)}: {as_typed(before.get(term))} then, {as_typed(after.get(term))} now"


def term_lines(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return one line for each value in which two sets of terms differ."""
    return "\n".join(f"{name}: {then} then, {now} now" for name, then, now in differences(before, after))


def changed_terms(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the terms that differ."""
    return list(dict.fromkeys(name.partition(".")[0] for name, _, _ in differences(before, after)))


def _told(before: dict[str, Any], after: dict[str, Any], then: Job, now: Job) -> list[str]:
    """Return a line for each option that is another one, with both values, and for what was changed behind the others."""
    values = then.model_dump(mode="json"), now.model_dump(mode="json")
    changed = changed_terms(before, after)
    options = dict.fromkeys(option for term in changed for option in DECIDED_BY.get(term, (term,)))
    others = {option for option in options if values[0].get(option) != values[1].get(option)}
    others -= {option for option in others if option in before and option not in changed}  # it means the same
    if others & {"level", "voxel_size"}:  # the input may have moved: these alone make it another one
        others.discard("input")
    lines = [
        f"{option_name(option)}: {as_typed(values[0][option])} then, {as_typed(values[1][option])} now"
        for option in options
        if option in others
    ]
    for term, words in UNSAID.items():
        if term in changed and not others.intersection(DECIDED_BY.get(term, (term,))) and not (lines and term in FOLLOWS):
            lines.append(words.format(before=before[term], after=after[term]))
    return lines or [f"{term}: another one now" for term in changed]
