"""Retries: whether an operation of the storage is tried again, when, for how long, and the error when it is given up.

The libraries below are told not to retry (`kvstore.shared_context`), so that every try is counted here. What
failed is judged by its code: trouble that passes is tried again after a pause drawn from a range that doubles (full jitter), a
bad read on a fresh handle, and what will not change (forbidden, not found, no space) at once ends with its error.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from volumetool.errors import OutputError, StorageFullError
from volumetool.redaction import redact
from volumetool.storage.io.urls import hint_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

Verdict = Literal["retry", "slow", "unreachable", "gone", "bad", "never"]
"""``slow``: the store asks for fewer requests. ``gone``: what was there is not. ``bad``: bytes that cannot be decoded, which
another handle may read right."""

TRIES: dict[Verdict, int] = {"retry": 10, "slow": 10, "unreachable": 10, "gone": 8, "bad": 3, "never": 1}
"""Tries of one operation, the first included."""

IMPATIENT_TRIES = 4
"""Tries at reaching a server that has not answered before: its name may be misspelt."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
DEADLINE = 120.0
"""Seconds after which no operation is tried again."""

BUDGET = 1000.0
"""Retries of a process; every success gives a part of one back. A storage that needs more is not stumbling, but down."""

REFUND = 0.1

CONCURRENCY = 16
"""Requests in flight at most, until a store asks for fewer."""

_HTTP = re.compile(r"\[HTTP code (\d+)\]")
_OS = re.compile(r"\[os_error_code='(\d+)'\]")
_SLOW = re.compile(r"SlowDown|Too Many Requests|RequestLimitExceeded|reduce your request rate", re.IGNORECASE)
_ANSWERED = re.compile(r"(?:\[HTTP code |http_response_code=')(\d+)")
_LASTING = re.compile(r"RequestTimeTooSkewed|http_response_code='(3\d\d|405)'|CREDENTIALS_PROVIDER_INVALID_ENVIRONMENT")
_UNREACHABLE = re.compile(r"could not (connect|resolve)|connection refused|name or service not known", re.IGNORECASE)
_BROKEN_LINE = re.compile(r"CURL error|connection (was )?(reset|closed|aborted)|timed? ?out|broken pipe", re.IGNORECASE)

# How file systems and object stores say that there is no room, or none for this user or file.
_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|ENOSPC|EDQUOT|EFBIG"
    r"|QuotaExceeded|StorageFull|InsufficientStorage|HTTP response code: 507"
)

_PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EPIPE, errno.ENOTCONN}
_PASSING |= {errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_STATUS: dict[str, Verdict] = {
    "UNAVAILABLE": "retry",
    "ABORTED": "retry",
    "DEADLINE_EXCEEDED": "retry",
    "INTERNAL": "retry",
    "DATA_LOSS": "bad",
    "FAILED_PRECONDITION": "bad",
    "UNKNOWN": "bad",
}


_OWN_ERROR = "INTERNAL: Python error"
"""How tensorstore tells an error of a reader that is Python code, where it has lost its words: the file is damaged."""


def judge(error: Exception) -> Verdict:
    """Return what kind of trouble an error of the storage is.

    Parameters
    ----------
    error : Exception
        From tensorstore, which names the HTTP or operating system code in its message, or from Python itself.
    """
    if isinstance(error, VanishedError):
        return "gone"
    text = str(error)
    if text.startswith(_OWN_ERROR) or _LASTING.search(text):
        return "never"
    if (code := _HTTP.search(text)) is not None:
        return judge_http(int(code[1]), text)
    if (code := _OS.search(text)) is not None:
        return "retry" if int(code[1]) in _PASSING else "never"
    if isinstance(error, OSError) and error.errno is not None:
        return "retry" if error.errno in _PASSING else "never"
    if _UNREACHABLE.search(text):
        return "unreachable"
    if isinstance(error, TimeoutError | ConnectionError) or _BROKEN_LINE.search(text):
        return "retry"
    if _SLOW.search(text):
        return "slow"
    decoding = text.startswith(("Error reading", "Error decoding"))
    return _STATUS.get(text.partition(":")[0], "bad" if decoding else "never")


def judge_http(code: int, text: str = "") -> Verdict:
    """Return what kind of trouble an HTTP status is; some stores say in words alone that they are asked too often."""
    if code in (429, 503) or (_SLOW.search(text) and code >= 400):
        return "slow"
    if code in (408, 409, 425) or (code >= 500 and code not in (501, 505, 507, 508, 511)):
        return "retry"
    return "never"


class VanishedError(OSError):
    """Something that was there when it was opened is gone: it was moved, deleted or unmounted, perhaps for a moment."""


class Throttle:
    """The number of requests that may be in flight: halved when a store asks for fewer, one more after each success.

    Parameters
    ----------
    most : int
        Where it begins, and what it never exceeds.
    """

    def __init__(self, most: int = CONCURRENCY) -> None:
        self.most = self.limit = most
        self._lock = threading.Lock()

    def slow_down(self) -> None:
        """Halve the requests in flight."""
        with self._lock:
            self.limit = max(1, self.limit // 2)

    def succeeded(self) -> None:
        """Allow one more request in flight."""
        if self.throttled:
            with self._lock:
                self.limit = min(self.most, self.limit + 1)

    @property
    def throttled(self) -> bool:
        """Whether fewer requests are allowed than at the beginning."""
        return self.limit < self.most


class Retries:
    """Tries operations of the storage until they succeed or must be given up.

    Parameters
    ----------
    clock, sleep, chance : callable
        A monotonic clock, how to wait, and where a number from 0 to 1 comes from.
    budget : float
        Retries that all operations together may take.

    Attributes
    ----------
    throttle : Throttle
        Told of every success and of every store that asks for fewer requests.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        budget: float = BUDGET,
    ) -> None:
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._most = self._left = budget
        self._lock = threading.Lock()
        self._answered: set[str] = set()
        self.throttle = Throttle()

    def call(self, operation: Callable[[int], T], *, patient: bool = True, server: str = "") -> T:
        """Try an operation that may be done twice.

        Parameters
        ----------
        operation : callable
            Told how often it was tried before; from the second time on it takes a fresh handle.
        patient : bool, default True
            Wait also for a server that does not answer at all.
        server : str, optional
            The server's name: once it has answered, it is waited for in any case.

        Raises
        ------
        ValueError, OSError
            The last failure, with a note of the tries. Other errors pass at once.
        """
        began, tried = self._clock(), 0
        while True:
            try:
                result = operation(tried)
            except NotImplementedError as error:  # how tensorstore tells HTTP's 501
                raise ValueError(str(error)) from error
            except (ValueError, OSError) as error:
                failure = error
            else:
                self._refund()
                if server:
                    self._answered.add(server)
                return result
            # Out of the except block: an error keeps everything alive that its frames hold.
            tried += 1
            pause = self._pause(judge(failure), tried, self._clock() - began, patient=patient or server in self._answered)
            if pause is None:
                if tried > 1:
                    failure.add_note(f"tried {tried} times in {self._clock() - began:.0f} s")
                raise failure
            _log.info("try %d in %.1f s, after: %s", tried + 1, pause, failure)
            self._sleep(pause)

    def _pause(self, verdict: Verdict, tried: int, passed: float, *, patient: bool) -> float | None:
        """Return how many seconds to wait before the next try, or None if there is none."""
        if verdict == "slow":
            self.throttle.slow_down()
        tries = IMPATIENT_TRIES if verdict == "unreachable" and not patient else TRIES[verdict]
        longest = 0.0 if verdict == "bad" and tried == 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1))
        least = 0.5 if verdict == "gone" else 0.0  # six seconds in all, whatever chance says
        pause = (least + (1 - least) * self._chance()) * longest
        if tried >= tries or passed + pause > DEADLINE:
            return None
        with self._lock:
            if self._left < 1:
                return None
            self._left -= 1
        return pause

    def _refund(self) -> None:
        self.throttle.succeeded()
        if self._left < self._most:
            with self._lock:
                self._left = min(self._most, self._left + REFUND)


STORAGE = Retries()
"""This process's: a job's workers have one each."""


def tried(error: Exception) -> str:
    """Return what `Retries.call` noted about a failure, in brackets; nothing where it was tried once."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f" ({notes})" if notes else ""


def unwritable(what: str, error: Exception, where: str | None = None) -> OutputError:
    """Return the error for what could not be written: ``output.full`` where there is no room, else ``output.unwritable``.

    Parameters
    ----------
    what : str
        What could not be written, for the message: a place, or a part of it.
    error : Exception
        What the storage said.
    where : str, optional
        The place; `what` itself by default.
    """
    where = where or what
    if is_full(error):
        return StorageFullError(
            "output.full",
            f"there is no room to write {what}: {brief(error)}",
            hint="make room there (space, quota, or the limit of a file's size) and run the same command again: "
            "what was finished is kept",
            where=where,
        )
    return OutputError(
        "output.unwritable", f"{what} cannot be written: {brief(error)}", hint=hint_of(where, error), where=where
    )


def is_full(error: Exception) -> bool:
    """Return whether a write failed because there is no room."""
    return _FULL.search(str(error)) is not None


def brief(error: Exception) -> str:
    """Return the first part of a tensorstore message, without the spec and source lines that it appends."""
    words = str(error).split(" [", 1)[0]
    if words.endswith(": Unknown") and (code := _ANSWERED.search(str(error))) is not None:
        words = f"the server answers with HTTP {code[1]}"
    return redact("the file cannot be decoded" if words.startswith(_OWN_ERROR) else words) + tried(error)
