"""The job's folder, beside the output: plan, table of section statistics, ledger."""

from __future__ import annotations

import hashlib
import re

from pydantic import ValidationError

from volumetool.errors import ConfigError, InputError, LedgerError, OutputError
from volumetool.jobs.job import Job
from volumetool.jobs.ledger import Ledger
from volumetool.jobs.plan import CHECKSUM, Plan, provenance_checksum
from volumetool.store.create import OWN_KEY
from volumetool.store.found import Json, read_json
from volumetool.store.kvstore import canonical_url, is_local, local_path, read_key, write_key
from volumetool.store.roles import Role, output_role, told_by_role

PLAN, SECTIONS = "plan.json", "sections.csv"

SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
"""How a plan ends: with the digest of all that stands before."""


def job_url(output: str) -> str:
    """Return where the job of an output keeps its records."""
    return canonical_url(output).rstrip("/") + ".job"


def roles_of(asked: Job | str) -> tuple[Role, ...]:
    """Return what the places of a job, or of an output alone, are."""
    job = None if isinstance(asked, str) else asked
    output = asked if isinstance(asked, str) else asked.output
    named = [] if job is None else [Role(job.input, "the input"), *([Role(job.mask, "the mask")] if job.mask else [])]
    if not output:
        return tuple(named)
    folder = f"{output.rstrip('/')}.job"
    return (*named, output_role(output), Role(folder, "the job's folder", LedgerError, "ledger"))


def write_plan(plan: Plan) -> None:
    """Write the folder of a new job: a table of the statistics for users first, the plan, which makes it a job, last.

    Whoever reads the plan may be in another directory: its paths are absolute.
    """
    url = job_url(plan.job.output)
    placed = plan.model_copy(update={"job": plan.job.placed})
    write_key(url, SECTIONS, plan.spec.statistics.to_csv().encode())
    write_key(url, PLAN, _seal(placed.model_dump_json(indent=1).encode()))


def _seal(text: bytes) -> bytes:
    """Return a JSON object with the SHA-256 of its text as its last member."""
    return b'%s,\n "sha256": "%s"\n}\n' % (text[: text.rindex(b"\n}")], hashlib.sha256(text).hexdigest().encode())


def _unseal(raw: bytes) -> bytes | None:
    """Return the text that was sealed, None where it was changed; what was never sealed is returned as it is."""
    seal = SEAL.search(raw)
    if seal is None:
        return raw
    text = raw[: seal.start()] + b"\n}"
    return text if hashlib.sha256(text).hexdigest().encode() == seal[1] else None


def plan_digest(url: str) -> str:
    """Return the SHA-256 of the plan in a job's folder, of nothing where there is none."""
    return hashlib.sha256(read_key(url, PLAN) or b"").hexdigest()


def read_plan(url: str) -> Plan | None:
    """Return the plan in a job's folder, or None where there is none.

    Raises
    ------
    LedgerError
        ``ledger.plan``: there is one, but it cannot be read.
    """
    raw = read_key(url, PLAN)
    if raw is None:
        return None
    text = _unseal(raw)
    if text is None:
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is damaged: its content does not fit its own checksum",
            hint="bring it back from a backup, or start anew with --overwrite",
            where=url,
        )
    try:
        plan = Plan.model_validate_json(text)
    except (ValidationError, ConfigError) as error:
        why = error.message if isinstance(error, ConfigError) else f"{error.error_count()} fields do not fit"
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is not a plan of this version of volumetool: {why}",
            hint="go on with the version that began the job, or start anew with --overwrite",
            where=url,
        ) from error
    if text is raw and plan.spec.fingerprint != plan.fingerprint:  # what carries no checksum may have been changed
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is damaged: its specification does not fit its own fingerprint {plan.fingerprint[:12]}",
            hint="bring it back from a backup, or start anew with --overwrite",
            where=url,
        )
    return plan


