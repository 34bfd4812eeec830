"""The source of a live volume's voxels: a job's plan where there is a job, else the same decisions without the costs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Box, Size, Triple
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.resolve import resolve
from volumetool.jobs.records.input_digest import RegionInput
from volumetool.live_view.cache import cached_context
from volumetool.processing.engine import Engine
from volumetool.processing.operations.chain import ARROW
from volumetool.processing.region import ChainStep
from volumetool.processing.spec import OutputSpec
from volumetool.processing.statistics import Statistics
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import Source
from volumetool.version import __version__


@dataclass(frozen=True)
class LiveSource:
    """Everything that decides the voxels of a live volume.

    Attributes
    ----------
    job : Job
        Job that describes the volume.
    spec : OutputSpec
        Everything that decides the bytes of the output.
    engine : Engine
        Engine that runs the network.
    volume : Volume
        Volume that is enhanced.
    provenance : dict
        Origin of the voxels, which the volume's metadata tell.
    mask_factor : tuple of int
        Voxels of what the operation reads per voxel of the mask.
    steps : tuple of ChainStep
        The operations of a chain before this one; `volume` is what the first reads.
    """

    job: Job
    spec: OutputSpec
    engine: Engine
    volume: Volume
    provenance: dict[str, Any]
    mask_factor: Triple
    steps: tuple[ChainStep, ...] = ()

    @property
    def voxel_size(self) -> Size:
        """Voxel size of the input's level, in nm."""
        return self.volume.levels[self.job.level].voxel_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the output."""
        return np.dtype(self.spec.dtype)

    @property
    def chunk(self) -> Triple | None:
        """The chunk that was asked for, if any."""
        asked = self.job.chunk
        return None if asked is None else (int(asked[0]), int(asked[1]), int(asked[2]))

    @property
    def window(self) -> tuple[float, float] | None:
        """Grey values of black and white; None where the model takes no statistics."""
        statistics: Statistics = self.spec.statistics
        if self.spec.equalise_sections or (not statistics.low.any() and (statistics.high == 1).all()):
            return None
        return float(np.median(statistics.low)), float(np.median(statistics.high))

    @functools.cached_property
    def input_of(self) -> Callable[[int, int], ts.TensorStore]:
        """Opens a level and channel of the input, with a cache of chunks."""
        context = cached_context()
        return functools.cache(lambda level, channel: self.volume.open(level, channel, context, strict=True))

    @functools.cached_property
    def source_of(self) -> Callable[[int], Source]:
        """Opens what the patches of a channel are cut from."""
        mask = None if self.stored.mask is None else self.stored.mask.open(strict=True)
        return functools.cache(
            lambda channel: Source(self.input_of(self.job.level, channel), mask, self.mask_factor, self._absent(channel))
        )

    @functools.cached_property
    def stored(self) -> RegionInput:
        """Tells how the input is stored, and whether it was written to."""
        mask = None if self.job.second is None else open_volume(self.job.second, voxel_size=(1.0, 1.0, 1.0))
        first = self.steps[0].mask_factor if self.steps else self.mask_factor
        return RegionInput(self.job, self.volume, mask, first)

    def _absent(self, channel: int) -> Callable[[Box], NDArray[np.bool_]] | None:
        if self.job.missing != "skip":
            return None
        chunks, array = self.stored.chunks(channel), self.input_of(self.job.level, channel)
        return lambda box: chunks.absent(box, chunks.never_stored(box, array))


def basis_of_job(job: Job) -> tuple[LiveSource, tuple[str, ...]]:
    """Decide what a job computes, but not how it is divided into work.

    Returns
    -------
    basis : LiveSource
        Everything that decides the voxels.
    notes : tuple of str
        Warnings for the user.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.plan`.
    """
    resolved = resolve(job)
    names = ARROW.join(each.inputs.operation.card.name for each in resolved.chain)
    model = {"name": names, "sha256": resolved.spec.model}
    provenance = {
        "version": __version__,
        "status": "live",
        "model": model,
        "fingerprint": resolved.spec.fingerprint,
        "extrapolated": resolved.extrapolated,
        "spec": resolved.spec.plain(),
    }
    volume, factor = resolved.stored.volume, resolved.inputs.mask_factor
    basis = LiveSource(job, resolved.spec, resolved.engine, volume, provenance, factor, resolved.steps)
    return basis, resolved.notes


def basis_of_worker(worker: Worker) -> LiveSource:
    """Take over what a job has decided."""
    plan: Plan = worker.plan
    volume = open_volume(plan.job.input, voxel_size=plan.job.voxel_size)
    return LiveSource(plan.job, plan.spec, worker.engine, volume, plan.provenance("live"), plan.mask_factor, worker.steps)
