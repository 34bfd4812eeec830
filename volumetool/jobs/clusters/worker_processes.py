"""Worker processes of this machine, kept alive: what ends is replaced, and what the scheduler gave up is ended first.

dask's nannies give a process up for good that dies as it begins, and may then never end themselves: a job would wait for ever.

A process reads one line of JSON and works for the scheduler that it names. It ends when its parent does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed.security import Security

from volumetool.jobs.clusters.dask_servers import closing
from volumetool.processing.device.malloc import environment

GIVEN_UP = 30
"""Looks after which a process that the scheduler knows no more is ended: it may be waking up from a pause."""

LATE = 300
"""Looks that a process may take to begin."""


# Ctrl-C is for the driver, which then ends its workers; it may come while they import.
PROGRAM = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from {__name__} import main; main()"


@dataclass
class _Process:
    """One worker process.

    Attributes
    ----------
    name : str
        Name by which the scheduler knows it.
    popen : subprocess.Popen
        The process.
    known : bool
        The scheduler has known it.
    unseen : int
        Looks since then, or since it began, at which the scheduler did not know it.
    """

    name: str
    popen: subprocess.Popen[str]
    known: bool = False
    unseen: int = 0

    def look(self, known: bool) -> bool:  # noqa: FBT001  (what the scheduler says)
        """Return whether it works, or may still begin to."""
        self.known |= known
        self.unseen = 0 if known else self.unseen + 1
        return self.popen.poll() is None and self.unseen < (GIVEN_UP if self.known else LATE)

    def end(self) -> None:
        """End the process, which may be in the middle of a region: that is begun again."""
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdin is not None  # noqa: S101  (a pipe was asked for)
        with suppress(BrokenPipeError):  # what it had not read yet
            self.popen.stdin.close()


class Processes:
    """Keeps a number of worker processes at work for a scheduler on this machine.

    They begin before there is a scheduler: what they import takes seconds.

    Parameters
    ----------
    count : int
        Number of worker processes to keep at work.
    folder : Path
        Where they put what they need while they run; they delete it where this process was killed.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self._count, self._folder = count, folder
        self._asked: dict[str, Any] | None = None
        self._begun = 0
        self._processes: list[_Process] = []

    def __enter__(self) -> Processes:
        self._processes = [self._begin() for _ in range(self._count)]
        return self

    @contextmanager
    def working_for(self, scheduler: str, security: Security) -> Iterator[None]:
        """Let the processes work, and end them before their scheduler goes.

        Parameters
        ----------
        scheduler : str
            Address of the scheduler.
        security : distributed.security.Security
            With certificate and key of a worker, as text.
        """
        keys = {name: getattr(security, name) for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key")}
        self._asked = {"scheduler": scheduler, "security": keys, "folder": str(self._folder)}
        for process in self._processes:
            self._ask(process)
        try:
            yield
        finally:
            self._end()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.end()

    def look(self, known: Collection[str]) -> int:
        """Replace processes that ended, and those that hang.

        Parameters
        ----------
        known : collection of str
            Names of the workers that the scheduler knows.

        Returns
        -------
        int
            Processes that were replaced and that the scheduler never knew.
        """
        strangers = 0
        for number, process in enumerate(self._processes):
            if not process.look(process.name in known):
                process.end()
                strangers += not process.known
                self._processes[number] = self._begin()
        return strangers

    def _begin(self) -> _Process:
        popen = subprocess.Popen(  # noqa: S603  (our own)
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=2,  # what libraries print belongs to the log
            text=True,
            env=os.environ | environment(),
        )
        process = _Process(f"volumetool-{self._begun}", popen)
        self._begun += 1
        if self._asked is not None:
            self._ask(process)
        return process

    def _ask(self, process: _Process) -> None:
        assert process.popen.stdin is not None  # noqa: S101  (a pipe was asked for)
        with suppress(BrokenPipeError):  # it has ended, and is replaced with the next look
            process.popen.stdin.write(json.dumps({**(self._asked or {}), "name": process.name}) + "\n")
            process.popen.stdin.flush()


def main() -> None:
    """Work for the scheduler that standard input names."""
    if not (asked := sys.stdin.readline()):
        return  # the parent has ended meanwhile
    work = json.loads(asked)
    threading.Thread(target=_end_with_parent, args=[work["folder"]], daemon=True).start()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_work(work))


async def _work(asked: dict[str, Any]) -> None:
    import dask
    from distributed import Worker

    # The profiler looks at the stacks of a network that wants every core, 100 times a second.
    with dask.config.set({"distributed.worker.profile.enabled": False, **closing()}):
        worker = Worker(
            asked["scheduler"],
            name=asked["name"],
            nthreads=1,
            memory_limit=0,  # the plan bounds memory, and a worker that dask pauses would only be slower
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=asked["folder"],
            security=Security(require_encryption=True, **asked["security"]),
        )
        async with worker:
            await worker.finished()


def _end_with_parent(folder: str) -> None:
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)  # a parent that was killed could not
    os._exit(1)
