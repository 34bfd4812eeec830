"""A job's folder belongs to the user who runs the job.

Its plan and ledger decide what a run believes: whoever may write them may have regions skipped, or other bytes taken for
patches that were computed. On a machine that many share, a folder that is there before the job may be somebody else's trap.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from volumetool.errors import OutputError
from volumetool.store.kvstore import is_local, local_path, unwritable

MODE = 0o700
_ROOT = 0


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
    """Refuse a file, or a link to nothing, where a job's folder has to stand.

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
