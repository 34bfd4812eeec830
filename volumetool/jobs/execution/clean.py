"""Cleaning: leftovers of killed writers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from volumetool.events import Observer, ignore
from volumetool.jobs.job_dir import LEASE, PATCHES, roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.parts import own_job
from volumetool.jobs.records.volumes import volumes_of
from volumetool.storage.io.kvstore import delete_prefix, is_local, join_url, list_keys, local_path
from volumetool.storage.io.roles import name_roles

LEFTOVER = ".__lock"
"""How tensorstore's file driver ends the names of files that it is still writing; a finished write renames them away."""

STRAY_SECONDS = 60.0
"""Age from which a temporary file is taken for left behind: one shard is written in seconds."""


@dataclass(frozen=True)
class Cleaned:
    """The result of cleaning.

    Attributes
    ----------
    removed : tuple of str
        Places that are gone.
    left : tuple of str
        Temporary files that may still be in use, being younger than `STRAY_SECONDS` or of another user, or that the
        system did not let go of.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


def clean_output(plan: Plan, observer: Observer = ignore) -> Cleaned:
    """Remove the kept patches of a job, and temporary files that killed writers left in its output and folder.

    Object stores hold no temporary files.

    Parameters
    ----------
    plan : Plan
        The job's stored plan.
    observer : Observer, optional
        Told by `Waiting` of a run that may write this job still.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a run writes this job, and those may be its files.
    """
    folder = plan.job_dir.url
    with name_roles(*roles_of(plan.job)), own_job(folder, observer):
        kept = [join_url(folder, key) for key in list_keys(folder, PATCHES + "/")]
        delete_kept(plan)
        swept = [sweep(url, folder) for url in (*(volume.url for volume in volumes_of(plan)), folder)]
    removed = (*kept, *(file for each in swept for file in each.removed))
    return Cleaned(removed, tuple(file for each in swept for file in each.left))


def sweep(url: str, folder: str) -> Cleaned:
    """Remove the temporary files of dead writers below a place.

    A writer that lives takes the temporary file of a dead one over; what is left is of keys that are never written again.

    Parameters
    ----------
    url : str
        The place; nothing happens in an object store.
    folder : str
        The job's folder, which this run owns: its owner's file was written just now, by the clock that the files' own times
        are of.
    """
    if not is_local(url):
        return Cleaned((), ())
    now = (local_path(folder) / LEASE).stat().st_mtime
    removed: list[str] = []
    left: list[str] = []
    for file in sorted(local_path(url).rglob(f"*{LEFTOVER}")):
        try:
            found = file.stat()
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if now - found.st_mtime >= STRAY_SECONDS and mine:
                file.unlink()
                removed.append(str(file))
            elif file != local_path(folder) / f"{LEASE}{LEFTOVER}":
                left.append(str(file))
        except FileNotFoundError:  # the heart beats on: its own file comes and goes
            continue
        except OSError:  # it stands in nobody's way
            left.append(str(file))
    return Cleaned(tuple(removed), tuple(left))


def delete_kept(plan: Plan) -> None:
    """Delete all patches that were kept for regions to come."""
    delete_prefix(join_url(plan.run_dir, PATCHES))
