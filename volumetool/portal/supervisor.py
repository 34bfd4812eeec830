"""Runs the jobs of the queue, as processes of their own that outlive the portal; their ledgers say how far they are."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from volumetool.errors import InputError, OutputError, VolumetoolError
from volumetool.jobs.inspection import status
from volumetool.jobs.status import Status
from volumetool.machine import usable_memory
from volumetool.portal.facility import slurm
from volumetool.portal.facility.slurm import SlurmQueue
from volumetool.portal.pools import Turns
from volumetool.portal.problems import in_words
from volumetool.portal.queries import (
    ALIVE,
    CANCELLED,
    COMPLETE,
    FAILED,
    QUEUED,
    RUNNING,
    STOPPING,
    Database,
    now,
)
from volumetool.portal.settings import PortalSettings
from volumetool.portal.spare import SpareProcess
from volumetool.portal.tables import PortalJob
from volumetool.process import Process, give_way, keep_within, process_of

_log = logging.getLogger(__name__)

OUTPUT = "output.zarr"
LOG, RESULT = "log.txt", "result.json"
"""In a job's folder: what it wrote, what it said, and its last word."""

PAGES = ("preview", "report")
"""Pages about a job that take a while to make: what models make of the volume, and how the job went."""

READY, IN_WORK = "ready", "in work"
"""States of a page."""

ATTEMPTS = 5
"""A job that was killed or told to stop so often is not started any more by itself."""

LONGEST_REASON = 4096
"""Characters of a reason that the database takes."""

NO_WORD = "It may have needed more memory than the portal gives to one process. Try a part of the volume, or ask the operator."

AGAIN = (75, 130)
"""Exit codes of a job that was told to stop: it goes on when it is started again."""

BACKGROUND = 10
"""How far jobs stand behind pages and previews, as `nice` counts: they take what those leave."""

MEMORY_SHARE = 0.75
"""Share of the memory that is free when the portal starts, which each process that it starts may have."""

POLL_SECONDS = 1.0
_PLAN_SECONDS, _PAGE_SECONDS = 120, 900
_SPARE = SpareProcess()


