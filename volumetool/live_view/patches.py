"""Single patches of a job's lattice, read, predicted and blended by the same code as in a job.

A chunk of the output is a small region: the patches with weight in it are laid over each other as in the sweep of a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import VolumetoolError
from volumetool.geometry import Box, Lattice, Region
from volumetool.jobs.records.input_digest import READINGS, RegionInput
from volumetool.processing.blend import blend
from volumetool.processing.columns import Column, Position, column_window, read_column, section_groups
from volumetool.processing.device.arrays import Array
from volumetool.processing.engine import Engine
from volumetool.processing.predictor import spared_output
from volumetool.processing.region import ChainStep, computed, stored_windows
from volumetool.processing.spec import OutputSpec
from volumetool.storage.io.chunks import changed_while_read
from volumetool.storage.voxels import Source

Blocks = tuple[range, range, range]
"""Patch indices along z, y, x."""

LOOK_AGAIN = "look again"
"""Hint of the error for an input that changes while it is read."""


class PatchPosition(NamedTuple):
    """A patch of the lattice: its channel of the input, and its index along each axis."""

    channel: int
    z: int
    y: int
    x: int

    @property
    def position(self) -> Position:
        """The patch as a column of one."""
        return self.x, range(self.z, self.z + 1), range(self.y, self.y + 1)


@dataclass(frozen=True)
class Patch:
    """The output of a patch.

    Attributes
    ----------
    values : array of float32, shape ([channels,] z, y, x)
        Output of the network, on the engine's device.
    missing : numpy.ndarray of bool, optional
        Input voxels without data, on the patch's input grid.
    state : str
        Digest of the stored chunks that it was made from.
    """

    values: Array
    missing: NDArray[np.bool_] | None
    state: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.values.nbytes) + (0 if self.missing is None else self.missing.nbytes)


class PatchMaker:
    """Makes patches of a job.

    Parameters
    ----------
    spec : OutputSpec
        Everything that decides the bytes of the output.
    engine : Engine
        Engine that runs the network.
    source_of : callable
        Opens the input of a channel.
    stored : RegionInput
        Tells how that input is stored.
    steps : sequence of ChainStep
        The operations of a chain before this one, which are computed as a patch is read.
    """

    def __init__(
        self,
        spec: OutputSpec,
        engine: Engine,
        source_of: Callable[[int], Source],
        stored: RegionInput,
        steps: Sequence[ChainStep] = (),
    ) -> None:
        self.spec = spec
        self.engine = engine
        self._source_of = source_of
        self._stored = stored
        self._steps = steps

    def make(self, places: Sequence[PatchPosition]) -> list[Patch | Exception]:
        """Return a patch for each place, or why there is none: one bad patch never spoils another.

        All are asked of the network together, in batches of the plan's size.
        """
        reads = [self._read(place) for place in places]
        asked = [read[0] for read in reads if isinstance(read, tuple) and read[0].active[0]]
        predicted = iter(self._predict(asked))
        made: list[Patch | Exception] = []
        for read in reads:
            if isinstance(read, Exception):
                made.append(read)
                continue
            column, state = read
            values = next(predicted) if column.active[0] else spared_output(self.engine, column.patches[0])
            made.append(values if isinstance(values, Exception) else Patch(values, column.missing, state))
        return made

    def is_current(self, place: PatchPosition, patch: Patch) -> bool:
        """Return whether the input of a patch is still what it was made from."""
        try:
            return self._stored.state(*self._stored_windows(place)).digest == patch.state
        except VolumetoolError:
            return False  # whoever reads it again is told why it cannot be

    def _read(self, place: PatchPosition) -> tuple[Column, str] | Exception:
        """Return a patch's input, all of it read from the same stored chunks, and the state of these."""
        channel, windows = self._stored_windows(place)
        source = self._source_of(channel)
        own = [column_window(self.spec, place.channel, place.position)]
        try:
            for _ in range(READINGS):
                state = self._stored.settled(channel, windows)
                checked = self._stored.checked(source, channel, state)
                with computed(self._steps, place.channel, own, checked) as inner:
                    column = read_column(self.spec, place.channel, inner, place.position)
                if self._stored.state(channel, windows).digest == state.digest:
                    return column, state.digest
            raise changed_while_read(self._stored.volume.url, LOOK_AGAIN)
        except Exception as error:  # noqa: BLE001  (told to whoever wants this patch)
            return error

    def _stored_windows(self, place: PatchPosition) -> tuple[int, list[Box]]:
        """Return the channel of the stored input, and the boxes of it, that a patch is made from."""
        return stored_windows(self._steps, place.channel, [column_window(self.spec, place.channel, place.position)])

    def _predict(self, asked: list[Column]) -> list[Array | Exception]:
        if not asked:
            return []
        patches, places = [column.patches for column in asked], [place for column in asked for place in column.places]
        try:
            # A patch that is kept must not keep the rest of its batch in memory.
            return [values.copy() for values in self.engine.predict(np.concatenate(patches), places)]
        except Exception as error:  # noqa: BLE001  (as above)
            return [error] if len(asked) == 1 else [one for column in asked for one in self._predict([column])]


