"""Progress on stderr: bars on a terminal, else one plain line a minute or one JSON line an event."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from volumetool.cli.tables import NARROW, say

from volumetool.redaction import printable

if TYPE_CHECKING:
    from volumetool.jobs.ledger import Record
    from volumetool.jobs.plan import Plan
    from volumetool.jobs.run import Watcher

LogFormat = Literal["auto", "json"]
LINE_SECONDS = 60.0


class Lines:
    """Plain lines, at most one a minute, or JSON lines, one per event.

    Parameters
    ----------
    as_json : bool
        Write JSON lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._todo = self._done = self._failed = 0
        self._voxels = 0
        self._plan: Plan | None = None
        self._began = self._said = time.monotonic()

    def waiting(self, reason: str) -> None:
        """Say why it does not begin yet."""
        self._say("waiting", force=True, reason=reason)

    def started(self, plan: Plan, todo: int, link: str | None) -> None:
        """Note what is to do."""
        self._plan, self._todo = plan, todo
        self._began = self._said = time.monotonic()
        self._say("started", force=True, regions=todo, of=plan.grid.count, dashboard=link)

    def recorded(self, record: Record) -> None:
        """Count a region."""
        assert self._plan is not None  # noqa: S101  (regions follow the start)
        if record.state == "failed":
            self._failed += 1
            self._say("failed", force=True, region=record.region, error=record.error.get("message"))
            return
        self._done += 1
        self._voxels += self._plan.grid.region(record.region).box.voxels
        seconds = time.monotonic() - self._began
        left = seconds / self._done * (self._todo - self._done)
        facts = {
            "done": self._done,
            "of": self._todo,
            "mvox_per_s": round(self._voxels / seconds / 1e6, 2),
            "seconds_left": round(left),
        }
        self._say("progress", force=self._json, region=record.region, **facts)

    def finishing(self, shards: int) -> None:
        """Say that the last pass begins."""
        self._say("finishing", force=True, shards=shards)

    def stepped(self) -> None:
        """Say nothing of single shards."""

    def _say(self, event: str, *, force: bool, **facts: Any) -> None:
        now = time.monotonic()
        if not force and now - self._said < LINE_SECONDS:
            return
        self._said = now
        known = {name: value for name, value in facts.items() if value is not None}
        if self._json:
            line = json.dumps({"time": round(time.time(), 3), "event": event, **known})
        else:
            line = f"{time.strftime('%H:%M:%S')} {event} " + " ".join(f"{name}={value}" for name, value in known.items())
        say(line)


class Bars:
    """Bars of rich on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._plan: Plan | None = None
        self._voxels = 0
        self._began = time.monotonic()

    def waiting(self, reason: str) -> None:
        """Say why it does not begin yet."""
        self._print(reason)

    def started(self, plan: Plan, todo: int, link: str | None) -> None:
        """Show the bar of regions."""
        self._plan, self._began = plan, time.monotonic()
        if link:
            self._print(f"dashboard: {link}")
        self._regions = self._bars.add_task("regions", total=todo, rate="")
        self._bars.start()

    def recorded(self, record: Record) -> None:
        """Move the bar of regions."""
        assert self._plan is not None  # noqa: S101  (regions follow the start)
        if record.state == "failed":
            self._print(f"region {record.region} failed: {record.error.get('message', '')}")
        else:
            self._voxels += self._plan.grid.region(record.region).box.voxels
        rate = self._voxels / (time.monotonic() - self._began) / 1e6
        self._bars.update(self._regions, advance=1, rate=f"{rate:.1f} Mvox/s")

    def _print(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def finishing(self, shards: int) -> None:
        """Show the bar of the last pass."""
        self._coarse = self._bars.add_task("coarse levels", total=shards, rate="")
        self._bars.start()

    def stepped(self) -> None:
        """Move the bar of the last pass."""
        self._bars.advance(self._coarse)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()


def watching(log_format: LogFormat) -> AbstractContextManager[Watcher]:
    """Give the watcher of a job that suits stderr."""
    return suiting(log_format, Lines, Bars)


def can_draw() -> bool:
    """Say whether bars can be drawn on stderr: it is a terminal, wide enough, and moves its cursor."""
    wide = shutil.get_terminal_size().columns >= NARROW
    return wide and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def suiting(log_format: LogFormat, lines: Callable[..., Any], bars: Callable[[], Any]) -> Iterator[Any]:
    """Yield bars on a terminal, else lines, as JSON where that is asked for; bars are closed at the end."""
    if log_format == "json" or not can_draw():
        yield lines(as_json=log_format == "json")
        return
    with closing(bars()) as shown:
        yield shown


@contextmanager
def counting(label: str) -> Iterator[Any]:
    """Yield a function that is told (done, in all); it moves a bar on a terminal, elsewhere it prints a line a minute."""
    with counting_each(label) as (count,):
        yield count


@contextmanager
def counting_each(*labels: str) -> Iterator[list[Any]]:
    """Yield a function as that of `counting` for each of several things that follow each other."""
    if not can_draw():
        yield [_Share(label) for label in labels]
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        tasks = [bars.add_task(label, total=None) for label in labels]
        yield [lambda done, total, task=task: bars.update(task, completed=done, total=total) for task in tasks]


class _Share:
    """Says in plain lines what share is done, at most once a minute."""

    def __init__(self, label: str) -> None:
        self._label, self._said = label, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            say(f"{time.strftime('%H:%M:%S')} {self._label}: {done / max(1, total):.1%}")
