"""Commands of this program that somebody waits for, and a spare process that has loaded what they need before they are known.

Loading takes longer than many a plan or preview. A spare process serves one command and ends, so that nothing of one account is
there when another's command runs; it holds no voxels and no names while it waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen

from volumetool.process import give_way, keep_within

AWAITED = 2
"""How far commands that somebody waits for stand behind the pages, as `nice` counts."""

IDLE_SECONDS = 600
"""A spare process that nobody needed for so long ends."""

_SURE = 0.9
"""Share of them after which it is not counted on."""


class SpareProcess:
    """At most one process that waits for its command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Popen[bytes] | None = None
        self.memory: int | None = None
        """Bytes that a process may have."""
        self._until = 0.0

    def get_ready(self) -> None:
        """Begin to load what commands need, because one will be asked for soon."""
        with self._lock:
            if self._fresh() is None:
                self._end()
                with suppress(OSError):  # then the command takes longer
                    self._waiting = self._start([sys.executable, "-m", "volumetool.cli._spare", str(IDLE_SECONDS)], stdin=PIPE)
                    self._until = time.monotonic() + _SURE * IDLE_SECONDS

    def end(self) -> None:
        """Let the process go that waits."""
        with self._lock:
            self._end()

    def run(self, command: list[str], seconds: float) -> CompletedProcess[bytes]:
        """Run a command of this program, in the process that waits if there is one.

        Parameters
        ----------
        command : list of str
            Interpreter, ``-m``, ``volumetool``, and the words after it; what begins otherwise gets a process of its own.
        seconds : float
            How long it may take.

        Raises
        ------
        subprocess.TimeoutExpired
            It was killed after that.
        """
        with self._lock:
            spare, self._waiting = (self._fresh(), None) if command[1:3] == ["-m", "volumetool"] else (None, self._waiting)
        if spare is not None:
            done = _finish(spare, json.dumps(command[3:]).encode() + b"\n", seconds)
            self.get_ready()  # whoever has seen one plan or preview often asks for another
            if done.stdout or done.returncode:
                return done  # else it ended before it read
        return _finish(self._start(command, stdin=DEVNULL), None, seconds)

    def _start(self, command: list[str], stdin: int) -> Popen[bytes]:
        process = Popen(command, stdin=stdin, stdout=PIPE, stderr=PIPE)  # noqa: S603  (this program, with options from a list)
        give_way(process.pid, AWAITED)
        if self.memory is not None:
            keep_within(process.pid, self.memory)
        return process

    def _fresh(self) -> Popen[bytes] | None:
        """Return the process that waits; None where it will end soon."""
        if self._waiting is None or self._waiting.poll() is not None or time.monotonic() > self._until:
            return None
        return self._waiting

    def _end(self) -> None:
        if self._waiting is not None:
            self._waiting.kill()  # it holds nothing
            self._waiting.communicate()
        self._waiting = None


def _finish(process: Popen[bytes], given: bytes | None, seconds: float) -> CompletedProcess[bytes]:
    try:
        said, complained = process.communicate(given, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return CompletedProcess(process.args, process.returncode, said, complained)
