"""The job's folder, beside the output: plan, table of section statistics, ledger."""

from __future__ import annotations

import hashlib
import re

from pydantic import ValidationError

from volumetool.enhancement.statistics import Statistics
from volumetool.errors import LedgerError
from volumetool.jobs.ledger import Ledger
from volumetool.jobs.plan import Plan
from volumetool.store.kvstore import canonical_url, read_key, write_key

PLAN, SECTIONS = "plan.json", "sections.csv"

SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
"""How a plan ends: with the digest of all that stands before."""


def job_url(output: str) -> str:
    """Return where the job of an output keeps its records."""
    return canonical_url(output).rstrip("/") + ".job"


def write_plan(plan: Plan, statistics: Statistics) -> None:
    """Write the folder of a new job: the table first, the plan, which makes it a job, last."""
    url = job_url(plan.job.output)
    write_key(url, SECTIONS, statistics.to_csv().encode())
    write_key(url, PLAN, _seal(plan.model_dump_json(indent=1).encode()))


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
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise LedgerError(
            "ledger.plan",
            f"{url}/{PLAN} is not a plan of this version of volumetool: {error.error_count()} fields do not fit",
            hint="go on with the version that began the job, or start anew with --overwrite",
            where=url,
        ) from error


def read_statistics(url: str, plan: Plan) -> Statistics:
    """Return the job's section statistics.

    Raises
    ------
    LedgerError
        ``ledger.sections``: the table is gone, or not the one that the job began with.
    """
    raw = read_key(url, SECTIONS)
    channels, sections = plan.terms.channels or 1, plan.terms.lattice.z.size
    statistics = None if raw is None else Statistics.from_csv(raw.decode(), channels, sections)
    if statistics is None or statistics.digest != plan.terms.statistics:
        raise LedgerError(
            "ledger.sections",
            f"{url}/{SECTIONS} is {'missing' if statistics is None else 'not the table'} that the job began with",
            hint="bring the first table back; to use an edited one, start a job of its own with --sections FILE",
            where=url,
        )
    return statistics


def open_ledger(plan: Plan) -> Ledger:
    """Open the ledger of a plan's job."""
    return Ledger(job_url(plan.job.output), plan.grid.count)
