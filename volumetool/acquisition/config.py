"""Settings of a watch, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass

FIT_ON = 3
"""Sections that the statistics are fitted to: their median, so that one bad section among them does no harm."""

SETTLE_SECONDS = 0.3
"""For how long a file must stand still before it is read."""


@dataclass(frozen=True)
class WatchConfig:
    """Settings of a watch.

    Attributes
    ----------
    count : int, optional
        Sections in all: with the last of them the volume is finished.
    idle : float, optional
        Seconds without a new section after which it is finished, if no number is missing.
    first : int, optional
        Number of the section at z = 0; by default the lowest of those that the watch begins with.
    fit_on : int
        Sections that the statistics are fitted to.
    settle : float
        Seconds for which a file must stand still before it is read.
    """

    count: int | None = None
    idle: float | None = None
    first: int | None = None
    fit_on: int = FIT_ON
    settle: float = SETTLE_SECONDS


@dataclass(frozen=True)
class SessionResult:
    """The result of a watch.

    Attributes
    ----------
    complete : bool
        The volume is finished: it is the output of an ordinary job now.
    enhanced : int
        Sections that are enhanced.
    missing, failed : tuple of int
        Numbers of sections that never came, and of those that could not be enhanced.
    """

    complete: bool
    enhanced: int
    missing: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
