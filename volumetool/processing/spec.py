"""The output's specification: everything that decides a stored byte. What is hashed is what is executed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from volumetool.configuration import OutputChannel, planes_of
from volumetool.errors import FingerprintError
from volumetool.geometry import Box, Lattice, LevelGrid, PatchSharing, Region, RegionGrid, Triple, slab_boxes
from volumetool.processing.sections.curves import GreyCurves
from volumetool.processing.sections.repair import SectionRepair
from volumetool.processing.statistics import Statistics
from volumetool.storage.create import VolumeLayout
from volumetool.storage.downsample import Reduction
from volumetool.storage.writing.names import DEFAULT, WrittenName

NUMERICS_VERSION = 2
"""Raised whenever a change of the code changes an output byte: blending, rounding, statistics, mirroring, pyramid."""


@dataclass(frozen=True)
class Numerics:
    """How an operation is computed, as far as it can change a byte.

    Parameters
    ----------
    precision : str
        ``float32`` or ``bfloat16``, of a network's body.
    batch : int
        Patches per call.
    pad : bool
        Fill the last batch up, because on this class of machine a smaller one gives other bytes.
    """

    precision: str
    batch: int
    pad: bool


class OutputSpec(BaseModel):
    """Everything that decides the bytes of an output, resolved; every field counts.

    Parameters
    ----------
    input : str
        Identity of the metadata of the input's level; not its path, so that a volume may move.
    level : int
        Level of the input.
    model : str
        SHA-256 of weights and of the card's fields that change a voxel.
    lattice : Lattice
        Positions of all patches.
    precision : str
        Precision of the network's body.
    padded_batch : int, optional
        Patches per call, where that number changes bytes.
    statistics : Statistics
        Percentiles of every section of the input.
    seed : int
        Seed of the sample for the statistics.
    equalise_sections : bool
        Give all sections the volume's median contrast on output, instead of each its own.
    invert : bool
        The volume's polarity is opposite to the model's: turned before the network and back after it.
    nodata : float, optional
        Input value that marks missing voxels; NaN marks NaN.
    fill : float
        Output value of missing voxels.
    mask : str, optional
        Identity of the mask's metadata.
    missing : str
        What chunks of the input that are not stored mean: ``fill``, ``fail`` or ``skip``.
    dtype : str
        NumPy name of the output's dtype.
    box : Box
        Voxels of the full output that this output holds.
    channels : int, optional
        Channels of the output; None for no c axis.
    levels : tuple of LevelGrid
        Layout of the output.
    format : str
        Format of the output; not part of `plain` where it is the default.
    restores : bool
        The operation's values go back to grey values of the input; not part of `plain` where they do.
    inputs : int
        Volumes that the operation takes. Of two, `mask` is the identity of the second, and nothing is left out by it; not part
        of `plain` where it is 1.
    outputs : tuple of OutputChannel
        What is made of each channel of the input, in the order of the c axis; empty, and then not part of `plain`, for one.
    reference : int
        Sections around each whose median contrast it gets when equalised; 0, and then not part of `plain`, for all.
    spares : bool
        What `OperationCard.spares` says; not part of `plain` where it is true.
    curves : GreyCurves, optional
        What grey values of a section become before they are rounded; not part of `plain` where there are none.
    trust : str
        NumPy name of the dtype of a second volume, which holds all but the first of `outputs`: then `channels` are those of the
        image alone. Empty, and then not part of `plain`, where one volume holds all.
    trust_level : int
        The level of the output on whose grid that volume begins; 0, and then not part of `plain`, for the finest.
    store_error : float
        Voxels of the image are rounded to steps of at most this times their expected error, which is the second of the channels
        that the operation makes, stored or not; 0, and then not part of `plain`, for no such steps.
    repair : SectionRepair, optional
        Which sections of the input are bad, and what is done about them; not part of `plain` where nothing is.
    numerics_version : int
        The rules by which bytes are made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    input: str
    level: int
    model: str
    lattice: Lattice
    precision: str
    padded_batch: int | None
    statistics: Statistics
    seed: int
    equalise_sections: bool
    invert: bool
    nodata: float | None
    fill: float
    mask: str | None
    missing: str
    dtype: str
    box: Box
    channels: int | None
    levels: tuple[LevelGrid, ...]
    format: WrittenName = DEFAULT
    restores: bool = True
    inputs: int = 1
    outputs: tuple[OutputChannel, ...] = ()
    reference: int = 0
    spares: bool = True
    curves: GreyCurves | None = None
    trust: str = ""
    trust_level: int = 0
    store_error: float = 0.0
    repair: SectionRepair | None = None
    numerics_version: int = NUMERICS_VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the specification's canonical JSON."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """Return the specification as JSON values, with the digest of the statistics in place of their table."""
        usual = {
            "format": DEFAULT,
            "restores": True,
            "inputs": 1,
            "outputs": (),
            "reference": 0,
            "spares": True,
            "trust": "",
            "trust_level": 0,
            "store_error": 0.0,
            "repair": None,
        }
        unsaid = {"statistics", "curves", *(name for name, value in usual.items() if getattr(self, name) == value)}
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude=unsaid))  # NaN as text
        if self.lattice.shrink == (1, 1, 1):
            del values["lattice"]["shrink"]
        curves = {} if self.curves is None else {"curves": self.curves.digest}
        return values | curves | {"statistics": self.statistics.digest}

    @property
    def layout(self) -> VolumeLayout:
        """Layout of the output volume."""
        return self.layouts[0]

    @property
    def layouts(self) -> tuple[VolumeLayout, ...]:
        """Layouts of the volumes that are written: the output, and the trust volume where there is one."""
        kept = {"omero": self._display(0)} if self.outputs and not self.trust else {}
        image = VolumeLayout(self.dtype, self.levels, self.channels, fill_value=self.fill, format=self.format, kept=kept)
        if not self.trust:
            return (image,)
        count, kept = (self.channels or 1) * (self.per_input - 1), {"omero": self._display(1)}
        first, *coarser = self.levels[self.trust_level :]
        levels = (replace(first, factor=(1, 1, 1)), *coarser)
        return image, VolumeLayout(self.trust, levels, count, format=self.format, kept=kept)

    def stored(self, channel: int) -> tuple[int, int]:
        """Return where a channel is written: which of `layouts`, and the index on its c axis."""
        if not self.trust:
            return 0, channel
        source, number = divmod(channel, self.per_input)
        return (1, source * (self.per_input - 1) + number - 1) if number else (0, source)

    def level_of(self, channel: int) -> int:
        """Return the level of the output on whose grid the volume of a channel begins."""
        return self.trust_level if self.stored(channel)[0] else 0

    def block_of(self, channel: int) -> Triple:
        """Return the voxels of the output for which the operation gives one value of a channel."""
        return self.outputs[channel % self.per_input].block if self.outputs else (1, 1, 1)

    def shadows(self, box: Box) -> list[tuple[int, int, Box]]:
        """Return what a box of the output is on the levels that regions write.

        Returns
        -------
        list of (int, int, Box)
            Channel, of those that are made of one of the input; level of its volume; voxels there.
        """
        boxes = slab_boxes(box, self.fused)
        return [(n, *each) for n in range(self.per_input) for each in enumerate(boxes[self.level_of(n) :])]

    def image_channel(self, index: int) -> int:
        """Return the channel that stands at an index on the output's c axis."""
        return index * self.per_input if self.trust else index

    def dtype_of(self, channel: int) -> str:
        """Return the NumPy name of the dtype in which a channel is written."""
        return self.trust if self.stored(channel)[0] else self.dtype

    def fill_of(self, channel: int) -> float:
        """Return what a channel holds where the input has no data."""
        return 0.0 if self.stored(channel)[0] else self.fill

    def nodata_of(self, channel: int) -> float | None:
        """Return the value that means no data in a channel; None where none does, as in a trust volume."""
        return None if self.stored(channel)[0] else self.output_nodata

    @property
    def itemsize(self) -> int:
        """Bytes per voxel of the output."""
        return np.dtype(self.dtype).itemsize

    @property
    def voxel_bytes(self) -> float:
        """Bytes per voxel of the output, before it is stored, of all channels that are made of one channel of the input."""
        numbers = range(self.per_input)
        return sum(np.dtype(self.dtype_of(number)).itemsize / math.prod(self.block_of(number)) for number in numbers)

    @property
    def fused(self) -> tuple[LevelGrid, ...]:
        """The levels that a region writes itself."""
        return tuple(level for level in self.levels if level.fused)

    @property
    def gaps(self) -> bool:
        """Whether voxels of chunks that are not stored are missing."""
        return self.missing == "skip"

    @property
    def output_nodata(self) -> float | None:
        """Value that means no data in the output; None if every voxel holds data."""
        return self.fill if self.nodata is not None or self.gaps else None

    def reduction(self, channel: int) -> Reduction:
        """Return how a level of a channel is made from the one before."""
        return Reduction(nodata=self.nodata_of(channel))

    def grid(self, span: Triple) -> RegionGrid:
        """Return the regions of `span` shards each."""
        return RegionGrid(self.box.shape, self.levels[0].shard, span, self.count // self.per_input)

    @property
    def count(self) -> int:
        """Channels of all volumes that are written."""
        return (self.channels or 1) * (self.per_input if self.trust else 1)

    @property
    def per_input(self) -> int:
        """Channels of the output that are made of each channel of the input."""
        return len(self.outputs) or 1

    @property
    def made(self) -> tuple[OutputChannel, ...]:
        """What the operation makes: `outputs`, and second the error expected of each voxel, if `store_error` needs it."""
        if not self.store_error or (self.outputs and self.outputs[1].block == (1, 1, 1)):
            return self.outputs
        error = OutputChannel(name="expected-error", values="difference")
        return (*(self.outputs[:1] or (OutputChannel(name="image"),)), error, *self.outputs[1:])

    @property
    def predicted(self) -> int:
        """Arrays of the output's shape that hold what the operation makes of a patch; 0 for one without an axis of channels."""
        return planes_of(self.made)[-1][0] + 1 if self.made else 0

    @property
    def rounded(self) -> str:
        """What `store_error` means, in words."""
        return (
            f"voxels of the finest level are off by at most half of {self.store_error:g} times the error that the network "
            "expects of them: each is a multiple of a power of two, the largest that is not above that"
        )

    def output_channels(self, channel: int) -> range:
        """Return the channels of the output that are made of a channel of the input: they follow each other."""
        return range(channel * self.per_input, (channel + 1) * self.per_input)

    def sharing(self, span: Triple) -> PatchSharing:
        """Return which regions of `span` shards each need which patches."""
        return PatchSharing(self.grid(span), self.lattice, self.origin)

    def core(self, region: Region) -> Box:
        """Return the voxels of the full output that a region computes."""
        return region.box.shifted(self.origin)

    @property
    def origin(self) -> Triple:
        """Voxel of the full output at which this output begins; (0, 0, 0) unless it is cropped."""
        return self.box.start

    def input_scale(self, channel: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what normalises each section: the network sees ``(voxel - zero) / span``.

        Returns
        -------
        zero, span : numpy.ndarray of float32, shape (sections,)
            In the units of the input's voxels; `span` is negative if the job inverts.
        """
        return self._scale(self.statistics.low[channel], self.statistics.high[channel])

    def output_scale(self, channel: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what turns network values into intensities: a voxel is ``network * span + zero``.

        Parameters
        ----------
        channel : int
            Channel of the output.

        Returns
        -------
        zero, span : numpy.ndarray of float32, shape (sections,)
            Per section of the input; of all sections the same if the job flattens.
        """
        source, number = divmod(channel, self.per_input)
        low, high = self.statistics.low[source], self.statistics.high[source]
        values = self.outputs[number].values if self.outputs else "grey"
        if not self.restores or values == "plain":
            return np.zeros_like(low, np.float32), np.ones_like(high, np.float32)
        if self.equalise_sections:
            low, high = self._median(low), self._median(high)
        if values == "difference":  # the polarity turns no sign of a size
            return np.zeros_like(low, np.float32), (high - low).astype(np.float32)
        return self._scale(low, high)

    def window(self, channel: int) -> tuple[float, float]:
        """Return black and white of a channel of the output: what 0 and 1 become, or all that an integer type holds."""
        zero, span = (float(np.median(part)) for part in self.output_scale(channel))
        low, high = sorted((zero, zero + span))
        dtype = np.dtype(self.dtype_of(channel))
        if dtype.kind not in "iu":
            return low, high
        holds = np.iinfo(dtype)
        return (holds.min, holds.max) if (low, high) == (0, 1) else (max(low, holds.min), min(high, holds.max))

    def _display(self, volume: int) -> dict[str, Any]:
        """Return the display settings of a volume's channels as OME-Zarr has them: the name of each, and its own window."""
        channels: list[dict[str, Any]] = []
        for number in (each for each in range(self.count) if self.stored(each)[0] == volume):
            low, high = self.window(number)
            window, label = {"min": low, "max": high, "start": low, "end": high}, self.outputs[number % self.per_input].name
            channels.append({"label": label, "color": "FFFFFF", "active": not channels, "window": window})
        return {"channels": channels}

    def _median(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the median over all sections, or over those around each, mirrored at the ends."""
        if not self.reference:
            return np.full_like(values, np.median(values))
        from scipy import ndimage  # where nothing is equalised, nothing here needs it

        around: NDArray[np.float64] = ndimage.median_filter(values, self.reference, mode="mirror")
        return around

    def _scale(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        zero, span = (high, low - high) if self.invert else (low, high - low)
        return zero.astype(np.float32), span.astype(np.float32)


def check_version(output: str, before: int) -> None:
    """Refuse to go on with an output whose bytes were made by other rules.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``.
    """
    if before != NUMERICS_VERSION:
        raise FingerprintError(
            "job.fingerprint",
            f"{output} was begun by another version of volumetool, which makes other bytes: "
            f"numerics_version {before} then, {NUMERICS_VERSION} now",
            hint="go on with the version that began it, or begin anew at another place (enhance: or with --overwrite)",
        )
