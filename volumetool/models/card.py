"""The model card: what a model says of itself, so that a plan can be made before a weight is read.

The card travels inside the model file. It is data alone: the architecture is a configuration of a network that
volumetool knows, never code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from volumetool.configuration import OutputChannel, planes_of
from volumetool.models.unet import UNetConfig

ZYX = tuple[int, int, int]
Nanometres = tuple[float, float, float]
Precision = Literal["float32", "bfloat16"]


class Normalisation(BaseModel):
    """The scaling between grey values and network values.

    Parameters
    ----------
    kind : {"percentiles", "standard", "range", "limits", "none"}
        ``percentiles``: v becomes (v - lo) / (hi - lo), where lo and hi are the percentiles `low` and `high` of the
        volume's own coarse, noisy sections; the output goes back the same way. ``standard``: lo is the mean of a section, and
        hi - lo its standard deviation. ``range``: lo and hi are the ends of the input's integer type. ``limits``: lo and hi are
        black and white of the whole volume, of uint8 its ends, else extreme percentiles. ``none``: values pass unscaled.
    low, high : float
        Percentiles in 0..100.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["percentiles", "standard", "range", "limits", "none"] = "percentiles"
    low: float = Field(1.0, ge=0, le=100)
    high: float = Field(99.0, ge=0, le=100)

    @model_validator(mode="after")
    def _check(self) -> Normalisation:
        if self.low >= self.high:
            raise ValueError(f"the low percentile {self.low} must be below the high one {self.high}")
        return self


class VoxelSizeRange(BaseModel):
    """The coarse voxel sizes a model is meant for.

    Parameters
    ----------
    smallest, largest : tuple of float
        Nanometres along z, y, x, both included. A 2D model that takes any section thickness says so by a wide z range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    smallest: Nanometres
    largest: Nanometres

    @model_validator(mode="after")
    def _check(self) -> VoxelSizeRange:
        if any(not 0 < low <= high for low, high in zip(self.smallest, self.largest, strict=True)):
            raise ValueError(f"voxel sizes need 0 < smallest <= largest, not {self.smallest} and {self.largest}")
        return self

    def holds(self, voxel_size: Sequence[float]) -> bool:
        """Whether a voxel size in nm along z, y, x lies in the range."""
        return all(a <= v <= b for a, v, b in zip(self.smallest, voxel_size, self.largest, strict=True))


VALIDATION = "validation part of the training data"
"""Name of the set that was kept apart from the training: other sections of tissue that the model has seen."""


class Metric(BaseModel):
    """One measured figure.

    Parameters
    ----------
    dataset : str
        Name of the set, never seen in training: `VALIDATION`, or a kind of tissue and microscope.
    protocol : str
        How the set was degraded and compared, in a sentence.
    method : str
        ``net``, or the classical method it is compared with.
    psnr, ssim : float
        PSNR in dB, and SSIM in -1..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    protocol: str
    method: str
    psnr: float
    ssim: float


class Provenance(BaseModel):
    """The origin of a model.

    Parameters
    ----------
    data : tuple of str
        Training data: name, licence, how to cite.
    recipe : str
        How the training pairs were made, in a sentence or two.
    training : dict
        The training configuration, as it was.
    metrics : tuple of Metric
        Scores on sets that the model has not seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = ()
    recipe: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()

    @property
    def gains(self) -> dict[str, float]:
        """Gain over linear enlargement by kind of tissue, in dB of PSNR, the mean over protocols; `VALIDATION` is left out."""
        found: dict[str, list[float]] = {}
        for metric in self.metrics:
            if metric.method in ("net", "linear") and metric.dataset != VALIDATION:
                found.setdefault(metric.dataset, []).append(metric.psnr if metric.method == "net" else -metric.psnr)
        return {tissue: 2 * sum(values) / len(values) for tissue, values in found.items()}


class HistogramMatching(BaseModel):
    """What the histogram of each section is matched to.

    Parameters
    ----------
    span : int
        The sections around each, itself in the middle, as far as the volume goes; 0 for all of the volume.
    section : int or None
        One section instead, for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    span: int = Field(0, ge=0)
    section: int | None = Field(None, ge=0)