def read_job(output: str) -> Plan | None:
    """Return the plan of the job that wrote an output, or None where no job's folder stands beside it.

    Raises
    ------
    LedgerError
        ``ledger.plan``; ``ledger.other-output``: folder and output are of two jobs.
    """
    found = read_plan(job_url(output))
    if found is None:
        return None
    plan = found.model_copy(update={"job": found.job.model_copy(update={"output": output})})
    check_output(plan)
    return plan


def stored_plan(output: str) -> Plan:
    """Return the plan of the job that wrote an output.

    Raises
    ------
    OutputError
        ``output.no-job``: there is no job's folder beside it.
    LedgerError
        As :func:`read_job`.
    """
    with told_by_role(*roles_of(output)):
        found = read_job(output)
    if found is None:
        nothing = is_local(output) and not local_path(output).exists()
        raise OutputError(
            "output.no-job",
            f"there is no {'output' if nothing else 'job of the output'} {output}: no job's folder {job_url(output)}",
            hint="give the OUTPUT of `volumetool enhance`; that of `live --watch` has a job once it is finished. Where the "
            "job's folder was lost, `volumetool verify OUTPUT --adopt` makes a new one. `volumetool info` describes any volume",
            where=canonical_url(output),
        )
    return found


def check_output(plan: Plan) -> None:
    """Make sure that the volume at a plan's output, where there is one, was made by that job.

    A copy that was restored, or moved, beside the output of another job would mix both. Metadata that cannot be read, or do not
    fit their own checksum, are damaged and nobody else's.

    Raises
    ------
    LedgerError
        ``ledger.other-output``.
    """
    place = canonical_url(plan.job.output)
    try:
        root = read_json(place, "zarr.json")
    except InputError as error:
        if error.code != "input.broken-metadata":
            raise
        return
    if root is None:
        return
    own = provenance_of(root) or {}
    if own.get("fingerprint") == plan.fingerprint or is_damaged(own) or "steps" in own:
        return  # a volume with steps is one that grew, and is about to become this job's
    maker = f"job {own['fingerprint'][:12]}" if "fingerprint" in own else "no job"
    ours = f"{plan.fingerprint[:12]} (model {plan.model}, input {plan.job.input})"
    raise LedgerError(
        "ledger.other-output",
        f"{job_url(place)} is the folder of job {ours}, but {place} was made by {maker}",
        hint="one of them was restored or copied to the wrong place: put the folder back that belongs to the output, or choose "
        "another output; nothing was touched",
        where=place,
    )


def provenance_of(root: Json) -> Json | None:
    """Return what volumetool wrote into the metadata of a volume, None where it wrote nothing."""
    attributes = root.get("attributes")
    own = attributes.get(OWN_KEY) if isinstance(attributes, dict) else None
    return own if isinstance(own, dict) else None


def is_damaged(own: Json) -> bool:
    """Return whether what a volume says of its making does not fit its own checksum."""
    return CHECKSUM in own and own[CHECKSUM] != provenance_checksum(own)  # older versions wrote none


def keep_table(plan: Plan) -> None:
    """Write the table of section statistics again where it was deleted; it is there to be read, and to start other jobs with.

    Raises
    ------
    LedgerError
        ``ledger.sections``: it was edited, which changes nothing in this job.
    """
    url, table = job_url(plan.job.output), plan.spec.statistics.to_csv().encode()
    stored = read_key(url, SECTIONS)
    if stored is None:
        write_key(url, SECTIONS, table)
    elif stored != table:
        raise LedgerError(
            "ledger.sections",
            f"{url}/{SECTIONS} is not the table that the job began with",
            hint="to use an edited one, copy it and start a job of its own with --sections FILE; once this one is "
            "deleted, the first table is written again",
            where=url,
        )


def open_ledger(plan: Plan) -> Ledger:
    """Open the ledger of a plan's job."""
    return Ledger(job_url(plan.job.output), plan.grid.count)
