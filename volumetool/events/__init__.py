"""What happens while a job, a conversion, a training or a watch is at work: frozen records, told to one observer.

An observer is any function of one event. It is called in the thread that works, which waits for it; an exception of it ends the
work, as Ctrl-C does. The text of an event is a sentence for people, so `print` is an observer:

>>> vt.enhance("volume.zarr", "enhanced.zarr", observer=print)  # doctest: +SKIP

and one of one's own looks at the types that it knows:

>>> def tell_failures(event: Event) -> None:
...     if isinstance(event, RegionEnded) and event.error:
...         print(event.region, event.error["message"])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from volumetool.units import show_duration, show_sections


@dataclass(frozen=True)
class Event:
    """Something that happened; all others derive from it."""


Observer = Callable[[Event], None]
"""A function that is called with every event, in order."""


def ignore(_event: Event) -> None:
    """Observe nothing."""


@dataclass(frozen=True)
class Waiting(Event):
    """The work does not begin, or go on, yet.

    Attributes
    ----------
    reason : str
        What the work waits for.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Noted(Event):
    """Something that a user should know: a warning, or that a watch falls behind.

    Attributes
    ----------
    text : str
        The message.
    """

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Progressed(Event):
    """A part of the work went on; told with `done` 0 when it begins.

    Attributes
    ----------
    what : str
        The part, such as ``coarse levels``.
    done, total : int
        Steps made and steps in all; a step is a section, a shard or a voxel, as the part counts.
    """

    what: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.what}: {self.done / max(1, self.total):.1%}"


@dataclass(frozen=True)
class RunStarted(Event):
    """The regions of a job begin to run.

    Attributes
    ----------
    todo, regions : int
        Regions to run now, and of the whole job.
    link : str, optional
        Address of the cluster's dashboard.
    """

    todo: int
    regions: int
    link: str | None = None

    def __str__(self) -> str:
        dashboard = "" if self.link is None else f"; dashboard: {self.link}"
        return f"{self.todo} of {self.regions} regions to run{dashboard}"


@dataclass(frozen=True)
class RegionEnded(Event):
    """A region of a job was finished, or failed; its record is in the ledger.

    Attributes
    ----------
    region : int
        Index in the job's region grid.
    error : dict
        Code, message and hint of a failure; empty where the region is finished.
    worker : str
        Host and process of the worker.
    seconds : float
        Time spent on the region, in seconds.
    done, total : int
        Regions that this run has ended, failed ones among them, and regions that it runs.
    voxels : int
        Output voxels that this run has finished.
    elapsed : float
        Seconds since the regions began to run.
    """

    region: int
    error: dict[str, str]
    worker: str
    seconds: float
    done: int
    total: int
    voxels: int
    elapsed: float

    def __str__(self) -> str:
        if self.error:
            return f"region {self.region} failed: {self.error.get('message', '')}"
        left = show_duration(self.elapsed / self.done * (self.total - self.done))
        return f"{self.done} of {self.total} regions, {self.rate}, {left} left"

    @property
    def rate(self) -> str:
        """Voxels a second, in words."""
        return f"{self.voxels / max(self.elapsed, 1e-3) / 1e6:.2f} Mvox/s"


@dataclass(frozen=True)
class StepTrained(Event):
    """A training made a step of its optimiser.

    Attributes
    ----------
    step, steps : int
        Steps made, and in all.
    loss : float
        Loss of this step's batch.
    """

    step: int
    steps: int
    loss: float

    def __str__(self) -> str:
        return f"step {self.step} of {self.steps}, loss {self.loss:.3f}"


@dataclass(frozen=True)
class CurvePoint(Event):
    """A training was measured: a point of its curves.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    loss : float
        Mean of the training loss since the point before.
    psnr : float or None
        PSNR in dB of the running mean of the weights on the fixed validation batches; None without a validation part.
    enlarged : float or None
        PSNR in dB of linear enlargement on the same batches.
    seconds : float
        Seconds since the training began, without pauses.
    """

    step: int
    loss: float
    psnr: float | None
    enlarged: float | None
    seconds: float

    def __str__(self) -> str:
        return f"after step {self.step}: {self.quality or f'loss {self.loss:.3f}'}"

    @property
    def quality(self) -> str:
        """The quality on the validation part as text; empty without such a part."""
        return "" if self.psnr is None or self.enlarged is None else f"{self.psnr:.2f} dB, enlarged {self.enlarged:.2f}"


@dataclass(frozen=True)
class WatchStarted(Event):
    """A watch has the sections that it needs to enhance; or goes on where it was stopped.

    Attributes
    ----------
    first : int
        Number of the section at z = 0.
    fitted : tuple of int
        Numbers of the sections whose median statistics hold for all; empty where statistics were given.
    window : tuple of float, optional
        Black and white of the first section; None where the model takes none.
    landed, enhanced : int
        Sections that have landed and that are enhanced by now.
    z : int, optional
        Position along z of the last enhanced section.
    """

    first: int
    fitted: tuple[int, ...]
    window: tuple[float, float] | None
    landed: int
    enhanced: int
    z: int | None

    def __str__(self) -> str:
        source = f"the median of {show_sections(self.fitted)}" if self.fitted else "as given"
        window = (
            "none, as the model takes none" if self.window is None else f"{source}, {self.window[0]:g} to {self.window[1]:g}"
        )
        text = f"section {self.first} is at z = 0; statistics: {window}"
        return text + (f"; going on: {self.enhanced} of {self.landed} sections are enhanced" if self.enhanced else "")


@dataclass(frozen=True)
class SectionsReached(Event):
    """Sections of a watch reached a state.

    Attributes
    ----------
    state : {"landed", "missing", "enhanced", "failed"}
        Missing are those whose numbers were passed over a while ago; they may still come.
    sections : tuple of int
        Numbers of the sections.
    z : int, optional
        Position along z of the last of them, if they are enhanced.
    seconds : float
        Seconds that enhancing them took.
    error : dict
        Code, message and hint of a failure.
    """

    state: Literal["landed", "missing", "enhanced", "failed"]
    sections: tuple[int, ...]
    z: int | None = None
    seconds: float = 0.0
    error: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        named = show_sections(self.sections)
        if self.state == "missing":
            places = (
                "have not come yet; their places are kept" if len(self.sections) > 1 else "has not come yet; its place is kept"
            )
            return f"{named} {places}"
        if self.state == "failed":
            return f"{named} cannot be enhanced: {self.error.get('message')}"
        return f"{named} landed" if self.state == "landed" else f"{named} enhanced in {self.seconds:.2f} s"


@dataclass(frozen=True)
class SectionRefused(Event):
    """A file or a section of a watch is not taken; it is looked at again once it has changed.

    Attributes
    ----------
    name, reason : str
        Name of the file or section, and why it is not taken.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} is not taken: {self.reason}"


def counting(observer: Observer, what: str, total: int, done: int = 0) -> Callable[[int], None]:
    """Return a function that is called with the steps that were made since, and tells how far a part of the work is.

    Parameters
    ----------
    observer : Observer
        Is told at once, if there is anything to do, and whenever the function is called.
    what : str
        Part of the work, such as ``coarse levels``.
    total, done : int
        Steps in all, and those that an earlier run made.
    """

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        observer(Progressed(what, done, total))

    if total:
        count(0)
    return count
