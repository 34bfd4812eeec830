"""The memory that a worker needs, known before it starts."""

from __future__ import annotations

from volumetool.geometry import Triple
from volumetool.jobs.layout import Work
from volumetool.models import ModelCard


class MemoryModel:
    """Bytes that one worker needs for a region.

    Parameters
    ----------
    card : ModelCard
        The network.
    batch : int
        Patches per call.
    itemsize : int
        Bytes per input voxel.
    """

    def __init__(self, card: ModelCard, batch: int, itemsize: int) -> None:
        self.card = card
        self.batch = batch
        self.itemsize = itemsize

    BASE = 700 * 2**20
    """Python, torch, tensorstore and their code."""

    ACTIVATIONS = 10
    """Feature maps of the finest level that the network holds at once, in float32; measured on the U-Net."""

    def __call__(self, work: Work, span: Triple) -> int:
        """Return the bytes for one region of `span` shards."""
        lattice = work.lattice
        size = [min(n * s, whole) for n, s, whole in zip(work.levels[0].shard, span, work.box.shape, strict=True)]
        rows = len(lattice.y.touching(0, min(size[1], lattice.y.size * lattice.y.scale)))
        stacks = len(lattice.z.touching(0, min(size[0], lattice.z.size * lattice.z.scale)))
        group = stacks if lattice.z.overlap else min(stacks, max(1, self.batch // rows))
        patch = lattice.patch[0] * lattice.patch[1] * lattice.patch[2]
        patch_out = patch * lattice.scale[0] * lattice.scale[1] * lattice.scale[2]
        group_depth = size[0] if lattice.z.overlap else group * lattice.z.stride * lattice.z.scale
        # One column is read ahead, whole, while it is cut out of the window that was read: three copies at worst.
        raw = 3 * stacks * lattice.z.stride * rows * lattice.y.stride * lattice.x.patch * self.itemsize
        # Three groups are under way at once: one being cut, one in the network, one being blended.
        inputs = 4 * group * rows * patch * 4
        outputs = 3 * group * rows * patch_out * 4
        slabs = 2 * group_depth * size[1] * lattice.x.patch * lattice.x.scale * 4
        strips = size[0] * size[1] * lattice.x.ramp_length * 4
        shard = size[0] * size[1] * work.levels[0].shard[2] * work.itemsize
        # Open, waiting, being written with its encoded shadow, and read back.
        stored = int(6 * shard * 1.33)
        width = getattr(self.card.architecture, "width", 1)
        network = self.batch * patch * width * 4 * self.ACTIVATIONS
        return int(self.BASE + raw + inputs + outputs + slabs + strips + stored + network)
