"""Processes that die where a test wants them to.

A clean process imports the libraries once, before any of them starts a thread, and forks for each run: so a run costs as
much as the job itself.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from volumetool import errors
from volumetool.errors import ClusterError, ConfigError, VolumetoolError
from volumetool.testing.disk import DiskEvent, DiskFault, arm, hits, library, read_events

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Libraries that start threads when they are imported could not be forked."""

LIMIT_SECONDS = 300.0
"""A run that takes longer hangs."""


class Raised(Exception):  # noqa: N818  (it stands for what was raised elsewhere)
    """An exception of a function that is neither volumetool's own error nor the system's: its type and its words."""


@dataclass(frozen=True)
class Ended:
    """The result of a run.

    Attributes
    ----------
    code : int
        0 where the function returned, 1 where it raised; minus a signal's number where one ended the process.
    value : object
        What the function returned, as JSON holds it; None where it did not.
    error : Exception or None
        Error that the function raised: volumetool's and the system's as they were, any other as :class:`Raised`.
    text : str
        What the process printed, with the traceback of an error.
    events : tuple of DiskEvent
        What the process did to the watched folder.
    hits : int
        Number of operations that went wrong; not known of a process that was killed.
    before : dict of str to int
        The inodes of what was in the watched folder before, by path; empty without `keep`.
    graves : Path or None
        Folder with the bytes of replaced and deleted files, named by inode.
    """

    code: int
    value: Any = None
    error: Exception | None = None
    text: str = ""
    events: tuple[DiskEvent, ...] = ()
    hits: int = 0
    before: dict[str, int] = field(default_factory=dict)
    graves: Path | None = None

    @property
    def killed(self) -> bool:
        """Whether the process was killed."""
        return self.code == -signal.SIGKILL


@dataclass(frozen=True)
class _Order:
    """An order of the parent to the forking process."""

    task: str
    arguments: tuple[Any, ...]
    folder: Path
    root: Path | None
    fault: DiskFault
    keep: bool
    kill_after: float | None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), default=os.fspath).encode()

    @classmethod
    def from_json(cls, text: bytes) -> _Order:
        told = json.loads(text)
        fault = DiskFault(**told["fault"] | {"kinds": tuple(told["fault"]["kinds"])})
        root = None if told["root"] is None else Path(told["root"])
        return cls(
            **told | {"arguments": tuple(told["arguments"]), "folder": Path(told["folder"]), "root": root, "fault": fault}
        )


class CrashRunner:
    """Runs functions in processes of their own, on a disk that fails as told.

    Parameters
    ----------
    modules : sequence of str
        Modules to import once. They are found as in the calling process, and must start no thread when imported.
    environment : dict, optional
        Variables for these processes beside the caller's own.

    Raises
    ------
    ResourceError
        ``resource.no-compiler``: see :func:`volumetool.testing.can_fail`.
    ClusterError
        ``cluster.forking``: the forking process does not start.
    """

    def __init__(self, modules: Sequence[str] = (), environment: dict[str, str] | None = None) -> None:
        here, there = os.pipe(), os.pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="volumetool-crash-")
        paths = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
        variables = {**_ONE_THREAD, **os.environ, **(environment or {}), "LD_PRELOAD": str(library()), "PYTHONPATH": paths}
        command = [sys.executable, "-m", "volumetool.testing", str(here[0]), str(there[1]), *modules]
        self._process = subprocess.Popen(command, env=variables, pass_fds=(here[0], there[1]))  # noqa: S603
        for end in (here[0], there[1]):
            os.close(end)
        self._send, self._receive = Connection(here[1], readable=False), Connection(there[0], writable=False)
        self._numbers = iter(range(sys.maxsize))
        if (ready := self._answer()) != "ready":
            raise ClusterError("cluster.forking", f"the process that forks says: {ready}", hint="see its message above")

    def __enter__(self) -> CrashRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._send.close()
        self._process.wait()
        self._receive.close()
        self._folder.cleanup()

    def run(
        self,
        task: str,
        *arguments: Any,
        root: Path | str | None = None,
        fault: DiskFault | None = None,
        keep: bool = False,
        kill_after: float | None = None,
    ) -> Ended:
        """Call a function in a fresh process.

        Parameters
        ----------
        task : str
            ``"module:function"``.
        *arguments : object
            Arguments and result must be what JSON holds: numbers, text, lists, dicts. Paths become text.
        root : Path, optional
            The folder whose operations are counted and go wrong; without it none are.
        fault : DiskFault, optional
            Fault of the disk; by default none.
        keep : bool
            Keep the bytes of files that are replaced or deleted, for :func:`volumetool.testing.lose_power`.
        kill_after : float, optional
            Kill the process after so many seconds.

        Raises
        ------
        ClusterError
            ``cluster.forking``: the forking process is gone.
        ConfigError
            ``config.other-disk``: bytes cannot be kept.
        """
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        (folder / "graves").mkdir()
        absolute = None if root is None else Path(root).absolute()
        before = inodes(absolute) if keep and absolute is not None else {}
        if keep and absolute is not None and absolute.stat().st_dev != folder.stat().st_dev:
            raise ConfigError(
                "config.other-disk",
                f"bytes are kept by links, which do not reach from {absolute} to {folder} on another file system",
                hint="watch a folder below the system's temporary one, or set TMPDIR to a folder beside it",
            )
        order = _Order(task, arguments, folder, absolute, fault or DiskFault(), keep, kill_after)
        self._send.send_bytes(order.to_json())
        code = self._answer()
        for name in ("text", "events"):  # a process may be killed before it opens them
            (folder / name).touch()
        result, text = folder / "result", (folder / "text").read_text()
        value, error, hits = json.loads(result.read_text()) if result.exists() else (None, None, 0)
        graves = folder / "graves" if keep else None
        return Ended(code, value, _error(error), text, read_events(folder / "events"), hits, before, graves)

    def _answer(self) -> Any:
        try:
            return json.loads(self._receive.recv_bytes())
        except EOFError:
            code = self._process.wait()
            raise ClusterError(
                "cluster.forking", f"the process that forks ended: {code}", hint="see its message above"
            ) from None


