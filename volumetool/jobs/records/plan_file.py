"""The job's folder, beside the output: plan, table of section statistics, ledger."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from volumetool.errors import ConfigError, InputError, LedgerError, OutputError
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import PLAN, TABLE, JobDir, roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.lease import confirm
from volumetool.jobs.records.ledger import Ledger
from volumetool.jobs.records.volumes import volumes_of
from volumetool.sealed import decode, encode
from volumetool.storage.create import read_root
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url, local_path, parent_url, read_key, write_key
from volumetool.storage.io.roles import name_roles
from volumetool.storage.provenance import is_damaged, provenance_of


def write_plan(plan: Plan) -> None:
    """Write the folder of a new job: a table of the statistics for users first, the plan, which makes it a job, last.

    The plan may be read from another directory, so its paths are absolute.
    """
    url = plan.job_dir.url
    confirm(url)
    placed = plan.whole.model_copy(update={"job": plan.whole.job.placed})
    write_key(url, TABLE, plan.spec.statistics.to_csv().encode())
    write_key(url, PLAN, encode(placed.model_dump(mode="json")))


def plan_digest(url: str) -> str:
    """Return the SHA-256 of the plan in a job's folder, of nothing where there is none."""
    return hashlib.sha256(read_key(url, PLAN) or b"").hexdigest()


def read_plan(url: str) -> Plan | None:
    """Return the plan in a job's folder, or None where there is none.

    A trust volume that stood beside the output stands beside the folder still: they were moved, or copied, together.

    Raises
    ------
    LedgerError
        ``ledger.plan``: there is one, but it cannot be read.
    """
    raw = read_key(url, PLAN)
    if raw is None:
        return None
    try:
        plan = Plan.model_validate(decode(raw))
        if plan.spec.fingerprint != plan.fingerprint:
            raise ValueError(f"its specification does not fit its own fingerprint {plan.fingerprint[:12]}")
    except (ValidationError, ConfigError) as error:
        why = error.message if isinstance(error, ConfigError) else f"{error.error_count()} fields do not fit"
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is not a plan of this version of volumetool: {why}",
            hint="go on with the version that began the job, or start anew with --overwrite",
            where=url,
        ) from error
    except ValueError as error:
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is damaged, or of another version of volumetool: {error}",
            hint="bring it back from a backup, or start anew with --overwrite",
            where=url,
        ) from error
    return plan.model_copy(update={"job": plan.job.model_copy(update={"trust": _trust_beside(plan.job, url)})})


def _trust_beside(job: Job, url: str) -> str | None:
    """Return where the trust volume of a stored job is, by the place of the job's folder."""
    if job.trust is None:
        return None
    folder, name = parent_url(job.trust)
    return join_url(parent_url(url)[0], name) if folder == parent_url(job.output)[0] else job.trust


def read_job(output: str) -> Plan | None:
    """Return the plan of the job that wrote an output, or None where no job's folder stands beside it.

    Raises
    ------
    LedgerError
        ``ledger.plan``; ``ledger.other-output``: folder and output are of two jobs.
    """
    found = read_plan(JobDir(output).url)
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
    with name_roles(*roles_of(output)):
        found = read_job(output)
    if found is None:
        nothing = is_local(output) and not local_path(output).exists()
        raise OutputError(
            "output.no-job",
            f"there is no {'output' if nothing else 'job of the output'} {output}: no job's folder {JobDir(output).url}",
            hint="give the OUTPUT of `volumetool enhance`; that of `live --watch` has a job once it is finished. Where the "
            "job's folder was lost, `volumetool verify OUTPUT --adopt` makes a new one. `volumetool info` describes any volume",
            where=canonical_url(output),
        )
    return found


def check_output(plan: Plan) -> None:
    """Make sure that the volumes at the places of a plan, where there are some, were made by that job.

    A copy that was restored, or moved, beside the output of another job would mix both. Metadata that cannot be read, or do not
    fit their own checksum, pass: they are damage of this job's own output, which verification finds.

    Raises
    ------
    LedgerError
        ``ledger.other-output``.
    """
    for volume in volumes_of(plan):
        _check_maker(plan, volume.url)


def _check_maker(plan: Plan, place: str) -> None:
    try:
        root = read_root(place)[1]
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
    ours = f"{plan.fingerprint[:12]} (model {plan.title}, input {plan.job.input})"
    raise LedgerError(
        "ledger.other-output",
        f"{plan.job_dir.url} is the folder of job {ours}, but {place} was made by {maker}",
        hint="one of them was restored or copied to the wrong place: put the folder back that belongs to the output, or choose "
        "another output; nothing was touched",
        where=place,
    )


def keep_table(plan: Plan) -> None:
    """Write the table of section statistics again where it was deleted; it is there to be read, and to start other jobs with.

    Raises
    ------
    LedgerError
        ``ledger.sections``: it was edited, which changes nothing in this job.
    """
    url, table = plan.job_dir.url, plan.spec.statistics.to_csv().encode()
    stored = read_key(url, TABLE)
    if stored is None:
        write_key(url, TABLE, table)
    elif stored != table:
        raise LedgerError(
            "ledger.sections",
            f"{url}/{TABLE} is not the table that the job began with",
            hint="to use an edited one, copy it and start a job of its own with --statistics FILE; once this one is "
            "deleted, the first table is written again",
            where=url,
        )


def open_ledger(plan: Plan) -> Ledger:
    """Open the ledger of a plan's job, to write into that of its part."""
    return Ledger(plan.job_dir.url, plan.grid.count, plan.part)