class Supervisor:
    """Starts jobs whose turn it is, and writes down how they ended.

    Parameters
    ----------
    database : Database
        The queue.
    settings : PortalSettings
        Where jobs are, and how many run at once.
    """

    def __init__(self, database: Database, settings: PortalSettings) -> None:
        self._database = database
        self._settings = settings
        self._slurm = None if settings.slurm is None else SlurmQueue(settings.slurm)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._memory = _SPARE.memory = settings.memory or int(MEMORY_SHARE * usable_memory())
        self._drawing = Turns()
        self._drawn: dict[Path, str] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="volumetool-supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        _SPARE.end()
        for child in self._children.values():
            if child.poll() is None:
                child.returncode = 0  # it outlives the portal: nobody waits for it any more

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                self.turn()
            except Exception:  # noqa: BLE001  (a full disk or a locked database passes; without this thread no job would start)
                _log.exception("jobs could not be looked after; this is tried again")
            self._ending.wait(POLL_SECONDS)

    def turn(self) -> None:
        """Look after the jobs that run, and start those for which there is room."""
        running = 0
        for job in self._database.alive():
            running += self._still_runs(job)
        while running < self._settings.running and (waiting := self._database.next_job()) is not None:
            running += self._start(waiting)

    def folder(self, job: str) -> Path:
        """Return the folder of a job."""
        return self._settings.data / "jobs" / job

    def stop(self, job: PortalJob) -> None:
        """Tell a job to stop, or take it out of the queue; what is finished is kept."""
        if self._database.change(job.id, (QUEUED,), state=CANCELLED, ended=now()):
            return
        if self._database.change(job.id, (RUNNING,), state=STOPPING) and (process := _process(job)) and process.lives():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        if self._slurm is not None:
            self._slurm.look_again()

    def remove(self, job: str) -> bool:
        """Forget a job that has no process, and delete what it wrote."""
        if not self._database.remove(job):
            return False
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder(job))
        return True

    def status(self, job: str) -> Status | None:
        """Return how far a job is, from its own folder; None before there is one."""
        with suppress(InputError, OutputError):
            return status(self.folder(job) / OUTPUT)
        return None

    def get_ready(self) -> None:
        """Begin to load what plans and previews need, because one will be asked for soon."""
        _SPARE.get_ready()

    def draw(self, job: PortalJob, page: str) -> None:
        """Have one of `PAGES` made; nothing happens where it is being made."""
        file = self.page(job.id, page)
        if page == "preview":
            command = preview_command(job.options, job.input, file)
        else:
            command = [*_volumetool("status", {}), f"--report={file}", "--json", "--", str(self.folder(job.id) / OUTPUT)]
        self.draw_page(file, command, job.account_id)

    def drawn(self, job: str, page: str) -> str:
        """Return the state of a page about a job; see `drawn_page`."""
        return self.drawn_page(self.page(job, page))

    def page(self, job: str, page: str) -> Path:
        """Return the file of a page, whether it is there or not."""
        return self.folder(job) / f"{page}.html"

    def draw_page(self, file: Path, command: list[str], account: int) -> None:
        """Have a page made by a command, one at a time, accounts by turns; nothing happens where it is being made.

        Parameters
        ----------
        file : Path
            The page.
        command : list of str
            Makes it.
        account : int
            Whose page it is.
        """
        if self.drawn_page(file) != IN_WORK:
            self._drawn[file] = IN_WORK
            with suppress(OSError):  # the command says so
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            threading.Thread(target=self._draw, args=(file, command, account), name="volumetool-page", daemon=True).start()

    def drawn_page(self, file: Path) -> str:
        """Return `READY`, `IN_WORK`, nothing where nobody asked for a page, or why it could not be made."""
        return self._drawn.get(file) or (READY if file.exists() else "")

    def _draw(self, file: Path, command: list[str], account: int) -> None:
        try:
            with self._drawing.take(account):  # a folder that was removed meanwhile stays away: the command makes none
                _told(command, _PAGE_SECONDS)
            self._drawn[file] = READY
        except VolumetoolError as error:
            self._drawn[file] = in_words(error.message, error.hint)
        except (OSError, ValueError) as error:
            self._drawn[file] = str(error)

    def _start(self, job: PortalJob) -> bool:
        if not self._database.change(job.id, (QUEUED,), state=RUNNING, attempts=job.attempts + 1, began=now(), process=None):
            return False
        try:
            child = self._spawn(job)
        except OSError as error:
            reason = f"It could not be started: {error}. Ask the operator, then start it again."
            self._database.change(job.id, ALIVE, state=FAILED, reason=reason, ended=now())
            return False
        self._children[job.id] = child
        give_way(child.pid, BACKGROUND)
        if self._slurm is None:  # at a site its own limits count, and sbatch would hand on this one
            keep_within(child.pid, self._memory)
        process = process_of(child.pid)
        self._database.change(job.id, ALIVE, process=None if process is None else json.dumps(asdict(process)))
        return True

    def _spawn(self, job: PortalJob) -> subprocess.Popen[bytes]:
        folder = self.folder(job.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / RESULT).open("wb") as result, (folder / LOG).open("ab") as log:
            return subprocess.Popen(  # noqa: S603  (this program, with options from a list)
                self._command(job, folder / OUTPUT),
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=log,
                cwd=folder,
                start_new_session=True,  # Ctrl-C ends the portal, not its jobs
            )

    def _command(self, job: PortalJob, output: Path) -> list[str]:
        if self._slurm is None:
            return _enhance(job.input, output, job.options)
        self._slurm.look_again()
        return self._slurm.command(job.input, output, _options(job.options))

    def _still_runs(self, job: PortalJob) -> bool:
        if (child := self._children.get(job.id)) is not None and child.poll() is not None:
            del self._children[job.id]
        if (process := _process(job)) is not None and process.lives():
            if job.state == STOPPING:  # the portal may have ended between the two
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
            return True
        if child is not None and child.poll() is None:
            return True
        if self._slurm is not None and self._slurm.holds(output := self.folder(job.id) / OUTPUT):
            if job.state == STOPPING:
                self._slurm.cancel(output)
            return True
        self._end(job)
        return False

    def _end(self, job: PortalJob) -> None:
        word = _last_word(self.folder(job.id) / RESULT)
        if word.get("kind") == "slurm-script":
            word = slurm.last_word(self.folder(job.id) / OUTPUT)
        stopped = word.get("kind") == "error" and word.get("exit_code") in AGAIN
        if word.get("kind") == "run" and word["complete"]:
            state, reason = COMPLETE, None
        elif word.get("kind") == "run":
            state, reason = FAILED, f"{word['failed']} of {word['regions']} regions failed. Start it again to try them again."
        elif word.get("kind") == "error" and not stopped:
            state, reason = FAILED, in_words(word["error"]["message"], word["error"]["hint"])
        elif job.state == STOPPING:
            state, reason = CANCELLED, None
        elif job.attempts < ATTEMPTS:
            state, reason = QUEUED, None  # told to stop by somebody else, or killed: it goes on where it was
        else:
            state, reason = FAILED, f"It ended {job.attempts} times before it was done; see its log. Start it again to go on."
        reason = reason and reason.replace(job.input, job.volume)
        ended = {"queued": now()} if state == QUEUED else {"ended": now(), "untold": state != CANCELLED}
        self._database.change(job.id, ALIVE, state=state, reason=reason and reason[:LONGEST_REASON], process=None, **ended)


