"""Watching: a folder in which sections appear becomes an enhanced volume, section by section."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from volumetool.acquisition.config import SessionResult, WatchConfig
from volumetool.acquisition.finalize import clear, compact, is_complete
from volumetool.acquisition.first_sections import begin, total_count, unlike
from volumetool.acquisition.image_source import Inbox, Section, TiffFolder
from volumetool.acquisition.session import Session
from volumetool.acquisition.settings import final_plan, given_statistics
from volumetool.acquisition.state import read_header, write_header
from volumetool.acquisition.volume_source import GrowingVolume, is_volume
from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.events import Noted, Observer, SectionsReached, Waiting
from volumetool.jobs.clusters import cluster_module
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.records.parts import own_job
from volumetool.processing.statistics import Statistics
from volumetool.storage.create import choose_format
from volumetool.storage.formats.base import read_json
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url, local_path, parent_url
from volumetool.storage.open import open_volume
from volumetool.storage.pyramid import build_pyramid
from volumetool.storage.writing.names import DEFAULT

Changes = Iterator[Sequence[str]]
"""Places that changed, whenever some did; from time to time none, so that what waits is looked at."""

LIST_SECONDS = 2.0
"""Seconds between two listings of all names: network file systems announce no changes."""

TICK_MS, QUIET_MS, LONGEST_MS = 100, 20, 200
"""Time between two looks at changes, pause after which changes are passed on, and the longest time that they are held back."""


def raw_place(folder: str, output: str) -> str:
    """Return where the raw volume of a watched folder is gathered: beside the output, under the folder's name."""
    name = PurePosixPath(canonical_url(folder)).name
    return join_url(parent_url(canonical_url(output))[0], f"{name.removesuffix('.zarr')}-raw.zarr")


def default_output(folder: str) -> str:
    """Return the output of a watched folder where none is named: beside it."""
    return f"{canonical_url(folder).removesuffix('.zarr')}-enhanced.zarr"


def changes_in(folder: Path, *, deep: bool = False) -> Changes:
    """Yield what changes in a folder, and with `deep` in the folders below it, for ever."""
    from watchfiles import watch as changes

    ticks = changes(
        folder,
        watch_filter=None,
        step=QUIET_MS,
        debounce=LONGEST_MS,
        rust_timeout=TICK_MS,
        yield_on_timeout=True,
        recursive=deep,
    )
    for some in ticks:
        yield [place for _, place in some]


def watch(job: Job, asked: WatchConfig, observer: Observer, changes: Changes | None = None) -> SessionResult:
    """Enhance sections as they land, until the volume is finished.

    Parameters
    ----------
    job : Job
        The job; its input is the folder, its output the volume to write.
    asked : WatchConfig
        How sections are counted, and when the watch ends.
    observer : Observer
        Is called in the thread of the watch with `Waiting`, `WatchStarted`, `SectionsReached`, `SectionRefused`, `Noted`,
        and `Progressed` while the finished volume is written.
    changes : iterator of sequence of str, optional
        Changes to use instead of those of the folder.

    Raises
    ------
    VolumetoolError
        ``input.*``, ``output.*``, ``config.*``, ``model.*``: it cannot be begun. ``ledger.owned``: another run writes the
        output. Whatever ended it, the same call goes on.
    """
    cluster_module(job.cluster)
    _refuse_unfit(job)
    folder, raw = _folder(job.input), raw_place(job.input, job.output)
    inner = job.model_copy(update={"input": raw})

    _refuse_foreign(inner)
    with own_job(JobDir(job.output).url, observer):
        if is_complete(job.output):
            clear(job.output)
            return SessionResult(complete=True, enhanced=open_volume(raw).shape[0])
        inbox: Inbox = TiffFolder(folder, asked.settle, observer)
        if deep := is_volume(job.input):
            inbox = GrowingVolume(job.input, asked.settle, observer, job.voxel_size)
            asked = replace(asked, first=asked.first or 0)
        loop = _Loop(inner, asked, observer, inbox)
        return loop.run(changes or changes_in(folder, deep=deep))