class OperationCard(BaseModel):
    """The card of an operation on patches. All lengths are input voxels along z, y, x unless another unit is named.

    Parameters
    ----------
    name : str
        What the user calls it: lower-case letters, digits, dots and dashes.
    dims : {2, 3}
        2 works section by section, 3 on blocks.
    scale : tuple of int
        Output voxels per input voxel.
    shrink : tuple of int
        Input voxels per output voxel; other than 1 only where the scale is 1, and then a divisor of granularity and trim.
    z_context : int
        Neighbouring sections on each side that a 2D operation takes as channels; 0 for 3D.
    patch, overlap : tuple of int
        Size of one patch, and the voxels it shares with the next; stride = patch - overlap.
    trim : tuple of int
        Outermost voxels of each patch whose output has weight zero where a neighbour overlaps; the
        overlap - 2 * trim voxels between are blended.
    granularity : tuple of int
        Patch starts and sizes are multiples of this.
    receptive_field : tuple of int
        Farthest input voxel, on one side, that can change an output voxel; measured.
    normalisation : Normalisation
        How grey values become the operation's values.
    restores : bool
        Its output goes back to grey values by the normalisation. Otherwise it is no image of the kind of its input, such as a
        probability: it is stored as it is, in float32 unless the job says another type.
    inputs : {1, 2}
        Volumes that it takes: its own, and with 2 one more on the same grid, which a job names.
    channels : tuple of OutputChannel
        What it makes of each input channel, in order; empty for a single output, which needs no c axis.
    spares : bool
        A patch of one value, and one that a mask leaves out, counts as its input, enlarged; of several channels the first does,
        and the others are 0. Otherwise each patch is computed, and one that a mask leaves out is 0.
    polarity : str
        What dark and bright mean in the data it was trained on.
    voxel_size : VoxelSizeRange or None
        Coarse voxel sizes it is meant for; None takes any.
    precision_safe : tuple of str
        Precisions whose results are known to be good.
    equalises : bool
        Sections get the volume's median contrast on output, whatever the job says.
    together : int
        Patches per call on a CPU: several where a call is short, and each patch has the same bytes whatever the others are.
    reference : int
        Sections around each whose median contrast it gets instead; 0 for all of the volume.
    matching : HistogramMatching or None
        The grey values that it makes get the histogram of other sections, by curves that the plan holds.
    pointwise : bool
        An output voxel depends on the input voxel at its place alone: where there are few grey values, each
        is computed once.
    about : str
        What a plan says of it, where its name does not tell: what it is, how far it looks, what seams remain.
    caution : str
        What a plan warns of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    dims: Literal[2, 3]
    scale: ZYX
    z_context: int = Field(0, ge=0)
    patch: ZYX
    overlap: ZYX
    trim: ZYX
    granularity: ZYX
    receptive_field: ZYX
    normalisation: Normalisation
    shrink: ZYX = Field((1, 1, 1), exclude_if=lambda shrink: shrink == (1, 1, 1))
    restores: bool = True
    inputs: Literal[1, 2] = Field(1, exclude_if=lambda inputs: inputs == 1)
    channels: tuple[OutputChannel, ...] = Field((), exclude_if=lambda channels: not channels)
    spares: bool = Field(True, exclude_if=bool)
    polarity: str = ""
    voxel_size: VoxelSizeRange | None = None
    precision_safe: tuple[Precision, ...] = ("float32",)
    equalises: bool = False
    together: int = Field(1, ge=1, exclude_if=lambda together: together == 1)
    reference: int = Field(0, ge=0, exclude_if=lambda sections: not sections)
    matching: HistogramMatching | None = Field(None, exclude_if=lambda matching: matching is None)
    pointwise: bool = Field(False, exclude_if=lambda pointwise: not pointwise)
    about: str = ""
    caution: str = ""

    @property
    def planes(self) -> int:
        """Arrays of the output's shape that hold what it makes of a patch; 0 for a single output, which has no such axis."""
        return planes_of(self.channels)[-1][0] + 1 if self.channels else 0

    @property
    def keeps_dtype(self) -> bool:
        """Whether all that it makes is grey values, which the data type of the input holds."""
        return self.restores and all(channel.values == "grey" for channel in self.channels)

    @property
    def exact_cut(self) -> bool:
        """Whether patches meet where both hold all that the operation looks at."""
        axes = zip(self.overlap, self.trim, self.receptive_field, strict=True)
        return all(2 * trim == overlap and trim >= far for overlap, trim, far in [*axes][3 - self.dims :])

    @property
    def stride(self) -> ZYX:
        """Distance between the starts of neighbouring patches, input voxels along z, y, x."""
        z, y, x = (size - shared for size, shared in zip(self.patch, self.overlap, strict=True))
        return z, y, x

    @model_validator(mode="after")
    def _check_lattice(self) -> OperationCard:
        if min(self.granularity) < 1:
            raise ValueError(f"the granularity {self.granularity} must be 1 or more")
        for axis, patch, overlap, trim, grain in zip("zyx", self.patch, self.overlap, self.trim, self.granularity, strict=True):
            if patch < 1 or patch % grain or overlap % grain:
                raise ValueError(f"{axis}: patch {patch} and overlap {overlap} must be multiples of {grain}")
            if not 0 <= 2 * trim <= overlap:
                raise ValueError(f"{axis}: trim {trim} on both sides must fit into the overlap {overlap}")
            if overlap > patch - overlap:
                raise ValueError(
                    f"{axis}: overlap {overlap} exceeds the stride {patch - overlap}; more than two patches would meet"
                )
        for axis, scale, shrink, grain, trim in zip("zyx", self.scale, self.shrink, self.granularity, self.trim, strict=True):
            if shrink > 1 and (scale > 1 or grain % shrink or trim % shrink or self.spares or self.z_context):
                raise ValueError(f"{axis}: {shrink} voxels become one, which scale, granularity, trim or the rest do not allow")
        if min(self.receptive_field) < 0:
            raise ValueError(f"the receptive field {self.receptive_field} cannot be negative")
        if self.dims == 2 and (self.patch[0], self.overlap[0]) != (1, 0):
            raise ValueError(f"a 2D model has patch 1 and overlap 0 along z, not {self.patch[0]} and {self.overlap[0]}")
        return self


