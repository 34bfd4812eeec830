"""The engine: an operation on its device, asked for batches of patches.

On a CPU several batches are computed side by side, each with a part of the threads: threads that share one layer wait for each
other at its end, and twice as long when another stage of the region takes a core meanwhile.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.errors import NumericsError, ResourceError
from volumetool.geometry import PatchPlace
from volumetool.processing.device.arrays import Array, array_module, resolve_device, to_host
from volumetool.processing.device.device_errors import free_memory, kind_of
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.operation import Operation, PlacedFunction
from volumetool.processing.pipeline import silent
from volumetool.processing.spec import Numerics

HALVINGS = 4
"""How often a call that does not fit into the device's memory is halved before it is given up."""

PROBE_SEED = 20
"""Seed of the probe patches; any fixed number would do."""

_probed: dict[tuple[Any, ...], str] = {}
"""Digests of this process, by all that they depend on in it."""


class Engine:
    """An operation on its device.

    Parameters
    ----------
    operation : Operation
        The network or filter to compute.
    numerics : Numerics
        Precision, and patches per call.
    device : {"auto", "cpu", "cuda"}
        Device to compute on; "auto" takes a GPU if there is one.
    threads : int, optional
        CPU threads of the operation; torch's own choice without it.
    streams : int, default 1
        Batches that are computed side by side; they share the threads.

    Attributes
    ----------
    seconds : float
        Time spent inside the operation so far; of several streams the mean.
    """

    def __init__(
        self,
        operation: Operation,
        numerics: Numerics,
        device: DeviceName = "auto",
        threads: int | None = None,
        streams: int = 1,
    ) -> None:
        self.card = operation.card
        self._identity = operation.identity
        self.numerics = numerics
        self.device = resolve_device(device)
        self.xp = array_module(self.device)
        self.seconds = 0.0
        self.streams = streams
        self._halved = 0
        self._share = None if threads is None else max(1, threads // streams)
        self._pool = ThreadPoolExecutor(streams, "volumetool-network", initializer=_begin_stream, initargs=(self._share,))
        self._clock = threading.Lock()
        self._function = operation.open(self.device, numerics)
        self._placed = self._function if isinstance(self._function, PlacedFunction) else None

    def predict(self, patches: NDArray[np.float32], places: Sequence[PatchPlace] = ()) -> list[Array]:
        """Enhance patches.

        Parameters
        ----------
        patches : numpy.ndarray of float32, shape (n, [inputs,] depth, y, x)
            Normalised input. Depth is sections, in 2D with the z context of one section.
        places : sequence of PatchPlace
            Where each patch lies; without them, each is a volume of its own to an operation that asks.

        Returns
        -------
        list of array of float32, shape ([channels,] z, y, x)
            One output patch each, on the device.

        Raises
        ------
        NumericsError
            ``numerics.not-finite`` where the operation made NaN or infinity.
        ResourceError
            ``resource.device-memory`` where the device has too little memory even for a much smaller batch.
        """
        return gather(self.submit(patches, places))

    @property
    def at_once(self) -> int:
        """Patches that keep all streams busy."""
        return self.streams * self.numerics.batch

    @property
    def room(self) -> int:
        """Patches per call that the device has memory for: the batch, or less once a batch did not fit.

        Where a short batch gives other bytes, a call is whole or not at all.
        """
        return self.numerics.batch if self.numerics.pad else max(1, self.numerics.batch >> self._halved)

    def submit(self, patches: NDArray[np.float32], places: Sequence[PatchPlace] = ()) -> list[Future[list[Array]]]:
        """Begin to enhance patches as `predict` does; return what :func:`gather` waits for, batch by batch."""
        cuts = [slice(start, start + self.numerics.batch) for start in range(0, len(patches), self.numerics.batch)]
        return [self._pool.submit(self._compute, patches[cut], places[cut]) for cut in cuts]

    def _compute(self, part: NDArray[np.float32], places: Sequence[PatchPlace]) -> list[Array]:
        started = time.perf_counter()
        outputs = self._within_memory(part, places)
        with self._clock:
            self.seconds += (time.perf_counter() - started) / self.streams
        return outputs

    def _within_memory(self, part: NDArray[np.float32], places: Sequence[PatchPlace]) -> list[Array]:
        """Compute a batch in as many calls as the device has memory for; what fitted is remembered."""
        outputs: list[Array] = []
        failed = 0
        while len(outputs) < len(part):
            size = self.room
            cut = slice(len(outputs), len(outputs) + size)
            try:
                outputs.extend(self._call(part[cut], places[cut])[:size])
                continue
            except Exception as error:
                if kind_of(error) != "memory":
                    raise
                reason = str(error)
            # Out of the except block: the error keeps the tensors of its frames alive.
            failed += 1
            if failed > (1 if self.numerics.pad else HALVINGS):
                raise self._too_large(size, reason)
            self.make_room(size)
        return outputs[: len(part)]

    def make_room(self, size: int) -> None:
        """Halve the patches per call after one of `size` did not fit, and free the memory that is not needed."""
        with self._clock:
            if self.room == size and self._halved < HALVINGS:
                self._halved += 1
        self._function.release()
        free_memory(self.device)

    def _too_large(self, size: int, reason: str) -> ResourceError:
        frozen = ", and a smaller batch would give other bytes here" if self.numerics.pad else ""
        return ResourceError(
            "resource.device-memory",
            f"{size} patches of {self.card.name} at once do not fit into the memory of the device "
            f"({self.device}){frozen}: {reason}",
            hint="end what else uses the device, and run the same command again; or begin anew with --overwrite and a smaller "
            "--batch or --patch",
        )

    def _call(self, part: NDArray[np.float32], places: Sequence[PatchPlace]) -> Array:
        if self.numerics.pad and len(part) < self.numerics.batch:
            more = self.numerics.batch - len(part)
            part = np.concatenate([part, np.zeros((more, *part.shape[1:]), np.float32)])
            places = [*places, *list(places[-1:]) * more]
        # (b, [channels,] z*fz, y*fy, x*fx)
        y = self._function(part) if self._placed is None or not places else self._placed.at(part, places)
        with np.errstate(over="ignore", invalid="ignore"):
            # A sum is finite only if all its terms are; one that is not may be an overflow.
            if self.xp.isfinite(y.sum()) or self.xp.isfinite(y).all():
                return y
        raise NumericsError(
            "numerics.not-finite",
            f"{self.card.name} made NaN or infinity, in float32 too",
            hint="nothing wrong reached the disk; look at the input there, and at `volumetool model show`",
        )

    def probe(self, patch: tuple[int, int, int]) -> str:
        """Return the digest of the operation on fixed patches: equal digests are one numerics class.

        The patches come as one whole batch, as a short last batch and one by one, as the live view asks for them. A process
        that plans a job and then runs it asks once.
        """
        key = (self._identity, self.numerics, str(self.device), self._share, patch)
        if key not in _probed:
            _probed[key] = self._probe(patch)
        elif self.device.type == "cuda":  # what is recorded there is so now, while nothing else is under way
            self.predict(self._probes(patch, self.numerics.batch))
        return _probed[key]

    def _probe(self, patch: tuple[int, int, int]) -> str:
        digest = hashlib.sha256()
        for count in sorted({self.numerics.batch, max(1, self.numerics.batch - 1), 1}, reverse=True):
            for output in self.predict(self._probes(patch, count)):
                digest.update(np.ascontiguousarray(to_host(output)).tobytes())
        return digest.hexdigest()

    def _probes(self, patch: tuple[int, int, int], count: int) -> NDArray[np.float32]:
        return probe_patches(self.card.z_context, patch, count, self.card.inputs)

    def batch_matters(self, patch: tuple[int, int, int]) -> bool:
        """Return whether patches get other bytes in a short batch, or one alone, than in a whole batch."""
        fewer = {1, self.numerics.batch - 1} - {0, self.numerics.batch}
        if not fewer:
            return False
        patches = self._probes(patch, self.numerics.batch)
        whole = [to_host(output) for output in self.predict(patches)]
        return any(
            not np.array_equal(a, to_host(b)) for n in fewer for a, b in zip(whole, self.predict(patches[:n]), strict=False)
        )


def gather(batches: list[Future[list[Array]]], heartbeat: Callable[[], None] = silent) -> list[Array]:
    """Wait for batches and return their outputs; if one fails, those that have not begun are cancelled.

    Parameters
    ----------
    batches : list of Future
        From :meth:`Engine.submit`.
    heartbeat : callable
        Called after each batch: a sign of life.

    Returns
    -------
    list of array of float32, shape ([channels,] z, y, x)
        One output for each patch, on the device.
    """
    outputs: list[Array] = []
    try:
        for batch in batches:
            outputs.extend(batch.result())
            heartbeat()
    except BaseException:
        for batch in batches:
            batch.cancel()
        raise
    return outputs


def probe_patches(context: int, patch: tuple[int, int, int], count: int, inputs: int = 1) -> NDArray[np.float32]:
    """Return patches of noise from a fixed seed; the n-th is the same whatever `count` is.

    Parameters
    ----------
    context : int
        Sections of z context on each side of a patch; 0 for none.
    patch : tuple of int
        Shape of an input patch without its context, in voxels, z, y, x.
    count : int
        Number of patches, at least 1.
    inputs : int
        Volumes that the operation takes.

    Returns
    -------
    numpy.ndarray of float32, shape (count, z + 2 * context, y, x)
        Values between 0 and 1; of several inputs (count, inputs, z + 2 * context, y, x).
    """
    depth, height, width = patch
    leading = (inputs,) if inputs > 1 else ()
    random = np.random.default_rng(PROBE_SEED)
    return np.stack([random.random((*leading, depth + 2 * context, height, width), dtype=np.float32) for _ in range(count)])


def _begin_stream(threads: int | None) -> None:
    # torch keeps the number of threads for each thread that asks it for work.
    if threads is not None:
        torch.set_num_threads(threads)
