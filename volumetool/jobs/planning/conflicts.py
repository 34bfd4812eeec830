"""Conflicts: differences between a job and the one that an output belongs to, named by their options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volumetool.errors import FingerprintError
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.processing.operations.chain import ARROW
from volumetool.processing.spec import OutputSpec, check_version
from volumetool.storage.io.kvstore import canonical_url

DECIDED_BY: dict[str, tuple[str, ...]] = {
    "lattice": ("patch", "overlap", "exact"),
    "precision": ("precision", "exact"),
    "padded_batch": ("batch",),
    "fill": ("fill", "nodata"),
    "box": ("crop", "roi"),
    "model": ("model", "trust", "tta", "store_error"),
    "outputs": ("model", "trust", "tta"),
    "trust_level": ("trust",),
    "input": ("input", "level", "voxel_size"),
    "levels": ("chunk", "shard", "voxel_size"),
    "repair": ("repair_sections",),
}
"""The options that decide a field of the specification, where it is not the one of its own name."""

UNSAID: dict[str, str] = {
    "input": "the input: its metadata (shape, dtype, voxel size or chunks) are others now",
    "model": "--model: its weights are others now",
    "mask": "--mask: its metadata are others now",
    "precision": "--precision: {before} then, {after} now, chosen for the device",
    "repair": "--repair-sections: other sections are bad now, by the input's voxels or by the file of --statistics",
    "statistics": "the table of section statistics: the input's voxels, or the file of --statistics, were changed",
}
"""What has happened where a field is another one and none of its options is."""

FOLLOWS = ("precision", "statistics", "repair")
"""Fields that may be others because something else is."""


def refuse_other_settings(existing: Plan, job: Job, spec: OutputSpec) -> None:
    """Refuse to go on with an output that belongs to a job with other settings.

    Parameters
    ----------
    existing : Plan
        Plan of the job that wrote the output.
    job : Job
        What is asked for now.
    spec : OutputSpec
        What `job` means, resolved.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: names the options, with both values, and the command that goes on; its `detail` has the fields.
    """
    if existing.spec.fingerprint == spec.fingerprint and same_trust(existing, job):
        return
    check_version(job.output, existing.spec.numerics_version)
    before, after = existing.spec.plain(), spec.plain()
    then, now = existing.job.placed, job.placed
    lines = _told(before, after, then, now) if before != after else [f"--trust: {then.trust} then, {now.trust} now"]
    place = {"output": job.output, "input": job.input if before["input"] == after["input"] else existing.job.input}
    raise FingerprintError(
        "job.fingerprint",
        f"{job.output} belongs to a job with other settings:\n" + "\n".join(f"  {line}" for line in lines),
        hint=f"to go on with it: {resume_command(existing.job.model_copy(update=place))}\n"
        "  or choose another output, or begin anew with --overwrite",
        detail=field_lines(before, after),
    )


def same_trust(existing: Plan, job: Job) -> bool:
    """Return whether a job writes its trust volume where it was begun."""
    return existing.trust == (None if job.trust is None else canonical_url(job.trust))


def told_by_specs(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a line per difference if only the specification of the first job is known, and so not every option's value."""
    for field in changed_fields(before, after):
        if field in DECIDED_BY or field in UNSAID:
            yield " or ".join(map(option_name, DECIDED_BY.get(field, (field,)))) + ": others then"
        else:
            yield f"{option_name(field)}: {as_typed(before.get(field))} then, {as_typed(after.get(field))} now"


def field_lines(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return one line for each value in which two specifications differ."""
    return "\n".join(f"{name}: {then} then, {now} now" for name, then, now in differences(before, after))


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the fields that differ."""
    return list(dict.fromkeys(name.partition(".")[0] for name, _, _ in differences(before, after)))


def _told(before: dict[str, Any], after: dict[str, Any], then: Job, now: Job) -> list[str]:
    """Return a line for each option that is another one, with both values, and for what was changed behind the others."""
    if max(len(then.operations), len(now.operations)) > 1 and then.model != now.model:  # the rest follows
        return [f"the operations: {then.model} then, {now.model} now"]
    values = then.model_dump(mode="json"), now.model_dump(mode="json")
    changed = changed_fields(before, after)
    options = dict.fromkeys(option for field in changed for option in DECIDED_BY.get(field, (field,)))
    others = {option for option in options if values[0].get(option) != values[1].get(option)}
    others -= {option for option in others if option in before and option not in changed}  # it means the same
    if others & {"level", "voxel_size"}:  # the input may have moved: these alone make it another one
        others.discard("input")
    lines = [
        f"{option_name(option)}: {as_typed(values[0][option])} then, {as_typed(values[1][option])} now"
        for option in options
        if option in others
    ]
    follows = {*FOLLOWS, *(("model",) if "trust_level" in changed else ())}  # the network makes other means then
    for field, words in UNSAID.items():
        if field in changed and not others.intersection(DECIDED_BY.get(field, (field,))) and not (lines and field in follows):
            lines.append(words.format(before=before[field], after=after[field]))
    return lines or [f"{field}: another one now" for field in changed]


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return every value in which two specifications differ.

    Parameters
    ----------
    old, new
        JSON values of the two: a mapping, or at a deeper level any value.
    name : str
        Dotted name of the field that holds them; empty for the whole specification.

    Returns
    -------
    list of tuple
        Dotted name of the field, old value, new value.
    """
    before, after = _members(old), _members(new)
    if before is None or after is None or (isinstance(old, list) and len(old) != len(new)):
        return [] if old == new else [(name, old, new)]
    found = []
    for member in sorted(before.keys() | after.keys()):
        found += differences(before.get(member), after.get(member), f"{name}.{member}" if name else member)
    return found


def _members(value: Any) -> dict[str, Any] | None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {str(number): member for number, member in enumerate(value)}
    return value if isinstance(value, dict) else None


ONCE = ("overwrite", "part", "retry_quarantined", "recompute_changed")
"""Fields of a job that were meant for the run that was given them, and not for the next."""


def resume_command(job: Job) -> str:
    """Return the command that goes on with a job: with every option that it was begun with, over the whole of it."""
    if any(each.startswith("handed:") for each in job.operations):
        return "volumetool.apply in Python, with the same function"
    words, own = ["volumetool", "enhance", job.input, job.output], set(ONCE)
    files = [each.removeprefix("python:") for each in job.operations]
    if files != list(job.operations) or any(map(_is_program, job.operations)):
        words, own = ["volumetool", "apply", ARROW.join(files), job.input, job.output, "--trust"], {"model", *ONCE}
    given = job.model_dump(mode="json", exclude_defaults=True, exclude={"input", "output", "roi", *own})
    for name, value in given.items():
        words.append(option_name(name) if value is True else f"{option_name(name)}={as_typed(value)}")
    if job.crop and job.roi is not None:
        words.append(f"--roi={job.roi}")
    return shlex.join(words)


def _is_program(model: str) -> bool:
    """Return whether a model is a file of code."""
    path = Path(model.partition(";")[0])
    if path.suffix in ("", ".safetensors"):
        return False
    from volumetool.models.foreign.trust import is_code  # torch takes its time

    return is_code(path)


def option_name(field: str) -> str:
    """Return what a field of a job is called on the command line."""
    return field.upper() if field in ("input", "output") else f"--{field.replace('_', '-')}"


def as_typed(value: Any) -> str:
    """Return the JSON value of a job's field as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return "given" if value else "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
