"""The memory that a worker needs, known before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from volumetool.geometry import Lattice, Triple
from volumetool.jobs.plan import CacheScope
from volumetool.jobs.planning.checks import check_patch
from volumetool.jobs.planning.inputs import Inputs
from volumetool.jobs.planning.resources import Resources
from volumetool.jobs.records.staging import FROM, LAYER
from volumetool.processing.device.malloc import KEPT_FREE
from volumetool.processing.operation import Operation
from volumetool.processing.patch_cache import BEHIND, kept_bytes
from volumetool.processing.sections.repair import HALO, INTERPOLATION, REACH
from volumetool.processing.spec import OutputSpec
from volumetool.storage.io.limits import UNPACKED, unpacked_chunk


class MemoryModel:
    """Bytes that one worker needs for a region.

    Parameters
    ----------
    operation : Operation
        What is done to a patch.
    itemsize : int
        Bytes per input voxel.
    precision : str
        ``float32`` or ``bfloat16``, of the network's body.
    batch : int
        Patches per call.
    streams : int
        Calls side by side.
    chunk : tuple of (tuple of int, int)
        Voxels of a chunk of the input, z, y, x, and the bytes that it takes unpacked.

    Attributes
    ----------
    before : tuple of MemoryModel and OutputSpec, optional
        Of a chain, the operation whose output this one reads as it is computed.
    """

    def __init__(
        self,
        operation: Operation,
        itemsize: int,
        precision: str,
        batch: int,
        streams: int = 1,
        chunk: tuple[tuple[int, ...], int] = ((1, 1, 1), 0),
    ) -> None:
        self.operation = operation
        self.itemsize = itemsize
        self.chunk = chunk
        self.precision = precision
        self.batch = batch
        self.streams = streams
        self.before: tuple[MemoryModel, OutputSpec] | None = None

    BASE = 350 * 2**20
    """Python, torch, tensorstore and their code, once a job was planned; measured."""

    SCATTERED = 0.3
    """What lies free in the heap between large blocks that come and go, in times of their bytes; measured."""

    def __call__(self, spec: OutputSpec, span: Triple, keep: CacheScope = "none") -> int:
        """Return the bytes for one region of `span` shards.

        Parameters
        ----------
        spec : OutputSpec
            The lattice and the output.
        span : tuple of int
            Shards per region and axis.
        keep : {"none", "sides", "all"}
            Shared patches that are kept: none, those between regions of one layer, or all.
        """
        size = [min(n * s, whole) for n, s, whole in zip(spec.levels[0].shard, span, spec.box.shape, strict=True)]
        lattice, shard = spec.lattice, size[0] * size[1] * spec.levels[0].shard[2] * spec.voxel_bytes
        # A column touches several shards; finished ones wait, are written with their shadows, and are read back.
        touched = math.ceil(lattice.x.stride * lattice.x.scale / spec.levels[0].shard[2]) + 1
        stored = (min(touched + 3, span[2]) + 1.7) * shard
        free = min(self.SCATTERED * stored, KEPT_FREE)
        return int(self.BASE + self._swept(spec, size, keep) + stored + free)

    def _swept(self, spec: OutputSpec, size: Sequence[int], keep: CacheScope = "none") -> int:
        """Return the bytes for the sweep of a region of `size` voxels, and those of the operations before."""
        lattice = spec.lattice
        rows = len(lattice.y.touching(0, min(size[1], lattice.y.size * lattice.y.scale)))
        stacks = len(lattice.z.touching(0, min(size[0], lattice.z.size * lattice.z.scale)))
        group = stacks if lattice.z.overlap else min(stacks, max(1, self.batch // rows))
        patch = lattice.patch[0] * lattice.patch[1] * lattice.patch[2]
        planes = spec.predicted or 1
        patch_out = patch * math.prod(lattice.scale) * planes
        group_depth = size[0] if lattice.z.overlap else group * lattice.z.stride * lattice.z.scale
        context = 2 * lattice.context
        # One column is read ahead, whole, while it is cut out of the window that was read: three copies at worst, and a mask.
        sides = [(n - 1) * lattice.stride[axis] + lattice.patch[axis] for axis, n in enumerate((stacks, rows))]
        window = (sides[0] + context, sides[1], lattice.patch[2])
        raw = math.prod(window) * (3 * self.itemsize + 2) + self._unpacked(window) + self._repairing(spec, window)
        raw += self._shared(lattice, window)
        # Groups under way at once: one being cut out of its block in float32, one waiting, one in the network with a copy.
        # While streams are fed, the next groups' patches wait inside the network's stage.
        fed = self.batch * self.streams
        inputs = spec.inputs * (6 * group * rows + 2 * fed) * (patch + context * lattice.patch[1] * lattice.patch[2]) * 4
        outputs = (3 * group * rows + fed) * patch_out * 4
        slabs = (3 if spec.store_error else 2) * group_depth * size[1] * lattice.x.patch * lattice.x.scale * 4
        blended = sum(1 / math.prod(channel.block) for channel in spec.made) or 1
        strips = int(size[0] * size[1] * lattice.x.ramp_length * 4 * blended)
        # Whole columns of kept patches, at worst, wait and are read; each patch on its way to the disk has a copy.
        kept = 0 if keep == "none" else (2 * group * rows + 2 * (BEHIND + 1)) * kept_bytes(lattice, planes)
        own = int(raw + inputs + outputs + slabs + strips + kept) + self.network(lattice)
        return own + (0 if self.before is None else self._before(*self.before, window))

    def _repairing(self, spec: OutputSpec, window: Triple) -> int:
        """Return the bytes that replacing bad sections takes more: a larger window, and each section with its own context."""
        if spec.repair is None or not any(spec.repair.bad):
            return 0
        around = HALO if spec.repair.mode == "fill" else 0
        section = math.prod(min(n + 2 * around, whole) for n, whole in zip(window[1:], spec.lattice.shape[1:], strict=True))
        rows = (window[0] - 2 * spec.lattice.context) * (1 + 2 * spec.lattice.context)
        larger = (window[0] + 2 * REACH) * section * (3 * self.itemsize + 2) + rows * window[1] * window[2] * (
            2 * self.itemsize + 6
        )
        return larger + (section * INTERPOLATION if around else 0)

    def _before(self, model: MemoryModel, spec: OutputSpec, window: Triple) -> int:
        """Return the bytes for the operations before, whose last makes the windows that this one reads."""
        size = [min(n, whole) for n, whole in zip(window, spec.box.shape, strict=True)]
        # Slabs are as wide as a column: those under a window are open, two wait, and each is put together and handed over.
        slab = spec.lattice.x.stride * spec.lattice.x.scale
        opened = size[0] * size[1] * (2 * size[2] + 5 * slab) * spec.itemsize
        return opened + model._swept(spec, size)

    def network(self, lattice: Lattice) -> int:
        """Return the part of these bytes that the network takes, for all patches that are in it at once."""
        return self.streams * self.batch * self.operation.working_bytes(lattice.patch, self.precision)

    def least(self, patch: Triple) -> int:
        """Return the bytes that the smallest step needs: one patch in the network, and one chunk of the input."""
        patch_in = math.prod(patch) + 2 * self.operation.card.z_context * patch[1] * patch[2]
        patch_out = math.prod(patch) * math.prod(self.operation.card.scale) * (self.operation.card.planes or 1)
        return (
            self.BASE
            + self.chunk[1]
            + 4 * (self.operation.card.inputs * patch_in + patch_out)
            + self.operation.working_bytes(patch, self.precision)
        )

    def _shared(self, lattice: Lattice, window: Triple) -> int:
        """Return the bytes of what strips share on its way to the disk: as it was read, and in the order of the file."""
        (depth, height, width), _ = self.chunk
        if (window[2] - 1 + width) / lattice.stride[2] < FROM:  # times that strips touch a chunk, on average
            return 0
        row = min(depth, window[0]) * min(width, lattice.shape[2]) * self.itemsize
        return 2 * min(row * window[1], max(row * height, LAYER))

    def _unpacked(self, window: Triple) -> int:
        """Return the bytes that chunks take at most while a window is read."""
        chunk, each = self.chunk
        touched = math.prod(-(-(n - 1) // size) + 1 for n, size in zip(window, chunk, strict=True))
        return min(touched * each, max(each, UNPACKED))


def memory_model(inputs: Inputs, precision: str, batch: int, streams: int) -> MemoryModel:
    """Return the memory of a worker with what a job names.

    Parameters
    ----------
    inputs : Inputs
        The job with its volume and operation.
    precision, batch, streams
        As for :class:`MemoryModel`.
    """
    stored = inputs.volume.compute is None
    chunk = unpacked_chunk(inputs.volume.open(inputs.job.level)) if stored else ((1, 1, 1), 0)
    return MemoryModel(inputs.operation, inputs.volume.dtype.itemsize, precision, batch, streams, chunk)


def patches_within(inputs: Inputs, lattice: Lattice, precision: str, resources: Resources) -> int:
    """Return how many of the card's patches memory holds in the network at once, before the first one is made.

    Parameters
    ----------
    inputs : Inputs
        The job with its volume and operation.
    lattice : Lattice
        Its patches, which may be larger than the card's.
    precision : str
        Of the network's body.
    resources : Resources
        The memory of a worker.

    Raises
    ------
    ResourceError
        ``resource.memory``: not even one.
    """
    memory_of = memory_model(inputs, precision, 1, 1)
    patch = max(inputs.operation.card.patch, lattice.patch, key=memory_of.least)
    what = f"patches of {patch} voxels and chunks of {memory_of.chunk[0]}"
    check_patch(memory_of.least(patch), resources.memory, what, resources.bound)
    free, each = resources.memory - memory_of.least((0, 0, 0)), memory_of.least(patch) - memory_of.least((0, 0, 0))
    return free // each