def inodes(root: Path) -> dict[str, int]:
    """Return the inodes of everything below a folder by path, which begins with a slash; folders have -1."""
    return {f"/{entry.relative_to(root)}": -1 if entry.is_dir() else entry.stat().st_ino for entry in root.rglob("*")}


def serve(receive: Connection, send: Connection, modules: Sequence[str]) -> None:
    """Import modules, and then fork for every order until the parent closes its end.

    Parameters
    ----------
    receive : Connection
        Orders come through it, as JSON.
    send : Connection
        Exit codes go through it, as JSON; first of all "ready", or why the process cannot fork.
    modules : sequence of str
        Names of modules to import before the first fork.
    """
    for name in modules:
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    send.send_bytes(json.dumps("ready" if threads == 1 else f"{threads} threads run after importing; it cannot fork").encode())
    while True:
        try:
            order = _Order.from_json(receive.recv_bytes())
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            receive.close()
            send.close()
            _obey(order)
        send.send_bytes(json.dumps(_wait(child, order.kill_after)).encode())


def _wait(child: int, kill_after: float | None) -> int:
    """Return how a child ended; one that takes too long is killed."""
    deadline = time.monotonic() + (LIMIT_SECONDS if kill_after is None else kill_after)
    pause = 0.0005
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(0.01, pause * 1.2)


def _obey(order: _Order) -> None:
    """Call the function, leave its result in the folder, and end the process."""
    code = 1
    try:
        _redirect(order.folder / "text")
        events = os.open(order.folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        module, _, name = order.task.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        if order.root is not None:
            arm(order.fault, order.root, order.folder / "graves" if order.keep else None, events)
        value, error = "null", None
        try:
            value, code = json.dumps(function(*order.arguments)), 0
        except BaseException as raised:  # noqa: BLE001  (it is handed on)
            traceback.print_exc()
            error = _told(raised)
        fresh = order.folder / "result.new"
        fresh.write_text(f"[{value}, {json.dumps(error)}, {hits()}]")
        fresh.replace(order.folder / "result")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _told(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON holds it, for :func:`_error`."""
    if isinstance(error, VolumetoolError):
        return {"kind": type(error).__name__, **error.as_dict()}
    if isinstance(error, OSError) and error.errno is not None:
        return {
            "errno": error.errno,
            "message": error.strerror,
            "where": None if error.filename is None else str(error.filename),
        }
    return {"message": f"{type(error).__name__}: {error}"}


def _error(told: dict[str, Any] | None) -> Exception | None:
    if told is None:
        return None
    if "kind" in told:
        kind: type[VolumetoolError] = getattr(errors, told["kind"])
        return kind(told["code"], told["message"], hint=told.get("hint", ""), where=told.get("where"))
    if "errno" in told:
        return OSError(told["errno"], told["message"], told["where"])
    return Raised(told["message"])


def _redirect(file: Path) -> None:
    text = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(text, stream)
