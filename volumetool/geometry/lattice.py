r"""The lattice: the positions of all patches of a volume, one per job, anchored at the volume's origin.

Along one axis, with stride s, overlap o, trim t and margin m, patch i covers the voxels ``[i*s - m, i*s - m + s + o)`` and is
given weight on all of them but the outer t::

    patch i-1   ....________________________\....
    patch i                             ..../________________________\....
                                        |  ||  |
                                        o  trim, ramp, trim

In the overlap of two neighbours the outer `trim` voxels of each, those nearest to its border, where the network sees its own
zero padding, weigh nothing; over the ``o - 2t`` voxels between them the later patch takes over from the earlier one. With
``2t == o`` there is no ramp: a plain cut in the middle of the overlap.

At the faces of the volume it is as inside: a patch counts in full from ``o - t`` voxels behind its border on. So the first
patch begins m before the face, which is ``o - t`` rounded up to the network's granularity; the last one ends ``o - t`` or more
behind the other face; what lies outside is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from volumetool.errors import ConfigError
from volumetool.geometry.box import Box, Triple
from volumetool.geometry.mirror import mirror_index


@dataclass(frozen=True)
class Placement:
    """The placement of one patch's output along one axis, within a core; all in output voxels.

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
    granularity : int
        Patches start on multiples of this, in input voxels.

    Raises
    ------
    ConfigError
        ``config.lattice`` where ``0 <= 2*trim <= overlap <= stride`` does not hold, or stride and overlap are no multiples of
        the granularity. Where one patch is enough nothing overlaps it, and its stride may be less.
    """

    size: int
    stride: int
    overlap: int
    trim: int
    scale: int
    granularity: int = 1

    def __post_init__(self) -> None:
        positive = min(self.size, self.stride, self.scale, self.granularity) >= 1
        whole = positive and self.stride % self.granularity == self.overlap % self.granularity == 0
        if not (whole and 0 <= 2 * self.trim <= self.overlap and (self.overlap <= self.stride or self.count == 1)):
            raise ConfigError(
                "config.lattice",
                f"stride {self.stride}, overlap {self.overlap} and trim {self.trim} make no lattice over {self.size} voxels",
                hint="0 <= 2 * trim <= overlap <= stride must hold: take a larger --patch or a smaller --overlap"
                + (f"; multiples of {self.granularity}" if self.granularity > 1 else ""),
            )

    @property
    def patch(self) -> int:
        """Length of a patch, in input voxels."""
        return self.stride + self.overlap

    @property
    def margin(self) -> int:
        """Input voxels by which the first patch lies before the axis."""
        return -(-(self.overlap - self.trim) // self.granularity) * self.granularity

    @property
    def reach(self) -> int:
        """Input voxels from where the first patch has weight to the end of the axis: as many as the strides must cover."""
        return self.size + self.margin - self.trim

    @property
    def count(self) -> int:
        """Number of patches that have weight inside the axis."""
        return -(-self.reach // self.stride)

    @property
    def ramp_length(self) -> int:
        """Output voxels over which one patch takes over from the one before."""
        return (self.overlap - 2 * self.trim) * self.scale

    def start(self, index: int) -> int:
        """Return the first input voxel of patch `index`; negative at the first face."""
        return index * self.stride - self.margin

    def weight_start(self, index: int) -> int:
        """Return the first output voxel on which patch `index` has weight."""
        return (self.start(index) + self.trim) * self.scale

    def weight_stop(self, index: int) -> int:
        """Return the end of the output voxels on which patch `index` has weight."""
        return (self.start(index) + self.patch - self.trim) * self.scale

    def touching(self, start: int, stop: int) -> range:
        """Return the patches with weight in the output voxels ``start .. stop``, which lie within the axis."""
        step = self.stride * self.scale
        first = (start - self.weight_stop(0)) // step + 1
        last = -(-(stop - self.weight_start(0)) // step) - 1
        return range(first, last + 1)

    def needed(self, start: int, stop: int, context: int = 0) -> tuple[int, int]:
        """Return the range of input voxels that the output voxels ``start .. stop`` are computed from.

        Parameters
        ----------
        start, stop : int
            Half-open range of output voxels within the axis.
        context : int
            Voxels read on each side of a patch beyond its own.
        """
        patches = self.touching(start, stop)
        voxels = mirror_index(self.start(patches[0]) - context, self.start(patches[-1]) + self.patch + context, self.size)
        return int(voxels.min()), int(voxels.max()) + 1

    def place(self, index: int, start: int, stop: int) -> Placement:
        """Return which part of a patch goes where in a core.

        Parameters
        ----------
        index : int
            Number of the patch along this axis.
        start, stop : int
            Half-open range of the core along this axis, in output voxels of the whole volume.

        Returns
        -------
        Placement
            Slices in output voxels, counted from the start of the patch, of the core and of the ramp. A slice is empty where
            the patch has no such part in the core.
        """
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
class PatchPlace:
    """Where a patch lies in its volume.

    Attributes
    ----------
    channel : int
        Channel of the input.
    start : tuple of int
        First voxel of the patch, z, y, x; negative where it lies over a first face.
    volume : tuple of int
        Shape of the input in voxels, as far as whole blocks go.
    """

    channel: int
    start: Triple
    volume: Triple


def balanced(line: AxisLattice) -> AxisLattice:
    """Return patches along the same axis, no more of them, that are as short as can be.

    A short axis is rarely a multiple of the card's stride; patches that are all a little smaller waste less than a last
    patch that is mostly mirror. On a long axis the result is `line` itself.
    """
    least = max(-(-line.reach // line.count), line.overlap if line.count > 1 else 1)
    return replace(line, stride=min(line.stride, -(-least // line.granularity) * line.granularity))


def joined(line: AxisLattice) -> AxisLattice:
    """Return the one patch that covers the axis."""
    return replace(line, stride=-(-line.reach // line.granularity) * line.granularity)


@dataclass(frozen=True)
class Lattice:
    """The patches of a volume: one :class:`AxisLattice` per axis.

    Where several voxels of the input become one, the axes count blocks of `shrink` of them, from the volume's origin; a block
    that the volume does not fill is left out.

    Parameters
    ----------
    z, y, x : AxisLattice
        Patches along each axis.
    context : int
        Sections read on each side of a patch beyond its own, along z (2.5D models).
    shrink : tuple of int
        Input voxels per voxel of the axes; other than 1 only where their scale is 1.
    """

    z: AxisLattice
    y: AxisLattice
    x: AxisLattice
    context: int = 0
    shrink: Triple = (1, 1, 1)

    @property
    def axes(self) -> tuple[AxisLattice, AxisLattice, AxisLattice]:
        """The three axes in z, y, x order."""
        return self.z, self.y, self.x

    @property
    def patch(self) -> Triple:
        """Shape of a patch in input voxels, without z context."""
        return self.in_input((self.z.patch, self.y.patch, self.x.patch))

    @property
    def stride(self) -> Triple:
        """Input voxels from one patch to the next."""
        return self.in_input((self.z.stride, self.y.stride, self.x.stride))

    def start(self, patch: Triple) -> Triple:
        """Return the first input voxel of a patch, by its indices; negative at the first faces."""
        return self.in_input((self.z.start(patch[0]), self.y.start(patch[1]), self.x.start(patch[2])))

    def over_blocks(self, block: Triple) -> Lattice:
        """Return the same patches for an output of one voxel for each block of voxels of this one; blocks divide the scale."""
        z, y, x = (replace(line, scale=line.scale // n) for line, n in zip(self.axes, block, strict=True))
        return replace(self, z=z, y=y, x=x)

    def in_input(self, lengths: Triple) -> Triple:
        """Return lengths or places along the axes in input voxels."""
        return lengths[0] * self.shrink[0], lengths[1] * self.shrink[1], lengths[2] * self.shrink[2]

    def made_of(self, box: Box) -> Box:
        """Return the voxels of the full output that are made of a box of the input: of blocks that it touches, too."""
        return box.coarsened(self.shrink).enlarged(self.scale)

    def section(self, z: int) -> int:
        """Return the section of the input that a section of the output stands for; of several the middle one."""
        return z // self.z.scale * self.shrink[0] + self.shrink[0] // 2

    @property
    def scale(self) -> Triple:
        """Output voxels per input voxel."""
        return self.z.scale, self.y.scale, self.x.scale

    @property
    def shape(self) -> Triple:
        """Shape of the input volume in voxels, as far as whole blocks go."""
        return self.in_input((self.z.size, self.y.size, self.x.size))

    @property
    def output_shape(self) -> Triple:
        """Shape of the output volume in voxels."""
        return self.z.size * self.z.scale, self.y.size * self.y.scale, self.x.size * self.x.scale

    def needed(self, box: Box) -> Box:
        """Return the input voxels, those of the z context included, that a box of the output is computed from."""
        lines = zip(self.axes, box.start, box.stop, (self.context, 0, 0), strict=True)
        start, stop = zip(*(line.needed(low, high, context) for line, low, high, context in lines), strict=True)
        return Box(start, stop).enlarged(self.shrink)

    @property
    def count(self) -> int:
        """Number of distinct patches of the whole volume."""
        return self.z.count * self.y.count * self.x.count
