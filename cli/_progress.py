"""Progress of commands on stderr: bars on a terminal, else one plain line a minute or one JSON line an event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from volumetool.cli._json import to_json
from volumetool.cli._tables import SCREEN, USUAL, say, warn

from volumetool.events import Event, Noted, Observer, Progressed, SectionRefused, StepTrained
from volumetool.events.bars import COUNTS, Lines, as_line, can_draw, progress

LogFormat = Literal["auto", "json"]


@contextmanager
def observing(log_format: LogFormat = "auto") -> Iterator[Observer]:
    """Yield an observer that suits stderr; what it drew stays on the screen."""
    as_json = log_format == "json"
    if as_json or SCREEN.level != USUAL or not can_draw():
        counts = () if SCREEN.level < USUAL else (Progressed, StepTrained) if as_json else COUNTS
        yield Lines(partial(_write, as_json=as_json), counts)
        return
    with progress() as bars:
        yield bars


def event_facts(event: Event) -> dict[str, Any]:
    """Return an event for programs: Unix time, the name of its type, and what it holds."""
    facts = {name: value for name, value in asdict(event).items() if value not in (None, {})}
    return {"time": round(time.time(), 3), "event": type(event).__name__, **facts}


def _write(event: Event, *, as_json: bool) -> None:
    tell = warn if isinstance(event, Noted | SectionRefused) or getattr(event, "error", None) else say
    tell(to_json("event", event_facts(event)) if as_json else as_line(event))
