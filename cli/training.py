"""What a training says while it runs: bars on a terminal, else one plain line a minute or one JSON line a point."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from volumetool.cli._progress import LINE_SECONDS, LogFormat, suiting
from volumetool.cli.tables import say

if TYPE_CHECKING:
    from volumetool.training.checkpoint import Point
    from volumetool.training.fit import Watcher


class Lines:
    """Plain lines, at most one a minute, or a JSON line for every point of the curves.

    Parameters
    ----------
    as_json : bool
        Write JSON lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._said = time.monotonic()

    def stepped(self, step: int, steps: int, loss: float) -> None:
        """Return where the training is, once a minute."""
        if not self._json and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            say(f"{time.strftime('%H:%M:%S')} step {step} of {steps}, loss {loss:.3f}")

    def measured(self, point: Point) -> None:
        """Write the point."""
        if self._json:
            say(json.dumps({"time": round(time.time(), 3), "event": "point", **vars(point)}))


class Bars:
    """A bar of rich on a terminal; made at the first step, in the process that trains."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._quality = ""

    def stepped(self, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        if self._bars is None:
            self._bars = _bar()
            self._task = self._bars.add_task("training", total=steps, completed=step - 1, loss="", quality="")
            self._bars.start()
        self._bars.update(self._task, completed=step, loss=f"loss {loss:.3f}", quality=self._quality)
        if step == steps:
            self.close()

    def measured(self, point: Point) -> None:
        """Show what the validation part says."""
        if point.psnr is not None and point.enlarged is not None:
            self._quality = f"{point.psnr:.2f} dB, enlarged {point.enlarged:.2f}"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()


def following(log_format: LogFormat) -> AbstractContextManager[Watcher]:
    """Give the watcher of a training that suits stderr."""
    return suiting(log_format, Lines, Bars)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[quality]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
