"""Progress on stderr: bars on a terminal, else one plain line a minute or one JSON line an event."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from volumetool.cli._json import to_json
from volumetool.cli._tables import NARROW, SCREEN, USUAL, say, warn

from volumetool.events import (
    CurvePoint,
    Event,
    Noted,
    Observer,
    Progressed,
    RegionEnded,
    RunStarted,
    SectionRefused,
    StepTrained,
)
from volumetool.redaction import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_log = logging.getLogger(__name__)

LogFormat = Literal["auto", "json"]
LINE_SECONDS = 60.0
SHORT = 100_000
"""Steps of a part below which their number says more than the percentage; voxels are more."""


@contextmanager
def observing(log_format: LogFormat = "auto") -> Iterator[Observer]:
    """Yield an observer that suits stderr; what it drew stays on the screen."""
    if log_format == "json" or SCREEN.level != USUAL or not can_draw():
        yield Lines(as_json=log_format == "json")
        return
    with closing(Bars()) as bars:
        yield bars


def event_facts(event: Event) -> dict[str, Any]:
    """Return an event for programs: Unix time, the name of its type, and what it holds."""
    facts = {name: value for name, value in asdict(event).items() if value not in (None, {})}
    return {"time": round(time.time(), 3), "event": type(event).__name__, **facts}


class Lines:
    """Writes an event a line; those that only count are written once a minute, and where a part of the work begins.

    Parameters
    ----------
    as_json : bool
        Write a line of JSON per event.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json, self._said = as_json, time.monotonic()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        now = time.monotonic()
        if self._can_wait(event) and now - self._said < LINE_SECONDS:
            _log.debug("%s", event)
            return
        self._said = now
        tell = warn if isinstance(event, Noted | SectionRefused) or getattr(event, "error", None) else say
        tell(to_json("event", event_facts(event)) if self._json else f"{time.strftime('%H:%M:%S')} {event}")

    def _can_wait(self, event: Event) -> bool:
        """Return whether an event only counts, so that a later one says as much; with ``-v`` none can."""
        if SCREEN.level < USUAL:
            return False
        match event:
            case Progressed():
                return event.done > 0
            case RegionEnded():
                return not (event.error or self._json)
            case CurvePoint():
                return not self._json
            case _:
                return isinstance(event, StepTrained)


class Bars:
    """Draws a bar of rich for whatever is counted, and prints all else above.

    Nothing is made before the first event, so that it can be sent to the process that works.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._quality = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        _log.debug("%s", event)
        match event:
            case RunStarted():
                if event.link:
                    self._print(f"dashboard: {event.link}")
                self._move("regions", 0, event.todo)
            case RegionEnded():
                if event.error:
                    self._print(str(event))
                self._move("regions", event.done, event.total, event.rate)
            case Progressed():
                self._move(event.what, event.done, event.total)
            case StepTrained():
                self._move("training", event.step, event.steps, f"loss {event.loss:.3f} {self._quality}")
                if event.step == event.steps:  # nobody closes it in the process of another device
                    self.close()
            case CurvePoint():
                self._quality = event.quality
            case _:
                self._print(str(event))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if "_bars" in vars(self):
            self._bars.stop()

    @cached_property
    def _bars(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def _move(self, what: str, done: int, total: int, note: str = "") -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, completed=done, total=total, note="")
            self._bars.start()
        counts = f"{done}/{total} " if total < SHORT else ""
        self._bars.update(self._tasks[what], completed=done, total=total, note=f"{counts}{note}")

    def _print(self, text: str) -> None:
        self._bars.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def can_draw() -> bool:
    """Return whether bars can be drawn on stderr: it is a terminal, wide enough, and moves its cursor."""
    wide = shutil.get_terminal_size().columns >= NARROW
    return wide and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
