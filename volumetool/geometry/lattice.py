r"""The lattice: the positions of all patches of a volume, one per job, anchored at the volume's origin.

Along one axis, with stride s, overlap o and trim t, patch i covers the input voxels ``[i*s - o, i*s + s)`` and is given weight
on ``[i*s - o + t, i*s + s - t)``::

    patch i-1   ....________________________\....
    patch i                             ..../________________________\....
                                        |  ||  |
                                        o  trim, ramp, trim

In the overlap of two neighbours the outer `trim` voxels of each, those nearest to its border, where the network sees its own
zero padding, weigh nothing; over the ``o - 2t`` voxels between them the later patch takes over from the earlier one. With
``2t == o`` there is no ramp: a plain cut in the middle of the overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from volumetool.errors import ConfigError
from volumetool.geometry.box import Triple


def balanced_stride(size: int, stride: int, margin: tuple[int, int], granularity: int) -> int:
    """Return the least stride that needs no more patches than `stride` does.

    A short axis is rarely a multiple of the card's stride; patches that are all a little smaller waste less than a last
    patch that is mostly mirror. On a long axis the result is `stride` itself.

    Parameters
    ----------
    size : int
        Length of the axis, in input voxels.
    stride : int
        Largest stride allowed, a multiple of `granularity`.
    margin : tuple of int
        Overlap and trim, in input voxels.
    granularity : int
        Patches start on multiples of this.
    """
    overlap, trim = margin
    reach = size + overlap - trim
    count = -(-reach // stride)
    least = -(-reach // count)
    return min(stride, max(-(-least // granularity) * granularity, overlap, granularity))


@dataclass(frozen=True)
class Placement:
    """Where one patch's output goes along one axis, within a core; all in output voxels.

    Attributes
    ----------
    ramp_source, ramp_target, ramp_weight : slice
        Part that is blended with the patch before: in the patch, in the core, in the ramp's weights.
    copy_source, copy_target : slice
        Part that is this patch's alone, or that the next patch will blend over.
    """

    ramp_source: slice
    ramp_target: slice
    ramp_weight: slice
    copy_source: slice
    copy_target: slice


@dataclass(frozen=True)
class AxisLattice:
    """Patches along one axis.

    Parameters
    ----------
    size : int
        Length of the input axis, in voxels.
    stride, overlap, trim : int
        In input voxels; see the module's picture.
    scale : int
        Output voxels per input voxel.

    Raises
    ------
    ConfigError
        ``config.lattice`` where ``0 <= 2*trim <= overlap <= stride`` does not hold.
    """

    size: int
    stride: int
    overlap: int
    trim: int
    scale: int

    def __post_init__(self) -> None:
        if not (self.size >= 1 and self.scale >= 1 and 0 <= 2 * self.trim <= self.overlap <= self.stride and self.stride >= 1):
            raise ConfigError(
                "config.lattice",
                f"stride {self.stride}, overlap {self.overlap} and trim {self.trim} make no lattice over {self.size} voxels",
                hint="0 <= 2 * trim <= overlap <= stride must hold: take a larger --patch or a smaller --overlap",
            )

    @property
    def patch(self) -> int:
        """Length of a patch, in input voxels."""
        return self.stride + self.overlap

    @property
    def count(self) -> int:
        """Number of patches that have weight inside the axis."""
        return -(-(self.size + self.overlap - self.trim) // self.stride)

    @property
    def ramp_length(self) -> int:
        """Output voxels over which one patch takes over from the one before."""
        return (self.overlap - 2 * self.trim) * self.scale

    def start(self, index: int) -> int:
        """Return the first input voxel of patch `index`; negative at the first face."""
        return index * self.stride - self.overlap

    def weight_start(self, index: int) -> int:
        """Return the first output voxel on which patch `index` has weight."""
        return (self.start(index) + self.trim) * self.scale

    def weight_stop(self, index: int) -> int:
        """Return the end of the output voxels on which patch `index` has weight."""
        return ((index + 1) * self.stride - self.trim) * self.scale

    def touching(self, start: int, stop: int) -> range:
        """Return the patches with weight in the output voxels ``start .. stop``, which lie within the axis."""
        step = self.stride * self.scale
        first = (start + self.trim * self.scale) // step
        last = -(-(stop + (self.overlap - self.trim) * self.scale) // step) - 1
        return range(first, last + 1)

    def place(self, index: int, start: int, stop: int) -> Placement:
        """Return where patch `index` goes in a core of the output voxels ``start .. stop``."""
        patch_start = self.start(index) * self.scale
        low = self.weight_start(index)
        high = self.weight_stop(index)
        ramp_stop = low + self.ramp_length
        ramp = (min(max(low, start), stop), min(max(ramp_stop, start), stop))
        copy = (min(max(ramp_stop, start), stop), min(max(high, start), stop))
        return Placement(
            ramp_source=slice(ramp[0] - patch_start, ramp[1] - patch_start),
            ramp_target=slice(ramp[0] - start, ramp[1] - start),
            ramp_weight=slice(ramp[0] - low, ramp[1] - low),
            copy_source=slice(copy[0] - patch_start, copy[1] - patch_start),
            copy_target=slice(copy[0] - start, copy[1] - start),
        )


@dataclass(frozen=True)
class Lattice:
    """The patches of a volume: one :class:`AxisLattice` per axis.

    Parameters
    ----------
    z, y, x : AxisLattice
        The axes.
    context : int
        Sections read on each side of a patch beyond its own, along z (2.5D models).
    """

    z: AxisLattice
    y: AxisLattice
    x: AxisLattice
    context: int = 0

    @property
    def axes(self) -> tuple[AxisLattice, AxisLattice, AxisLattice]:
        """The three axes in z, y, x order."""
        return self.z, self.y, self.x

    @property
    def patch(self) -> Triple:
        """Shape of a patch in input voxels, without z context."""
        return self.z.patch, self.y.patch, self.x.patch

    @property
    def scale(self) -> Triple:
        """Output voxels per input voxel."""
        return self.z.scale, self.y.scale, self.x.scale

    @property
    def shape(self) -> Triple:
        """Shape of the input volume in voxels."""
        return self.z.size, self.y.size, self.x.size

    @property
    def output_shape(self) -> Triple:
        """Shape of the output volume in voxels."""
        return self.z.size * self.z.scale, self.y.size * self.y.scale, self.x.size * self.x.scale

    @property
    def count(self) -> int:
        """Number of distinct patches of the whole volume."""
        return self.z.count * self.y.count * self.x.count
