"""The desk: takes wishes for patches, newest first, and sees to it that each patch is made once.

One thread feeds the one network. What somebody waits for goes first, then what will probably be looked at next, then
whatever else wants the network (regions of a job), one batch at a time.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from volumetool.live_view.patches import Patch, PatchMaker, PatchPosition

LOG = logging.getLogger(__name__)

Patches = dict[PatchPosition, Patch]


class Closed(BaseException):
    """The desk was closed while somebody waited for the network."""


@dataclass
class _Wish:
    """Patches that one answer waits for."""

    lacks: set[PatchPosition]
    has: Patches
    future: Future[Patches] = field(default_factory=Future)


class PatchScheduler:
    """Keeps patches within a bound, and makes what is wished for.

    Parameters
    ----------
    maker : PatchMaker
        Reads, predicts and keeps patches.
    room : int
        Bytes of patches to keep, beside those of answers that are under way; least recently used ones go first.

    Attributes
    ----------
    made : int
        Patches made so far.
    """

    def __init__(self, maker: PatchMaker, room: int) -> None:
        self.made = 0
        self._maker = maker
        self._room = room
        self._kept: OrderedDict[PatchPosition, Patch] = OrderedDict()
        self._bytes = 0
        self._wishes: list[_Wish] = []  # oldest first
        self._guesses: list[PatchPosition] = []
        self._taken = self._closed = self._told = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="volumetool-live", daemon=True)
        self._thread.start()

    def want(self, places: Iterable[PatchPosition]) -> Future[Patches]:
        """Wish for patches; who no longer waits cancels the future, and what nobody else wants is not made."""
        with self._changed:
            wish = _Wish(set(), {})
            for place in places:
                if place in self._kept:
                    self._kept.move_to_end(place)
                    wish.has[place] = self._kept[place]
                else:
                    wish.lacks.add(place)
            if wish.lacks:
                self._wishes.append(wish)
                self._changed.notify_all()
            else:
                wish.future.set_result(wish.has)
            return wish.future

    def kept(self, place: PatchPosition) -> Patch | None:
        """Return a patch, None where it was not made, had to go, or has another input now; it gets no longer life by this."""
        with self._changed:
            patch = self._kept.get(place)
        return patch if patch is not None and self._maker.is_current(place, patch) else None

    def forget_changed(self, patches: Patches) -> bool:
        """Keep no patch whose input was written to since, and say whether any of these is one."""
        old = [place for place, patch in patches.items() if not self._maker.is_current(place, patch)]
        if not old:
            return False
        with self._changed:
            for place in old:
                if self._kept.get(place) is patches[place]:
                    self._bytes -= self._kept.pop(place).size
            told, self._told = self._told, True
        if not told:
            LOG.warning(
                "the input was written to since this view began: it is read again where somebody looks. Reload the page, and "
                "start the view again where the intensities changed, too: their statistics stay"
            )
        return True

    def guess(self, places: Sequence[PatchPosition]) -> None:
        """Make these patches while nothing is asked for, the first one first; a new guess replaces the one before."""
        with self._changed:
            self._guesses = list(reversed(places))
            self._forget_known()
            self._changed.notify_all()

    @contextmanager
    def spare(self) -> Iterator[None]:
        """Take the network for one batch, once nobody waits for it.

        Raises
        ------
        Closed
            The desk was closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._taken or self._guesses or self._alive()))
            if self._closed:
                raise Closed
            self._taken = True
        try:
            yield
        finally:
            self._hand_back()

    def close(self) -> None:
        """End the thread; requests that still wait are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        for wish in self._wishes:
            wish.future.cancel()

    def _hand_back(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def _forget_known(self) -> None:
        """Drop the next guesses as long as their patches are kept already."""
        while self._guesses and self._guesses[-1] in self._kept:
            self._guesses.pop()

    def _alive(self) -> bool:
        self._wishes = [wish for wish in self._wishes if not wish.future.cancelled()]
        return bool(self._wishes)

    def _work(self) -> None:
        while batch := self._next():
            try:
                made = self._maker.make(batch)
            except Exception as error:  # noqa: BLE001  (told to those who wait; the next batch may do)
                made = [error] * len(batch)
            with self._changed:
                for place, patch in zip(batch, made, strict=True):
                    self._hand_out(place, patch)
                self._forget_known()
            self._hand_back()

    def _next(self) -> list[PatchPosition]:
        """Wait for something to do, take the network, and return a batch; nothing once the desk is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (not self._taken and bool(self._alive() or self._guesses)))
            if self._closed:
                return []
            self._taken = True
            wanted: Iterator[PatchPosition]
            if self._wishes:
                # A batch is filled up from older wishes, so that the network is not called half-empty.
                wanted = _distinct(place for wish in reversed(self._wishes) for place in sorted(wish.lacks))
            else:
                guessed = (self._guesses.pop() for _ in range(len(self._guesses)))
                wanted = (place for place in guessed if place not in self._kept)
            return list(islice(wanted, self._maker.engine.at_once))

    def _hand_out(self, place: PatchPosition, patch: Patch | Exception) -> None:
        self.made += 1
        if isinstance(patch, Patch):
            self._keep(place, patch)
        waiting = []
        for wish in self._wishes:
            if place not in wish.lacks:
                waiting.append(wish)
                continue
            wish.lacks.remove(place)
            if isinstance(patch, Exception):
                if wish.future.set_running_or_notify_cancel():
                    wish.future.set_exception(patch)
                continue
            wish.has[place] = patch
            if wish.lacks:
                waiting.append(wish)
            elif wish.future.set_running_or_notify_cancel():
                wish.future.set_result(wish.has)
        self._wishes = waiting

    def _keep(self, place: PatchPosition, patch: Patch) -> None:
        self._kept[place] = patch
        self._bytes += patch.size
        while self._bytes > self._room:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size


def _distinct(places: Iterable[PatchPosition]) -> Iterator[PatchPosition]:
    """Yield each place once, as early as it comes."""
    known: set[PatchPosition] = set()
    for place in places:
        if place not in known:
            known.add(place)
            yield place