def plan_job(input: str, options: dict[str, Any], output: Path) -> dict[str, Any]:  # noqa: A002
    """Return the plan of a job as the command line prints it: nothing is written.

    Parameters
    ----------
    input : str
        Path of the volume to read.
    options : dict
        Options of the job, by name.
    output : Path
        Where its output will be.

    Raises
    ------
    VolumetoolError
        Whatever is wrong with input or options, as the job itself would say it.
    """
    return _told(_enhance(input, output, options, "--dry-run"), _PLAN_SECONDS)


def preview_command(options: dict[str, Any], input: str, file: Path) -> list[str]:  # noqa: A002
    """Return the command that makes the page of what models make of a volume: all that fit, where none is chosen.

    Parameters
    ----------
    options : dict
        Options of a job, by name.
    input : str
        Path of the volume to read.
    file : Path
        The page.
    """
    chosen = {name: value for name, value in options.items() if (name, value) != ("model", "auto")}
    return [*_volumetool("try", chosen), "--json", "--", input, str(file)]


def log_of(folder: Path, most: int = 16_384) -> str:
    """Return the end of what a job said."""
    elements = sorted(folder.glob(slurm.LOGS), key=lambda file: file.stat().st_mtime)
    try:
        with (elements[-1] if elements else folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read(most).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _enhance(input: str, output: Path, options: dict[str, Any], *flags: str) -> list[str]:  # noqa: A002
    """Return the command of a job. Places stand behind the options: none of them is read as one."""
    return [*_volumetool("enhance", options), *flags, "--json", "--", input, str(output)]


def _volumetool(command: str, options: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "volumetool", command, *_options(options)]


def _options(options: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in sorted(options.items())]


def _told(command: list[str], seconds: int) -> dict[str, Any]:
    """Return what a command prints as JSON.

    Raises
    ------
    VolumetoolError
        ``input.slow``: it takes too long; or what the command says.
    """
    try:
        done = _SPARE.run(command, seconds)
    except subprocess.TimeoutExpired as late:
        raise InputError(
            "input.slow", f"the volume could not be looked at within {seconds} s", hint="try again later, or ask the operator"
        ) from late
    told: dict[str, Any] = json.loads(done.stdout or "{}")
    if done.returncode != 0:
        error = told.get("error", {"code": "input.unknown", "message": "volumetool ended without saying why", "hint": NO_WORD})
        raise VolumetoolError(error["code"], error["message"], hint=error.get("hint", ""))
    return told


def _process(job: PortalJob) -> Process | None:
    return None if job.process is None else Process(**json.loads(job.process))


def _last_word(file: Path) -> dict[str, Any]:
    """Return what a job printed at its end; nothing where it was killed before."""
    try:
        told: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return told