class ModelCard(OperationCard):
    """The card of a model: that of its operation, and what holds for models alone.

    Parameters
    ----------
    description : str
        One or two sentences for ``model list``.
    licence : str
        Licence of the weights, an SPDX expression where there is one.
    seen : dict
        What the images were like that it was trained on: for each of `volumetool.processing.survey.FIGURES` the least, the 1st
        and 99th percentile, and the greatest over simulated acquisitions. Empty where nothing was simulated.
    error_factor : float or None
        Factor on expected errors with which their 90 % intervals hold on the validation part of the training data;
        None where there is no such part, or no such output.
    architecture : UNetConfig
        The network's configuration.
    provenance : Provenance
        Origin of the model.
    """

    description: str
    licence: str
    seen: dict[str, tuple[float, float, float, float]] = Field({}, repr=False)
    error_factor: float | None = Field(None, gt=0)
    architecture: UNetConfig
    provenance: Provenance = Field(Provenance(), repr=False)

    def semantic(self) -> dict[str, Any]:
        """Return the fields that can change an output voxel, as plain JSON values."""
        return self.model_dump(mode="json", include=_SEMANTIC)

    @model_validator(mode="after")
    def _check_architecture(self) -> ModelCard:
        for field in ("dims", "scale", "z_context"):
            mine, its = getattr(self, field), getattr(self.architecture, field)
            if mine != its:
                raise ValueError(f"the card says {field} {mine}, its architecture {its}")
        if any(g % a for g, a in zip(self.granularity, self.architecture.granularity, strict=True)):
            raise ValueError(
                f"granularity {self.granularity} must be a multiple of the network's {self.architecture.granularity}"
            )
        return self


_SEMANTIC = {
    "architecture",
    "dims",
    "granularity",
    "normalisation",
    "overlap",
    "patch",
    "scale",
    "trim",
    "z_context",
}
