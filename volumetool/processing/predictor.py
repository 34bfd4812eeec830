"""Predictors: columns of patches become columns with outputs, most from the network, some known without it.

A predictor decides when the network is asked, and with which patches together; what a patch becomes does not depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Triple
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array
from volumetool.processing.engine import Engine, gather
from volumetool.processing.pipeline import silent


class Predictor(Protocol):
    """Decides when the network is asked for which patches of a region.

    Attributes
    ----------
    engine : Engine
        The network on its device.
    heartbeat : callable
        Called after every call of the network: a sign of life.
    """

    engine: Engine
    heartbeat: Callable[[], None]

    def predict(self, columns: Iterator[Column]) -> Iterator[tuple[Column, list[Array]]]:
        """Yield each column with the outputs of its patches, each float32 ([channels,] z, y, x) on the engine's device."""


class BatchPredictor:
    """Keeps all streams of the engine busy, over the borders of columns.

    Parameters
    ----------
    engine : Engine
        The network on its device.
    heartbeat : callable
        Called after every call of the network.
    """

    def __init__(self, engine: Engine, heartbeat: Callable[[], None] = silent) -> None:
        self.engine, self.heartbeat = engine, heartbeat

    def predict(self, columns: Iterator[Column]) -> Iterator[tuple[Column, list[Array]]]:
        """Yield each column with its outputs; it is waited for once the columns after it hold a batch for every stream.

        Patches that the network is not asked for count, too: memory is planned for no more of them than that.
        """
        ahead = self.engine.streams * self.engine.numerics.batch
        waiting: deque[tuple[Column, list[Future[list[Array]]]]] = deque()
        try:
            for column in columns:
                places = tuple(compress(column.places, column.active))
                asked = column.patches if column.active.all() else column.patches[column.active]  # a choice of them is a copy
                waiting.append((column, self.engine.submit(asked, places)))
                while sum(len(later.patches) for later, _ in list(waiting)[1:]) >= ahead:
                    yield self._outputs(*waiting.popleft())
            while waiting:
                yield self._outputs(*waiting.popleft())
        finally:
            for _, batches in waiting:
                for batch in batches:
                    batch.cancel()

    def _outputs(self, column: Column, batches: list[Future[list[Array]]]) -> tuple[Column, list[Array]]:
        return column, all_outputs(self.engine, column, gather(batches, self.heartbeat))


def all_outputs(engine: Engine, column: Column, active: list[Array]) -> list[Array]:
    """Return the outputs of all patches of a column: from the network for its active ones, known without it for the others.

    Parameters
    ----------
    engine : Engine
        The network on its device.
    column : Column
        The column; the outputs that it knows are taken out of it.
    active : list of array
        What the network made of the active patches, float32 (z, y, x), or (channels, z, y, x).
    """
    computed = iter(active)
    return [next(computed) if asked else _spared(engine, column, number) for number, asked in enumerate(column.active)]


def _spared(engine: Engine, column: Column, number: int) -> Array:
    """Return the output of a patch that the network is not asked for: kept by an earlier region, or skipped."""
    if number not in column.known:
        return spared_output(engine, column.patches[number])
    kept = engine.xp.asarray(column.known.pop(number))  # ([channels,] z, y, x), without the margins that have no weight
    margins = [(n - m) // 2 for n, m in zip(_output_shape(engine, column.patches[number]), kept.shape[-3:], strict=True)]
    whole = [(0, 0)] * (kept.ndim - 3) + [(margin, margin) for margin in margins]
    return engine.xp.pad(kept, whole)  # ([channels,] z, y, x), as of the other patches


def spared_output(engine: Engine, patch: NDArray[np.float32]) -> Array:
    """Return what a patch counts as that the network is not asked for, float32 ([channels,] z, y, x).

    It is the patch's own sections with every voxel repeated by the network's scale; of several channels the first is, and the
    others are 0. Where the operation makes no image of the kind of its input, all are 0.
    """
    planes = engine.card.planes
    if engine.card.spares and not planes:
        return _enlarge(engine, patch)
    leading = (planes,) if planes else ()
    made = engine.xp.zeros((*leading, *_output_shape(engine, patch)), np.float32)  # ([channels,] z, y, x)
    if engine.card.spares:
        made[0] = _enlarge(engine, patch)
    return made


def _output_shape(engine: Engine, patch: NDArray[np.float32]) -> Triple:
    own = patch.shape[-3] - 2 * engine.card.z_context, *patch.shape[-2:]
    z, y, x = (n // s * f for n, s, f in zip(own, engine.card.shrink, engine.card.scale, strict=True))
    return z, y, x


def _enlarge(engine: Engine, patch: NDArray[np.float32]) -> Array:
    context = engine.card.z_context
    centre = engine.xp.asarray(patch[context : len(patch) - context])  # (z, y, x)
    for axis, factor in enumerate(engine.card.scale):
        centre = centre.repeat(factor, axis=axis)  # one axis grows by its factor
    return centre
