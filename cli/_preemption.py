"""Being told to stop: what a cluster's scheduler sends before it takes the machine away."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

TRY_AGAIN = 75
"""Exit code that means "start me again": EX_TEMPFAIL of sysexits.h."""

GRACE_SECONDS = 8.0
"""A scheduler kills after ten, or more: what has not ended by then, such as a call of the network, is left behind."""

AGAIN_SECONDS = 0.02
"""After which a signal that was lost in a callback is raised again."""

SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Signals before a scheduler kills, some at the wish of a job, and of a closed terminal. Windows has only the first."""


class Stopped(BaseException):
    """The process was told to stop; like Ctrl-C it passes every handler of errors."""


_TERMINATED = ctypes.CFUNCTYPE(None)(lambda: os._exit(TRY_AGAIN))
"""What C++ calls where an exception ends the process; kept for as long as it may."""


def _end_where_it_cannot_pass() -> None:
    """Let C++ end this process with the right code where it cannot hand an exception on, such as in a destructor."""
    with suppress(OSError, AttributeError):  # another library of C++, or none
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(_TERMINATED)  # std::set_terminate


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` at the first signal to stop; a second one ends the process at once, and so does time.

    Nothing is lost either way: what was finished is on record within a second. A signal that is ignored stays so, as under
    ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread hear signals
        yield
        return
    told: Stopped | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if told is not None:
            os._exit(TRY_AGAIN)
        told = Stopped(signal.Signals(number).name)
        _end_where_it_cannot_pass()
        grace = threading.Timer(GRACE_SECONDS, os._exit, (TRY_AGAIN,))
        grace.daemon = True
        grace.start()
        raise told

    def once_more(ignored: sys.UnraisableHookArgs) -> None:
        """Ask again where a signal came inside a callback, such as of weak references, out of which Python raises nothing."""
        nonlocal told
        if not isinstance(ignored.exc_value, Stopped):
            unraisable(ignored)
            return
        told = None
        number, main = signal.Signals[str(ignored.exc_value)], threading.main_thread().ident
        again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, number))  # which wakes it, should it sleep
        again.daemon = True
        again.start()

    unraisable, sys.unraisablehook = sys.unraisablehook, once_more
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    except Exception as error:
        if told is not None:  # whatever was under way made this of it, such as a module of C++ that was being loaded
            raise told from error
        raise
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
