"""Who writes a job: what ``owner.json`` in its folder says, and the errors of a run that does not own it any more."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from dataclasses import asdict, dataclass

from volumetool.errors import LedgerError
from volumetool.jobs.job_dir import LEASE
from volumetool.process import Process, this_process
from volumetool.sealed import decode, encode
from volumetool.storage.io.kvstore import read_version

held: set[str] = set()
"""The runs of this process that own a job."""


@dataclass(frozen=True)
class Holder:
    """The process that writes a job.

    Attributes
    ----------
    run : str
        Values that hold for this run alone.
    fence : int
        Grows by one with every owner.
    beat : int
        Heartbeats so far.
    released : bool
        The run ended and gave the job up.
    user, host : str
        User and machine of the process.
    place, pid, born
        Its process, as :class:`volumetool.process.Process` tells it from others.
    doing : str
        For what it owns the folder, where that is less than running the whole job: ``part 2/4``.
    """

    run: str
    fence: int
    beat: int
    released: bool
    user: str
    host: str
    place: str
    pid: int
    born: float
    doing: str = ""

    @property
    def identity(self) -> str:
        """The owner in words."""
        return f"{self.user}@{self.host}, process {self.pid}" + (f" ({self.doing})" if self.doing else "")

    def lives(self) -> bool | None:
        """Return whether the owner's process still runs; None where that cannot be told from here."""
        if self.pid == os.getpid() and self.run not in held and self.place == this_process().place:
            return False  # this process's own, which it could not give up
        return Process(self.place, self.pid, self.born).lives()


def current_holder(url: str) -> Holder | None:
    """Return the owner of a job, None where it has none; the owner may have died without notice."""
    raw, _ = read_version(url, LEASE)
    found = None if raw is None else decode_holder(raw, url)
    return None if found is None or found.released or found.lives() is False else found


def writing_run(url: str) -> str | None:
    """Return the run that writes a job, as far as it has not given it up."""
    raw, _ = read_version(url, LEASE)
    found = None if raw is None else decode_holder(raw, url)
    return None if found is None or found.released else found.run


def lease_lost(url: str) -> LedgerError:
    """Return the error of a run that no longer owns its job: another one took it over, or its folder is gone."""
    return gone(url, f"{LEASE} is missing") if read_version(url, LEASE)[0] is None else overtaken(url)


def new_holder(fence: int, doing: str) -> Holder:
    """Return this process as the owner of a folder, for a new run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = str(os.getuid())
    return Holder(
        run=uuid.uuid4().hex,
        fence=fence,
        beat=0,
        released=False,
        user=user,
        host=socket.gethostname(),
        **asdict(this_process()),
        doing=doing,
    )


def encode_holder(owner: Holder) -> bytes:
    """Return what ``owner.json`` holds."""
    return encode(asdict(owner))


def decode_holder(raw: bytes, url: str) -> Holder:
    """Return the owner that the ``owner.json`` of a folder names.

    Raises
    ------
    LedgerError
        ``ledger.owner``: it is damaged.
    """
    try:
        return Holder(**decode(raw))
    except (ValueError, TypeError) as error:
        raise LedgerError(
            "ledger.owner",
            f"{url}/{LEASE} does not say who writes the job: {error}",
            hint="make sure that no run of this job is going on, then delete that file",
            where=url,
        ) from error


def overtaken(url: str) -> LedgerError:
    """Return the error of a run that is no longer the owner."""
    return LedgerError(
        "ledger.overtaken",
        f"another run took over {url} while this one stood still",
        hint="nothing is lost: that run goes on with what this one recorded",
        where=url,
    )


def gone(url: str, what: str) -> LedgerError:
    """Return the error of a run whose job's folder was taken away, or a part of it.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    what : str
        What is no longer there.
    """
    return LedgerError(
        "ledger.lost",
        f"{url} was changed by somebody else while this run wrote the job: {what}",
        hint="nothing says any more which regions are done: bring the folder back from a backup, or delete it and let "
        f"`volumetool verify {url.removesuffix('.job')} --adopt` make a new one; then run the same command again",
        where=url,
    )
