"""One writer at a time: whoever writes regions and records of a job holds its lock.

The lock is the operating system's, on a file in the job's folder: it ends with its process, however that ends. Object stores
have none.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.errors import LedgerError, OutputError
from volumetool.store.kvstore import is_local, local_path

LOCK = "lock"


@contextmanager
def sole_writer(url: str) -> Iterator[None]:
    """Hold the lock of a job's folder while the block runs.

    Parameters
    ----------
    url : str
        The job's folder; it is made where it is missing.

    Raises
    ------
    LedgerError
        ``ledger.busy``: another process writes this job.
    """
    if not is_local(url):
        yield
        return
    path = local_path(url) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OutputError(
            "output.unwritable",
            f"{path} cannot be written: {error}",
            hint="Check permission, and free space.",
            where=str(path),
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LedgerError(
                "ledger.busy",
                f"{url} is being written by {file.read().strip() or 'another process'}",
                hint="wait until it has ended, or end it; what it finished is kept",
                where=url,
            ) from error
        file.truncate(0)
        file.write(f"{socket.gethostname()}:{os.getpid()}\n")
        file.flush()
        yield