def places_of(spec: OutputSpec, channel: int, box: Box) -> list[PatchPosition]:
    """Return the patches that a box of the output's level 0 needs, in the order of a sweep.

    Parameters
    ----------
    spec : OutputSpec
        The lattice of patches, and where the output begins in it.
    channel : int
        Index on the output's c axis, from 0.
    box : Box
        Part of the output, in voxels of level 0.
    """
    return [PatchPosition(channel // spec.per_input, z, y, x) for z, y, x in product(*_touching(spec, box))]


def _touching(spec: OutputSpec, box: Box) -> Blocks:
    core = box.shifted(spec.origin)
    z, y, x = (line.touching(*ends) for line, *ends in zip(spec.lattice.axes, core.start, core.stop, strict=True))
    return z, y, x


def blend_box(spec: OutputSpec, channel: int, box: Box, patches: Mapping[PatchPosition, Patch], engine: Engine) -> NDArray[Any]:
    """Return the voxels of a box of the output's level 0.

    Parameters
    ----------
    spec : OutputSpec
        Everything that decides the bytes of the output.
    channel : int
        Index on the output's c axis, from 0.
    box : Box
        Part of the output, in voxels of level 0.
    patches : mapping of PatchPosition to Patch
        At least those of :func:`places_of`.
    engine : Engine
        The engine that made the patches; they are blended on its device.

    Returns
    -------
    numpy.ndarray, shape of the box
        In the output's dtype: the bytes of the batch job.
    """
    voxels = np.empty(box.shape, spec.dtype)
    back = (-box.start[0], -box.start[1], -box.start[2])
    source, number = divmod(channel, spec.per_input)
    for slab in blend(spec, Region(0, source, box), _columns(spec, source, box, patches), engine.xp, only=number):
        voxels[slab.box.shifted(back).slices] = slab.voxels
    return voxels


def _columns(
    spec: OutputSpec, channel: int, box: Box, patches: Mapping[PatchPosition, Patch]
) -> Iterator[tuple[Column, list[Array]]]:
    """Yield the columns of a box in sweep order; blending needs their places and gaps, and no more input."""
    lattice = spec.lattice
    _, rows, columns = _touching(spec, box)
    nothing: tuple[NDArray[np.float32], NDArray[np.bool_]] = np.empty((0, 0, 0, 0), np.float32), np.empty(0, bool)
    for x in columns:
        for group in section_groups(lattice, spec.core(Region(0, channel, box)), 1):
            found = [patches[PatchPosition(channel, z, y, x)] for z in group for y in rows]
            start = lattice.start((group.start, rows.start, x))
            missing = _missing(lattice, group, rows, found) if spec.output_nodata is not None else None
            yield Column(channel, x, group, rows, *nothing, missing, start), [patch.values for patch in found]


def _missing(lattice: Lattice, group: range, rows: range, found: list[Patch]) -> NDArray[np.bool_]:
    """Return where a column's input has no data; patches that overlap agree."""
    depth, height, width = lattice.patch
    deep, high = (len(group) - 1) * lattice.stride[0], (len(rows) - 1) * lattice.stride[1]
    whole = np.zeros((deep + depth, high + height, width), bool)
    for number, patch in enumerate(found):
        z, y = divmod(number, len(rows))
        z, y = z * lattice.stride[0], y * lattice.stride[1]
        whole[z : z + depth, y : y + height] = patch.missing
    return whole
