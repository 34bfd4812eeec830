"""The job directory, beside the output: plan, ledger, lease and all else that a job keeps.

It belongs to the user who runs the job. A run believes its plan and ledger: anyone who may write them can have regions skipped,
or other bytes taken for patches that were computed. On a machine that many share, a directory that is there before the job may
be a trap.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from volumetool.errors import LedgerError, OutputError
from volumetool.jobs.job import Job
from volumetool.storage.io.kvstore import canonical_url, is_local, local_path
from volumetool.storage.io.retries import unwritable
from volumetool.storage.io.roles import Role, output_role

PLAN = "plan.json"
"""The plan, see `volumetool.jobs.records.plan_file`."""

TABLE = "sections.csv"
"""The table of section statistics for people to read; the plan holds it, too."""

SECTION_MASK = "sections.zarr"
"""Volume that shows which sections are bad, see `volumetool.jobs.records.section_mask`; jobs that repair sections have it."""

LEDGER = "ledger"
"""Records of regions, see `volumetool.jobs.records.ledger`."""

LEASE = "owner.json"
"""The process that writes the job, see `volumetool.jobs.records.lease`."""

ATTEMPTS = "attempts"
"""Regions that a worker has begun, see `volumetool.jobs.records.attempts`."""

RUNNING = "running.json"
"""Regions that are computed just now, see `volumetool.jobs.records.in_flight`."""

PATCHES = "patches"
"""Patches that are kept for regions to come, see `volumetool.processing.patch_cache`."""

COARSE = "coarse.jsonl"
"""Digests of the shards of coarse levels, a line for each level and channel; complete volumes alone have it."""

UNBUILT = "unbuilt.json"
"""Box of level 0 over which the coarse levels are still to be built; there is none where they are built."""

INVENTORY = "stored"
"""Chunks of the input that were stored when the job began, see `volumetool.jobs.records.inventory`."""

STATES = "maps/state"
"""States of all regions as an array on the region grid, for views."""

PARTS = "parts"
"""A folder for each part of a job that is run in parts: its driver keeps there what the driver of a whole job keeps above."""

CUT = "parts/cut.json"
"""How the job is cut into parts; there is none where a whole job is run."""

WATCH = "watch"
"""Records of a watch that has not ended, see `volumetool.acquisition.state`."""

MODE = 0o700
_ROOT = 0


@dataclass(frozen=True)
class JobDir:
    """Where the job of an output keeps its records.

    Parameters
    ----------
    output : str
        Path or URL of the output.
    """

    output: str

    @cached_property
    def place(self) -> str:
        """The output: an absolute path or a URL."""
        return canonical_url(self.output)

    @cached_property
    def url(self) -> str:
        """The directory, beside the output."""
        return self.place.rstrip("/") + ".job"


def roles_of(asked: Job | str) -> tuple[Role, ...]:
    """Return what the places of a job, or of an output alone, are."""
    job = None if isinstance(asked, str) else asked
    output = asked if isinstance(asked, str) else asked.output
    named = [] if job is None else [Role(job.input, "the input"), *([Role(job.second, "the mask")] if job.second else [])]
    if not output:
        return tuple(named)
    folder = f"{output.rstrip('/')}.job"
    beside = [] if job is None or job.trust is None else [Role(job.trust, "the trust volume", OutputError, "output")]
    return (*named, output_role(output), *beside, Role(folder, "the job's folder", LedgerError, "ledger"))


def claim_folder(url: str) -> None:
    """Create a job's folder for this user alone, or make sure that the one that is there is this user's own.

    Folders in object stores are the business of their permissions.

    Raises
    ------
    OutputError
        ``output.exists``: a file stands there. ``output.not-yours``: the folder, or a link in its place, belongs to another
        user. ``output.unwritable``.
    """
    if not is_local(url):
        return
    folder = local_path(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(MODE)
    except FileExistsError:
        _check_owner(folder)
        refuse_file(url)
    except OSError as error:
        raise unwritable(str(folder), error) from error


def refuse_file(url: str) -> None:
    """Refuse a file, or a dangling link, at the place of a job's folder.

    Raises
    ------
    OutputError
        ``output.exists``.
    """
    if not is_local(url):
        return
    folder = local_path(url)
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise OutputError(
            "output.exists",
            f"{url} is no folder; the job's folder has to stand there",
            hint="move it away, or choose another output",
            where=url,
        )


def _check_owner(folder: Path) -> None:
    own = os.geteuid()
    owners = {folder.lstat().st_uid, folder.stat().st_uid} if folder.exists() else {folder.lstat().st_uid}
    foreign = owners - {own, _ROOT}
    # Some network file systems show every file as another user's: what is created there now tells.
    if foreign and foreign != {_owner_of_new(folder.parent)}:
        raise OutputError(
            "output.not-yours",
            f"{folder} stands there already and belongs to user {min(foreign)}; you are user {own}",
            hint="a job goes on for who began it: choose another output, or take the folder over with chown",
            where=str(folder),
        )


def _owner_of_new(parent: Path) -> int:
    try:
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".volumetool-") as probe:
            return os.fstat(probe.fileno()).st_uid
    except OSError:
        return os.geteuid()
