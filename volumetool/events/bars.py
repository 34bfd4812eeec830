"""Progress as people see it: bars in a terminal and in a notebook, elsewhere a line a minute."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from volumetool.events import (
    CurvePoint,
    Event,
    Observer,
    Progressed,
    RegionEnded,
    RunStarted,
    StepTrained,
)
from volumetool.redaction import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

LINE_SECONDS = 60.0
NARROW = 70
"""Columns of a terminal below which nothing is laid out side by side: it would be cut off."""

SHORT = 100_000
"""Steps of a part below which their number says more than the percentage; voxels are more."""

COUNTS: tuple[type[Event], ...] = (Progressed, RegionEnded, CurvePoint, StepTrained)
"""Events that only count, so that a later one says as much."""


@contextmanager
def progress() -> Iterator[Observer]:
    """Yield an observer that shows how far the work is: by bars in a terminal or a notebook, elsewhere by a line a minute.

    Lines go to stderr, and what was drawn stays. In a notebook every function that takes an observer shows bars by itself,
    unless it is given one; `volumetool.events.ignore` shows nothing.

    Examples
    --------
    >>> with vt.progress() as observer:  # doctest: +SKIP
    ...     vt.enhance("raw.zarr", "out.zarr", observer=observer)
    """
    if not can_draw():
        yield Lines(_print_line)
        return
    with closing(Bars()) as bars:
        yield bars


def shown_in_notebooks(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that shows its progress if a notebook calls it without an observer."""
    takes = inspect.signature(function)
    if "observer" not in takes.parameters:
        return function

    @functools.wraps(function)
    def call(*given: P.args, **options: P.kwargs) -> T:
        if not in_notebook() or "observer" in takes.bind_partial(*given, **options).arguments:
            return function(*given, **options)
        with progress() as observer:
            options["observer"] = observer
            return function(*given, **options)

    return call


def in_notebook() -> bool:
    """Return whether it is a notebook that runs this code."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def can_draw() -> bool:
    """Return whether bars can be drawn: in a notebook with ipywidgets, or on a terminal that is wide and moves its cursor."""
    if in_notebook():
        return find_spec("ipywidgets") is not None
    wide = shutil.get_terminal_size().columns >= NARROW
    return wide and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def as_line(event: Event) -> str:
    """Return an event as a line for people, with the time of day."""
    return f"{time.strftime('%H:%M:%S')} {event}"


def _print_line(event: Event) -> None:
    sys.stderr.write(f"{printable(as_line(event))}\n")
    sys.stderr.flush()


class Lines:
    """Writes an event a line; those that only count are written once a minute, and where a part of the work begins.

    Parameters
    ----------
    write : callable
        Writes an event.
    counts : tuple of type
        The events that only count.
    """

    def __init__(self, write: Callable[[Event], None], counts: tuple[type[Event], ...] = COUNTS) -> None:
        self._write, self._counts, self._said = write, counts, time.monotonic()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        now = time.monotonic()
        if self._can_wait(event) and now - self._said < LINE_SECONDS:
            _log.debug("%s", event)
            return
        self._said = now
        self._write(event)

    def _can_wait(self, event: Event) -> bool:
        """Return whether an event only counts: it is no failure, and not the beginning of a part."""
        begins = isinstance(event, Progressed) and not event.done
        return isinstance(event, self._counts) and not begins and not getattr(event, "error", None)


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
            self._bars.refresh()  # which in a notebook `stop` does not
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
