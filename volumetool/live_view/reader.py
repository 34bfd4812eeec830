"""Where the voxels of a live volume come from: the job's store, the network, or the input."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Box
from volumetool.jobs.records.input_digest import READINGS
from volumetool.live_view.completed import CompletedRegions
from volumetool.live_view.levels import LiveLevel, below
from volumetool.live_view.lookahead import Lookahead
from volumetool.live_view.patch_scheduler import Patches, PatchScheduler
from volumetool.live_view.patches import LOOK_AGAIN, PatchMaker, PatchPosition, blend_box, places_of
from volumetool.processing.quantize import integer_limits
from volumetool.processing.spec import OutputSpec
from volumetool.storage.downsample import Reduction
from volumetool.storage.io.chunks import changed_while_read
from volumetool.storage.voxels import read_voxels, valid_voxels

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Answers that are blended, read or compressed at a time; the network has a thread of its own."""


@dataclass(frozen=True)
class JobSoFar:
    """The job that a live volume belongs to.

    Attributes
    ----------
    finished : CompletedRegions
        The regions that the job has stored.
    looked_at : callable
        Is called with the channel and the box, in voxels of level 0, that somebody looks at.
    """

    finished: CompletedRegions
    looked_at: Callable[[int, Box], None]


class LiveVoxels:
    """Gives the voxels of a box as soon as they are there.

    Parameters
    ----------
    maker : PatchMaker
        Reads, predicts and keeps patches.
    desk : PatchScheduler
        Decides which patches are made next, in a thread.
    lookahead : Lookahead
        Guesses which patches are asked for next.
    input_of : callable
        Opens the input: from a level and a channel to an array (z, y, x).
    job : JobSoFar, optional
        A job with the same output. Its voxels are read where it has stored them.
    """

    def __init__(
        self,
        maker: PatchMaker,
        desk: PatchScheduler,
        lookahead: Lookahead,
        input_of: Callable[[int, int], ts.TensorStore],
        job: JobSoFar | None = None,
    ) -> None:
        self._spec, self._engine = maker.spec, maker.engine
        self._desk, self._lookahead, self._input_of, self._job = desk, lookahead, input_of, job
        self._threads = ThreadPoolExecutor(THREADS, "volumetool-answers")

    async def read(self, level: LiveLevel, channel: int, box: Box) -> NDArray[Any]:
        """Return voxels of a level as soon as they are there.

        When the caller is cancelled, patches that nobody else waits for are not made.

        Parameters
        ----------
        level : LiveLevel
            Level of the live volume.
        channel : int
            Index on the c axis, from 0.
        box : Box
            Part of the level, in its voxels.

        Returns
        -------
        numpy.ndarray, shape of the box
            Voxels (z, y, x) in the output's dtype.
        """
        if level.kind == "input":
            return await self.in_thread(self._from_input, level, channel, box)
        channel = self._spec.image_channel(channel)
        if self._job is not None and await self.in_thread(self._is_stored, self._job, level, channel, box):
            return await self.in_thread(self._job.finished.read, level.number, channel, box)
        fine = below(self._spec.levels, level.number, box)
        if self._job is not None:
            self._job.looked_at(channel, fine)
        patches = await self._patches(places_of(self._spec, channel, fine))
        return await self.in_thread(self._blend, level.number, channel, fine, patches)

    async def _patches(self, places: list[PatchPosition]) -> Patches:
        """Return patches that are all made from what is stored now.

        Raises
        ------
        InputError
            ``input.changed``: somebody keeps writing there.
        """
        for _ in range(READINGS):
            wish = self._desk.want(places)
            self._desk.guess(self._lookahead.seen(places))
            patches = await asyncio.wrap_future(wish)
            if not await self.in_thread(self._desk.forget_changed, patches):
                return patches
        raise changed_while_read("the input", LOOK_AGAIN)

    async def is_complete(self) -> bool:
        """Return whether the job's store has every voxel of every level."""
        if self._job is None:
            return False
        await self.in_thread(self._job.finished.refresh)
        return self._job.finished.complete

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread, so that it does not hold up other answers, and return its result.

        Parameters
        ----------
        function : callable
            Function that computes, reads or compresses.
        *args, **kwargs
            Its arguments.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args, **kwargs))

    def close(self) -> None:
        """End the threads; what is under way is finished first."""
        self._threads.shutdown(cancel_futures=True)

    def _is_stored(self, job: JobSoFar, level: LiveLevel, channel: int, box: Box) -> bool:
        job.finished.refresh()
        return job.finished.holds(level.number, channel, box)

    def _blend(self, number: int, channel: int, box: Box, patches: Patches) -> NDArray[Any]:
        voxels = blend_box(self._spec, channel, box, patches, self._engine)
        *_, coarse = self._spec.reduction(channel).chain(voxels, self._spec.levels[: number + 1])
        return coarse

    def _from_input(self, level: LiveLevel, channel: int, box: Box) -> NDArray[Any]:
        store = self._input_of(level.number, channel)
        z, y, x = store.shape
        voxels = read_voxels(store, box.enlarged(level.factor).intersection(Box.whole((z, y, x))), "input")
        if level.factor != (1, 1, 1):
            voxels = Reduction(nodata=self._spec.nodata)(voxels, level.factor)
        return as_output(self._spec, voxels)


def as_output(spec: OutputSpec, voxels: NDArray[Any]) -> NDArray[Any]:
    """Return intensities of the input as the output would store them: rounded, clipped, missing voxels filled."""
    dtype = np.dtype(spec.dtype)
    valid = np.isfinite(voxels) if spec.nodata is None else valid_voxels(voxels, spec.nodata)
    if dtype.kind != "f" and voxels.dtype != dtype:
        limits = integer_limits(spec.dtype)
        known = np.where(valid, voxels, 0).astype(np.float64)
        voxels = np.clip(np.rint(known), *limits)
    same = voxels.astype(dtype)
    same[~valid] = spec.fill
    return same
