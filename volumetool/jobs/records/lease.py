"""Ownership: one run at a time writes a job.

The job's folder holds ``owner.json``: who writes, how often that run's heart has beaten, and a fencing number that grows with
every owner. It changes by compare-and-swap alone, so of several runs that start at once one wins. A run that finds an owner
watches its heart by its own clock, never comparing clocks of two machines: a beat means that the owner lives, none for
`LEASE_SECONDS` that it is dead. On the same machine a process is known at once to be dead or alive.

An owner that was stopped and wakes up too late cannot commit either: see `Ledger.begin`. Whatever else says how a job stands
is written after `confirm` alone.

The driver of a part of a job owns the part's folder in the same way. It owns the job, too, while it begins and ends: other
parts then wait for it, see `volumetool.jobs.records.parts`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from volumetool.errors import LedgerError, OutputError, VolumetoolError
from volumetool.events import Observer, Waiting, ignore
from volumetool.jobs.job_dir import LEASE, claim_folder
from volumetool.jobs.records.holder import Holder, decode_holder, encode_holder, held, lease_lost, new_holder
from volumetool.storage.io.kvstore import delete_key, is_local, list_keys, local_path, read_version, replace_key

BEAT_SECONDS = 5.0
LEASE_SECONDS = 30.0
"""An owner whose heart does not beat for so long is dead: time for a storage that stalls."""

TURN_SECONDS = 0.2
"""How often a part that waits for its turn looks."""

_claims: dict[str, Lease] = {}
"""By its folder, what this process owns."""


class Lease:
    """A run's hold on a job; its heart beats in a thread of its own.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    owner : Holder
        As it stands there.
    generation : bytes
        Generation of the file.
    """

    def __init__(self, url: str, owner: Holder, generation: bytes) -> None:
        self.url, self.owner = url, owner
        held.add(owner.run)
        _claims[url] = self
        self._generation: bytes | None = generation
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._heart = threading.Thread(target=self._beat_on, daemon=True, name="volumetool-heart")

    @property
    def lost(self) -> bool:
        """Whether another run took the job over."""
        return self._generation is None

    def check(self) -> None:
        """Make sure that no other run took the job over.

        Raises
        ------
        LedgerError
            ``ledger.overtaken``, or ``ledger.lost``: the job's folder is gone.
        """
        if self.lost:
            raise lease_lost(self.url)

    def beat(self) -> None:
        """Let the heart beat once; where another run is the owner by now, the claim is lost."""
        self._write(replace(self.owner, beat=self.owner.beat + 1))

    def check_conditions(self) -> None:
        """Make sure that the store refuses a write whose condition does not hold: otherwise two runs could write one job.

        Raises
        ------
        OutputError
            ``output.no-conditions``.
        """
        earlier = self._generation
        self.beat()
        late = encode_holder(replace(self.owner, beat=self.owner.beat + 1))
        if earlier is not None and not self.lost and replace_key(self.url, LEASE, late, earlier) is not None:
            raise OutputError(
                "output.no-conditions",
                f"the server of {self.url} takes no notice of the conditions of writes (If-Match), which keep two runs apart",
                hint="Use a server that heeds them, or write to a disk and copy.",
                where=self.url,
            )

    def start(self) -> None:
        """Let the heart beat from now on."""
        self._heart.start()

    def withdraw(self) -> None:
        """Take back that there is a job, where it never began: its folder goes, if it holds nothing but this claim."""
        self._stop_heart()
        with suppress(VolumetoolError):
            if not self.lost and list_keys(self.url) == [LEASE]:
                delete_key(self.url, LEASE)
                self._generation = None
                if is_local(self.url):
                    with suppress(OSError):
                        local_path(self.url).rmdir()

    def release(self) -> None:
        """Give the job up."""
        self._stop_heart()
        with suppress(VolumetoolError):  # who cannot say goodbye is found dead
            self._write(replace(self.owner, released=True))
        held.discard(self.owner.run)
        if _claims.get(self.url) is self:
            del _claims[self.url]

    def _stop_heart(self) -> None:
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join()

    def _write(self, owner: Holder) -> None:
        with self._lock:
            if self._generation is not None:
                self._generation = replace_key(self.url, LEASE, encode_holder(owner), self._generation) or _stored_by(
                    self.url, owner
                )
                self.owner = owner

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self.lost:
            try:
                self.beat()
            except VolumetoolError:
                continue  # a storage that stumbles may be back for the next beat; others wait for a whole lease


def confirm(url: str) -> None:
    """Make sure, by a heartbeat, that the run that writes below a folder owns it still; to be called right before the write.

    A process that stood still has not noticed yet that another run took the job over.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder or of one in it, such as that of a part. Where this process owns neither it nor a
        folder above it, nobody can have taken it over, and nothing happens.

    Raises
    ------
    LedgerError
        ``ledger.overtaken``, or ``ledger.lost``: the folder is gone.
    OutputError
        ``output.unwritable``.
    """
    above = [folder for folder in list(_claims) if f"{url}/".startswith(f"{folder}/")]
    if above:
        claim = _claims[max(above, key=len)]
        claim.beat()
        claim.check()


@contextmanager
def own(url: str, observer: Observer = ignore, doing: str = "") -> Iterator[Lease]:
    """Own a job, or a part of it, for as long as the context lasts.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    observer : Observer, optional
        Told why it takes a while.
    doing : str, optional
        Of the driver of a part: for what it owns the job. It waits while another part's driver does.

    Raises
    ------
    LedgerError
        ``ledger.owned``: another run writes this job, and lives.
    OutputError
        ``output.not-yours``: the folder belongs to another user. ``output.no-conditions``: the server lets a second run write.
    """
    claim_folder(url)
    claim = acquire(url, observer, doing=doing)
    try:
        if not is_local(url):
            claim.check_conditions()
        claim.start()
        yield claim
    finally:
        claim.release()


def acquire(
    url: str,
    observer: Observer = ignore,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    doing: str = "",
) -> Lease:
    """Become a job's owner, if need be after watching the earlier owner for the time of a lease.

    Parameters
    ----------
    url, observer, doing
        As for :func:`own`.
    clock, sleep : callable
        This machine's monotonic clock, and how to wait.

    Raises
    ------
    LedgerError
        ``ledger.owned``.
    """
    while True:  # again where somebody else was faster
        found, generation = await_free(url, observer, clock, sleep, doing)
        if (claim := take(url, found, generation, doing)) is not None:
            return claim


def take(url: str, found: Holder | None, generation: bytes, doing: str = "") -> Lease | None:
    """Become the owner of what nobody owns; None where somebody else was faster.

    Parameters
    ----------
    url, doing
        As for :func:`own`.
    found : Holder, optional
        The last owner.
    generation : bytes
        Generation of the file that says so.
    """
    owner = new_holder(1 if found is None else found.fence + 1, doing)
    taken = replace_key(url, LEASE, encode_holder(owner), generation) or _stored_by(url, owner)
    return None if taken is None else Lease(url, owner, taken)


def await_free(
    url: str,
    observer: Observer = ignore,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    doing: str = "",
) -> tuple[Holder | None, bytes]:
    """Wait until nobody owns a job: an owner that is not known to live is watched for the time of a lease.

    Parameters
    ----------
    url, observer, clock, sleep, doing
        As for :func:`acquire`.

    Returns
    -------
    found : Holder or None
        The last owner.
    generation : bytes
        Generation of the file that says so.

    Raises
    ------
    LedgerError
        ``ledger.owned``.
    """
    watched, since = None, clock()
    while True:
        raw, generation = read_version(url, LEASE)
        found = None if raw is None else decode_holder(raw, url)
        lives = None if found is None or found.released else found.lives()
        free = found is None or found.released or lives is False
        if not free and watched is not None and clock() - since >= LEASE_SECONDS:
            free = found == watched
        if free:
            return found, generation
        assert found is not None  # noqa: S101  (else it were free)
        soon = bool(doing and found.doing)  # parts begin and end one after the other
        if lives and not soon:
            raise _owned(url, found)
        if watched is None or (soon and found != watched):
            if watched is None and not lives:
                again = f"{found.identity} was writing this job; looking for {LEASE_SECONDS:.0f} s whether it still does"
                observer(Waiting(again))
            watched, since = found, clock()
        elif found != watched:
            raise _owned(url, found)
        sleep(TURN_SECONDS if soon else BEAT_SECONDS / 5)


def _stored_by(url: str, owner: Holder) -> bytes | None:
    """Return the file's generation if it is that run's: a write may take effect and yet be reported as failed."""
    raw, generation = read_version(url, LEASE)
    return generation if raw is not None and decode_holder(raw, url).run == owner.run else None


def _owned(url: str, owner: Holder) -> LedgerError:
    return LedgerError(
        "ledger.owned",
        f"{url} is being written by another run: {owner.identity}",
        hint="wait for it, or stop it and run again; `volumetool status` shows how far it is",
        where=url,
    )
