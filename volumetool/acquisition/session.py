"""The course of a watch that has begun: sections land, steps are enhanced, gaps are told."""

from __future__ import annotations

import time
from collections.abc import Callable

from volumetool.acquisition.config import SessionResult
from volumetool.acquisition.first_sections import unlike
from volumetool.acquisition.image_source import Section
from volumetool.acquisition.settings import fix, take_up
from volumetool.acquisition.state import SectionLedger, SessionHeader, write_header
from volumetool.acquisition.steps import Steps
from volumetool.acquisition.volumes import GrowingOutput, RawVolume
from volumetool.errors import ConfigError
from volumetool.events import Noted, Observer, SectionsReached, WatchStarted
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.processing.statistics import Statistics

GAP_SECONDS = 5.0
"""A number that is passed over is told after so long: files may land in any order."""

LATE = 8
"""Sections waiting to be enhanced from which a watch says that it is late; then again whenever twice as many wait."""


class Session:
    """A watch that has begun.

    Parameters
    ----------
    job : Job
        The job that the finished volume will be the output of; its input is the raw volume.
    begun : SessionHeader
        Settings that the watch was begun with.
    count : int, optional
        Sections in all, where that is known by now.
    given : Statistics, optional
        Statistics to use instead of fitting them.
    observer : Observer
        Is told what happens.
    """

    def __init__(self, job: Job, begun: SessionHeader, count: int | None, given: Statistics | None, observer: Observer) -> None:
        self.begun = begun.model_copy(update={"count": count})
        self._job, self._given, self._observer = job, given, observer
        self._folder = JobDir(job.output).url
        landed = SectionLedger(self._folder, "landed")
        _check_count(count, landed.stop)
        self.raw = RawVolume(job.input, self.begun, landed)
        self.raw.prepare()
        self._enhanced: GrowingOutput | None = None
        self._steps: Steps | None = None
        self._gaps = Gaps()
        self._late = LATE
        self._tried: set[int] = set()
        self._written = begun
        if begun.spec is not None or self._may_fix():
            self._fix()

    def land(self, section: Section) -> str | None:
        """Store a section, or say why it is not wanted."""
        z = section.number - self.begun.first
        if (why := unlike(section, self.begun)) is not None:
            return why
        if z in self.raw.tally:
            return f"section {section.number} is there already"
        self.raw.land(z, section.voxels)
        if self._enhanced is None and self._may_fix():
            self._fix()
        return None

    def enhance_next(self) -> bool:
        """Enhance the first step that can be; say whether there was one."""
        if self._enhanced is None or self._steps is None:
            return False
        open_steps = self._enhanced.tally.missing(-(-self.raw.tally.stop // self._steps.thick))
        ready = [step for step in open_steps if step not in self._tried and self._steps.can_begin(step, self.raw.tally)]
        if not ready:
            return False
        self._tried.add(ready[0])
        self._enhance(ready[0])
        self._tell_late(sum(len(self._steps.sections(step)) for step in ready[1:]))
        return True

    def _tell_late(self, waiting: int) -> None:
        """Tell that more and more sections wait; and that they no longer do."""
        if waiting >= self._late:
            self._late = 2 * waiting
            text = f"late: {waiting} sections have landed and wait to be enhanced. None is lost; --device cuda would be faster"
            self._observer(Noted(text))
        elif not waiting and self._late > LATE:
            self._late = LATE
            self._observer(Noted("no longer late: every section that can be is enhanced"))

    def end(self, count: int) -> None:
        """Set the number of sections in all: the last ones no longer wait for others."""
        self.begun = self.begun.model_copy(update={"count": count})
        if self._enhanced is not None:
            self._steps = Steps(self._enhanced.lattice, count)

    @property
    def count(self) -> int | None:
        """Sections in all, where that is known by now."""
        return self.begun.count

    @property
    def landed(self) -> frozenset[int]:
        """Numbers of the sections that have landed."""
        return frozenset(z + self.begun.first for z in range(self.raw.tally.stop) if z in self.raw.tally)

    @property
    def missing(self) -> list[int]:
        """Numbers of the sections that have not landed, up to the last one that has, or to the end where it is known."""
        return [z + self.begun.first for z in self.raw.tally.missing(self.count or self.raw.tally.stop)]

    def tell_gaps(self) -> None:
        """Tell the numbers that were passed over a while ago, each once."""
        passed = [z + self.begun.first for z in self.raw.tally.missing(self.raw.tally.stop)]
        if late := self._gaps.late(passed):
            self._observer(SectionsReached("missing", tuple(late)))

    @property
    def finished(self) -> bool:
        """Whether every section of a known number is enhanced."""
        if self.count is None or self._enhanced is None or self._steps is None:
            return False
        return not self._enhanced.tally.missing(-(-self.count // self._steps.thick))

    @property
    def stuck(self) -> bool:
        """Whether every section is there, and some cannot be enhanced; ask once nothing is left to enhance."""
        return self.count is not None and not self.missing and not self.finished

    def outcome(self, *, complete: bool = False) -> SessionResult:
        """Return how the watch stands."""
        if self._enhanced is None or self._steps is None:
            return SessionResult(complete, 0, tuple(self.missing))
        steps, tally = self._steps, self._enhanced.tally
        done = sum(len(steps.sections(step)) for step in range(tally.stop) if step in tally)
        failed = [z + self.begun.first for step in tally.failed for z in steps.sections(step)]
        return SessionResult(complete, done, tuple(self.missing), tuple(failed))

    @property
    def staged(self) -> GrowingOutput:
        """The volume that is enhanced so far."""
        assert self._enhanced is not None  # noqa: S101  (asked for once the volume is finished)
        return self._enhanced

    @property
    def newest(self) -> int | None:
        """Index along z of the last section that is enhanced; None where none is."""
        if self._enhanced is None or self._steps is None or not self._enhanced.tally.stop:
            return None
        return int(self._steps.sections(self._enhanced.tally.stop - 1)[-1])

    def _may_fix(self) -> bool:
        return all(z in self.raw.tally for z in self.begun.fitted)

    def _fix(self) -> None:
        if self.begun.spec is None:
            resolved, decided = fix(self._job, self._written, self._given)
            _check_end(resolved.inputs.operation.card.dims, self.begun)
            write_header(self._folder, decided)
            self.begun = decided.model_copy(update={"count": self.begun.count})
        else:
            resolved = take_up(self._job, self.begun, self.raw.depth)
        for note in resolved.notes:
            self._observer(Noted(f"warning: {note}"))
        self._enhanced = GrowingOutput(self._job.output, resolved, self.begun, SectionLedger(self._folder, "enhanced"))
        self._enhanced.prepare(self.raw.depth)
        self._steps = Steps(self._enhanced.lattice, self.count)
        fixed = self.begun.decided.statistics
        none = resolved.inputs.operation.card.normalisation.kind == "none"
        self._observer(
            WatchStarted(
                first=self.begun.first,
                fitted=tuple(z + self.begun.first for z in self.begun.fitted) if self._given is None else (),
                window=None if none else (float(fixed.low[0, 0]), float(fixed.high[0, 0])),
                landed=len(self.landed),
                enhanced=self.outcome().enhanced,
                z=self.newest,
            )
        )

    def _enhance(self, step: int) -> None:
        assert self._enhanced is not None  # noqa: S101  (the caller has looked)
        assert self._steps is not None  # noqa: S101
        places = self._steps.sections(step)
        numbers = tuple(z + self.begun.first for z in places)
        record = self._enhanced.enhance(self.raw, self._steps, step)
        if record.state == "failed":
            self._observer(SectionsReached("failed", numbers, error=record.error))
        else:
            self._observer(SectionsReached("enhanced", numbers, int(places[-1]), record.seconds))


def _check_end(dims: int, begun: SessionHeader) -> None:
    """Refuse a 3D model where the number of sections is open.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    if dims == 3 and begun.count is None:
        raise ConfigError(
            "config.option",
            "a 3D model needs --count: where its patches lie depends on how many sections there are",
            hint="say how many sections will come, or take a 2D model",
        )


def _check_count(count: int | None, landed: int) -> None:
    """Refuse a number of sections that has been passed.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    if count is not None and landed > count:
        raise ConfigError(
            "config.option",
            f"--count says {count} sections, and one that is number {landed} of them has landed",
            hint="give the number of all sections, or leave --count away to go on",
        )


class Gaps:
    """Remembers since when numbers are missing.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[int, float] = {}
        self._told: set[int] = set()

    def late(self, missing: list[int]) -> list[int]:
        """Return those that have been missing for `GAP_SECONDS`, each once."""
        now = self._clock()
        self._since = {number: self._since.get(number, now) for number in missing}
        late = [number for number, since in self._since.items() if now - since >= GAP_SECONDS and number not in self._told]
        self._told.update(late)
        return late
