"""The function that users call to have an output attested, with options by name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from volumetool.configuration import Options, with_options
from volumetool.evaluation.attestation.checks import Check, check_bytes, check_content, check_ledger, not_applicable
from volumetool.evaluation.attestation.content import OutputVoxels
from volumetool.evaluation.attestation.page import render
from volumetool.events import Observer, counting, ignore
from volumetool.jobs.job_dir import JobDir, roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import DONE, Ledger
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.verification.layout_check import DamageKind, says_status
from volumetool.jobs.verification.verify import Depth, Report, make_extent, verify_output
from volumetool.paths import absolute_path, place_text, replace_file
from volumetool.sealed import encode, seal
from volumetool.storage.io.kvstore import join_url, write_key
from volumetool.storage.io.roles import name_roles
from volumetool.version import __version__

NAME = "attestation.json"
"""The attestation in a job's folder."""

OF_VOXELS = ("finite", "blank", "saturation", "histogram", "seams", "sections")
"""Checks that look at voxels."""

CHANGE_CONTRAST = ("clahe",)
"""Filters whose grey values mean something else than those of the input, though what they skip stays as it is."""


class AttestOptions(Options):
    """What is attested: the options of ``volumetool attest`` and of `volumetool.attest`.

    Parameters
    ----------
    depth : {"structure", "stored", "full"}
        How deeply the bytes are verified, as for ``volumetool verify``.
    sample : str, optional
        Read one of T parts of the regions, such as ``"2/7"``, or a share, such as ``"5%"``; all without it.
    """

    told_by = "`volumetool attest --help`"

    depth: Depth = "stored"
    sample: str | None = None


@dataclass(frozen=True, repr=False)
class Attestation:
    """What was found of an output.

    Attributes
    ----------
    output : str
        Path or URL of the output.
    fingerprint : str
        Of the job; empty where its plan cannot be read.
    records : str
        Sum of the SHA-256 of the records' checksums, region by region: of the same bytes it is the same.
    depth, sample : str
        How deeply bytes were verified, and of which part of the regions.
    checks : tuple of Check
        What was looked at.
    version, attested : str
        The version of volumetool that looked, and when (UTC).
    report : str
        Where the JSON is; the page for people lies beside it.
    content : OutputVoxels, optional
        The figures behind the checks; None where they were not made.
    """

    output: str
    fingerprint: str
    records: str
    depth: str
    sample: str
    checks: tuple[Check, ...]
    attested: str
    report: str
    version: str = __version__
    content: OutputVoxels | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        failed = [check.name for check in self.checks if check.state == "failed"]
        return f"<Attestation of {self.output}: {'failed ' + ', '.join(failed) if failed else 'all checks passed'}>"

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.state != "failed" for check in self.checks)

    @property
    def page(self) -> str:
        """Where the page for people is."""
        return self.report.removesuffix(".json") + ".html"

    @property
    def checksum(self) -> str:
        """The CRC-32 that seals the document."""
        return str(seal(self._facts())["checksum"])

    def as_dict(self) -> dict[str, Any]:
        """Return the attestation as JSON values, sealed by its own checksum."""
        return seal(self._facts())

    def _facts(self) -> dict[str, Any]:
        names = ("output", "fingerprint", "records", "depth", "sample", "version", "attested", "report", "page")
        facts = {name: getattr(self, name) for name in names}
        return {"ok": self.ok, **facts, "checks": [check.as_dict() for check in self.checks]}


@with_options(AttestOptions)
def attest(
    output: str | os.PathLike[str],
    *,
    report: str | os.PathLike[str] | None = None,
    observer: Observer = ignore,
    **options: Any,
) -> Attestation:
    """Check an output: records, bytes, and voxels beside those of its input; and write what was found.

    Parameters
    ----------
    output : str or path
        Path or URL of a job's output.
    report : str or path, optional
        JSON file to write, with a page of the same name (``.html``) beside it; by default ``attestation.json`` in the job's
        folder. Files that are there are replaced.
    observer : Observer, optional
        Told by `Progressed` of regions that were verified and looked at.
    **options
        Any field of :class:`volumetool.evaluation.attestation.api.AttestOptions`, such as ``depth="full"``.

    Raises
    ------
    OutputError
        ``output.no-job``, ``output.unwritable``.
    InputError, DataError
        The input that the output is compared with cannot be read.
    ConfigError
        ``config.sample``.
    """
    asked = AttestOptions(**options)
    extent = make_extent(asked.depth, asked.sample, 0, None)
    place = place_text(output)
    plan, verified = verify_output(place, extent, observer=observer)
    with name_roles(*roles_of(place if plan is None else plan.job)):
        checks, content, ledger = _check(plan, verified, observer)
    found = Attestation(
        output=place,
        fingerprint="" if plan is None else plan.fingerprint,
        records="" if ledger is None else _digest(ledger),
        depth=extent.depth,
        sample=f"{extent.part}/{extent.parts}",
        checks=tuple(checks),
        attested=datetime.now(UTC).isoformat(timespec="seconds"),
        report=str(absolute_path(report)) if report is not None else join_url(JobDir(place).url, NAME),
        content=content,
    )
    _write(found, into_folder=report is None)
    return found


def _check(plan: Plan | None, verified: Report, observer: Observer) -> tuple[list[Check], OutputVoxels | None, Ledger | None]:
    """Make all checks; voxels are looked at where plan and metadata are what they should be."""
    bytes_alone = [check_bytes(verified, None), *(not_applicable(name, "see bytes: it cannot be read") for name in OF_VOXELS)]
    if plan is None:
        bad = Check("ledger", "failed", "the plan of the job cannot be read", "a plan as it was written")
        return [bad, *bytes_alone], None, None
    ledger, extent = open_ledger(plan), verified.extent
    job = check_ledger(ledger, says_status(plan))
    if any(damage.kind is DamageKind.METADATA for damage in verified.damaged):
        return [job, *bytes_alone], None, ledger
    done = ledger.states == DONE
    content = OutputVoxels(plan, done, alike=_keeps_grey(plan))
    regions = [index for index in np.flatnonzero(done).tolist() if index % extent.parts == extent.part - 1]
    count = counting(observer, "looking at voxels", len(regions))
    for index in regions:
        content.add(plan.grid.region(index))
        count(1)
    return [job, check_bytes(verified, content), *check_content(content)], content, ledger


def _keeps_grey(plan: Plan) -> bool:
    """Return whether grey values of the output mean what they mean in the input, voxel for voxel."""
    return all(
        spec.spares and spec.restores and not spec.equalise_sections and spec.curves is None for _, _, spec in plan.operations
    ) and not any(text.partition(":")[0] in CHANGE_CONTRAST for _, text, _ in plan.operations)


def _digest(ledger: Ledger) -> str:
    """Return one digest of the records, in whatever order and by whatever worker they were written."""
    total = 0
    for record in ledger.latest():
        if record.state == "done":
            content = repr((record.region, record.checksums, record.stored)).encode()
            total = (total + int.from_bytes(hashlib.sha256(content).digest(), "big")) % 2**256
    return f"{total:064x}"


def _write(found: Attestation, *, into_folder: bool) -> None:
    """Write page and document, the document last: in a job's folder, which may be in a bucket, or as local files."""
    for place, content in ((found.page, render(found).encode()), (found.report, encode(found.as_dict()))):
        if into_folder:
            folder, _, name = place.rpartition("/")
            write_key(folder, name, content)
            continue
        replace_file(place, content)