class _Loop:
    """Looks, lands, enhances, and looks again."""

    def __init__(self, job: Job, asked: WatchConfig, observer: Observer, inbox: Inbox) -> None:
        self._job, self._asked, self._observer, self._inbox = job, asked, observer, inbox
        self._given: Statistics | None = given_statistics(job)
        self._gathered: list[Section] = []
        self._course: Session | None = None
        self._listed = -LIST_SECONDS
        self._moved = time.monotonic()
        begun = read_header(JobDir(job.output).url)
        rows = None if self._given is None else len(self._given.low[0])
        self._count = total_count(asked, rows, begun)
        if begun is not None:
            self._course = Session(job, begun, self._count, self._given, observer)
            self._inbox.pass_over(begun.pattern, self._course.landed)  # these files are not read again

    def run(self, changes: Changes) -> SessionResult:
        """Go on until the volume is finished, or nothing has come for as long as was asked."""
        busy = False
        for changed in changes:
            busy = self._look(changed, busy=busy)
            while self._course is not None and self._course.enhance_next():
                self._moved = time.monotonic()
                busy = self._look((), busy=True)
            if self._course is not None:
                self._course.tell_gaps()
                if self._course.finished:
                    return self._finish(self._course)
                if self._course.stuck:
                    return self._course.outcome()
            if self._idle(busy=busy) and (outcome := self._end()) is not None:
                return outcome
        raise AssertionError("changes never end")

    def _look(self, changed: Sequence[str], *, busy: bool) -> bool:
        """Read what has arrived; return whether something waits to stand still."""
        now = time.monotonic()
        if not changed and not busy and now - self._listed < LIST_SECONDS:
            return False
        self._listed = now
        busy = self._inbox.look(changed)
        while (section := self._inbox.take()) is not None:
            self._moved = time.monotonic()
            if (why := self._accept(section)) is not None:
                self._inbox.refuse(section, why)
        return busy

    def _accept(self, section: Section) -> str | None:
        """Store a section, or keep it until there are enough to begin with; return why it is refused, None where it is not."""
        why = self._unlike_gathered(section) if self._course is None else self._course.land(section)
        if why is not None:
            return why
        self._observer(SectionsReached("landed", (section.number,)))
        if self._course is None:
            self._gathered.append(section)
            if len(self._gathered) >= self._wanted:
                self._begin()
            else:
                still = f"enhancing begins once there are {self._wanted} sections, for the statistics (--fit-on)"
                self._observer(Waiting(still))
        return None

    @property
    def _wanted(self) -> int:
        """Sections to begin with."""
        return min(self._asked.fit_on, self._count or self._asked.fit_on)

    def _unlike_gathered(self, section: Section) -> str | None:
        first = self._asked.first or 0
        alike = begin(self._gathered[:1] or [section], self._job, replace(self._asked, first=first), None)
        if any(section.number == other.number for other in self._gathered):
            return f"section {section.number} is there already"
        return unlike(section, alike)

    def _begin(self) -> None:
        begun = begin(self._gathered, self._job, self._asked, self._count)
        beyond = [section for section in self._gathered if unlike(section, begun) is not None]
        for section in beyond:
            self._inbox.refuse(section, unlike(section, begun) or "")
            self._gathered.remove(section)
        if beyond:  # wait for others
            return
        write_header(JobDir(self._job.output).url, begun)
        self._course = Session(self._job, begun, self._count, self._given, self._observer)
        for section in sorted(self._gathered, key=lambda section: section.number):
            self._course.land(section)
        self._gathered = []

    def _idle(self, *, busy: bool) -> bool:
        idle = self._asked.idle
        return idle is not None and not busy and time.monotonic() - self._moved >= idle

    def _end(self) -> SessionResult | None:
        """End for want of new sections: the volume is finished where none is missing; None where there is more to do."""
        if self._course is None and self._gathered:
            self._begin()
            return None
        course = self._course
        if course is None:
            raise InputError(
                "input.no-sections",
                f"no section came to the watched folder within {self._asked.idle:g} s",
                hint="check the folder, or wait longer with --idle",
            )
        if course.missing:
            return course.outcome()
        if course.count is None:
            course.end(course.raw.tally.stop)
            return None
        return course.outcome()

    def _finish(self, course: Session) -> SessionResult:
        """Make an ordinary job's output of the growing volume."""
        count = course.count or 0
        self._observer(Noted(f"all {count} sections are enhanced; writing the volume's own shards"))
        outcome = course.outcome(complete=True)
        if len(open_volume(self._job.input).levels) == 1:
            build_pyramid(self._job.input, observer=self._observer)
        plan = final_plan(self._job, course.begun, count)
        compact(plan, course.staged.volume.open(), self._observer)
        return outcome


def _folder(place: str) -> Path:
    """Return a folder that can be watched.

    Raises
    ------
    InputError
        ``input.not-found``; ``input.not-local``.
    """
    path = local_path(place)
    if not path.is_dir():
        raise InputError(
            "input.not-found", f"there is no folder {path}", hint="make it, or check the spelling", where=str(path)
        )
    return path


def _refuse_unfit(job: Job) -> None:
    """Refuse options that speak of a volume which is whole already.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    for name in ("level", "roi", "crop", "mask"):
        if getattr(job, name):
            raise ConfigError(
                "config.option",
                f"--{name} {getattr(job, name)}: sections that arrive have one level, and all of each is enhanced",
                hint="leave it away; once the volume is whole, `volumetool enhance` takes it",
            )
    if (chosen := choose_format(job.output, job.format)) != DEFAULT:
        raise ConfigError(
            "config.option",
            f"--format {chosen} for {job.output}: a volume that grows is {DEFAULT} alone",
            hint="once it is whole, `volumetool convert` writes it in another format",
        )


def _refuse_foreign(job: Job) -> None:
    """Refuse places where something else is than what a watch of this folder began or finished.

    Raises
    ------
    OutputError
        ``output.exists``.
    """
    there = [place for place in (job.input, job.output) if _exists(place)]
    begun = read_header(JobDir(job.output).url) is not None
    if there and not begun and not (len(there) == 2 and is_complete(job.output)):
        raise OutputError(
            "output.exists",
            f"{' and '.join(there)} exists, and no watch of this folder made it",
            hint="choose another place with --into, or delete it yourself; nothing was touched",
            where=there[0],
        )


def _exists(place: str) -> bool:
    url = canonical_url(place)
    return local_path(url).exists() if is_local(url) else read_json(url, "zarr.json") is not None
