"""What a training is: one YAML file, checked before a voxel is read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from volumetool.configuration import Nanometres, Numbers, explain, parse_box, read_options
from volumetool.degradation import RECIPE_ENDINGS, Crappifier
from volumetool.errors import ConfigError
from volumetool.geometry import Box
from volumetool.models import Normalisation, UNetConfig, VoxelSizeRange
from volumetool.paths import absolute_path
from volumetool.storage.io.urls import check_foreign
from volumetool.training.blind_spot import BlindSpotConfig
from volumetool.training.data.neighbours import NeighbourConfig
from volumetool.training.losses import LossConfig


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] <= span[1]:
        raise ValueError(f"{span} does not run from the smaller to the larger value")
    return span


def _above_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    if min(values) <= 0:
        raise ValueError(f"{values} must be above 0")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Factors = Annotated[Range, AfterValidator(_above_zero)]
Whole = Annotated[tuple[int, int], AfterValidator(_ordered), AfterValidator(_above_zero)]
Counts = Annotated[Numbers, AfterValidator(_above_zero)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(_Part):
    """One volume to learn from.

    Parameters
    ----------
    path : str
        Fine, clean volume or TIFF stack, relative to the configuration; the noisy one in a training without clean images.
    noisy : str, optional
        Stack of the same field from a real fast microscope, registered or nearly registered, with as many sections and with
        voxels that are `scale` times larger. Without it, pairs are made by crappifying.
    weight : float
        How often the source is drawn, relative to the other sources.
    boxes : tuple of Box
        Parts to learn from, ``z0:z1,y0:y1,x0:x1`` in voxels; empty for all of it.
    level : int
        Level of a multiscale volume.
    voxel_size : tuple of float, optional
        Voxel size along z, y, x in nm; needed where the files do not say it.
    limits : tuple of float, optional
        Grey values taken as black and white of an 8-bit detector. By default 0 and 255 for 8-bit data; for others the range
        in which percentiles 1 and 99 stand at a tenth and nine tenths.
    planes : {"z", "all"}
        ``all`` also cuts across x and y: for volumes with cubic voxels, which then teach three times as much.
    mean : tuple of int
        Blocks of this many voxels are meaned first: the same volume as a coarser scanner would give it.
    slab : tuple of int
        For 2D models, the fewest and most neighbouring sections that are meaned into one: thick sections.
    z_step : tuple of int
        For 2.5D models, the least and largest distance of neighbouring input sections, in sections of the source.
    stack : bool
        Whether the sections follow each other. If not, they are single images or tiles, which have no neighbours.
    cite, licence : str
        Citation and licence of the data, for the model card.
    """

    path: str
    noisy: str | None = None
    weight: float = Field(1.0, gt=0)
    boxes: tuple[Annotated[Box, BeforeValidator(parse_box)], ...] = ()
    level: int = Field(0, ge=0)
    voxel_size: Nanometres | None = None
    limits: Range | None = None
    planes: Literal["z", "all"] = "z"
    mean: Counts = (1, 1, 1)
    slab: Whole = (1, 1)
    z_step: Whole = (1, 1)
    stack: bool = True
    cite: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _check(self) -> SourceConfig:
        cut = {"boxes": (), "planes": "z", "mean": (1, 1, 1), "slab": (1, 1), "z_step": (1, 1)}
        odd = [name for name, plain in cut.items() if getattr(self, name) != plain]
        if self.noisy is not None and odd:
            raise ValueError(f"a real pair is learnt from as it is, without {', '.join(odd)}; cut the stacks themselves")
        return self


class DegradationConfig(_Part):
    """Degradation of fine crops to coarse, noisy ones.

    Parameters
    ----------
    recipes : tuple of str or Crappifier
        To draw from: names, YAML files, or what stands in such a file.
    noise, blur : tuple of float
        Ranges of the factors on the recipe's noise (its standard deviation; drawn evenly on a log scale) and blur.
    """

    recipes: tuple[str | Crappifier, ...] = ("pssr-em", "pssr2-poisson", "sem-fast")
    noise: Factors = (0.5, 2.0)
    blur: Factors = (1.0, 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the recipes; of a file, without its folder: it may move."""
        return tuple(each.name if isinstance(each, Crappifier) else each.rsplit("/", 1)[-1] for each in self.recipes)


class AugmentationConfig(_Part):
    """Variation of the fine crops, so that other tissue, stains and detectors are no surprise. Flips and rotations are free.

    Parameters
    ----------
    zoom : tuple of float
        Enlargement in plane before anything else, 2D models only, drawn evenly on a log scale: the structures of other
        tissue, and of other voxel sizes, are larger or smaller in voxels.
    gamma, contrast, brightness : tuple of float
        Exponent on 0..1; factor around mid grey, drawn evenly on a log scale; offset.
    sharpness : tuple of float
        Gain of an unsharp mask of 0.7 to 2 voxels; negative values blur.
    grain : tuple of float
        Standard deviation, in grey levels of 255, of fine texture that belongs to the truth: a network that has seen smooth
        data alone takes other tissue's texture for noise and wipes it off.
    """

    zoom: Factors = (1.0, 1.0)
    gamma: Factors = (0.7, 1.4)
    contrast: Factors = (0.6, 1.8)
    brightness: Range = (-0.1, 0.1)
    sharpness: Range = (0.0, 0.0)
    grain: Range = (0.0, 16.0)


class SamplingConfig(_Part):
    """The crops of one training step.

    Parameters
    ----------
    crop : tuple of int
        Coarse voxels along z, y, x; z is 1 for 2D models.
    acquisitions : int
        Simulated acquisitions per step: each draws a source, a recipe, a noise and a contrast.
    crops : int
        Crops per acquisition.
    """

    crop: Counts = (1, 60, 60)
    acquisitions: int = Field(4, ge=1)
    crops: int = Field(2, ge=1)


class ValidationConfig(_Part):
    """The part of every source that is kept apart.

    Parameters
    ----------
    share : float
        Share of the longest axis of each box, at its end.
    gap : int
        Voxels between the parts that belong to neither, so that no structure reaches into both.
    batches : int
        Number of fixed batches that measure the progress.
    """

    share: float = Field(0.1, ge=0, lt=0.9)
    gap: int = Field(16, ge=0)
    batches: int = Field(4, ge=0)


class OptimiserConfig(_Part):
    """AdamW and its schedule.

    Parameters
    ----------
    learning_rate : float
        Peak of the learning rate.
    schedule : {"cosine", "one-cycle"}
        ``cosine``: linear rise over the first 5 %, then half a cosine to a hundredth of the peak. ``one-cycle`` (Smith and
        Topin 2018): cosine from a 25th of the peak over the first 30 %, then down to next to nothing.
    weight_decay : float
        Weight decay of AdamW.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the running mean of the weights, which becomes the model.
    """

    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    weight_decay: float = Field(1e-3, ge=0)
    clip: float = Field(10.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)


class CardConfig(_Part):
    """Facts of the card that the trainer cannot measure.

    Parameters
    ----------
    description : str
        One or two sentences for ``volumetool model list``.
    licence : str
        Licence of the weights; an SPDX expression where there is one.
    polarity : str
        What dark and bright mean in the data.
    smallest, largest : tuple of float, optional
        Coarse voxel sizes it is meant for, nm, z, y, x. By default half to twice of those trained on.
    stride : tuple of int
        Patch without its overlap, coarse voxels; the overlap itself is measured.
    """

    description: str = ""
    licence: str = "unknown"
    polarity: str = "dark membranes on bright cytoplasm"
    smallest: Nanometres | None = None
    largest: Nanometres | None = None
    stride: Counts | None = None

    @model_validator(mode="after")
    def _check(self) -> CardConfig:
        if self.smallest is not None and self.largest is not None:
            VoxelSizeRange(smallest=self.smallest, largest=self.largest)
        return self


class TrainConfig(_Part):
    """One training.

    Parameters
    ----------
    name : str
        Name of the model: lower-case letters, digits, dots and dashes. The file is NAME.safetensors in the output folder.
    architecture : UNetConfig
        The network; its scale decides what is learnt: (1,4,4), or (1,1,1) to remove noise alone.
    start : str, optional
        Model to go on from: a built-in name or a file. Tensors of another shape, such as a head for another scale, start
        afresh; if the network is wider and otherwise the same, it begins as the same function.
    sources : tuple of SourceConfig
        Volumes to learn from.
    jitter : float
        Random error of the percentiles, as a share of their distance.
    blind_spot : BlindSpotConfig, optional
        Learn to denoise from noisy images alone, hiding voxels from the network (Noise2Void); needs scale (1,1,1).
    steps : int
        Optimiser steps of the whole training.
    precision : {"bfloat16", "float32"}
        Precision of the convolutions; weights, loss and optimiser are float32.
    device : {"auto", "cpu", "cuda"}
        Device to train on.
    devices : int
        Number of GPUs, or of processes on a CPU. Each draws other batches, so that a step sees that many times more.
    threads : int, optional
        CPU threads; a resumed training keeps those it began with, since they decide how sums are rounded.
    workers : int
        Threads that draw the next batches meanwhile.
    checkpoint_minutes : float
        Minutes between checkpoints: the most work that a killed training can lose.
    seed : int
        Decides first weights, crops, noise and contrasts; these are drawn per step, so that resuming changes none.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    architecture: UNetConfig = UNetConfig()
    start: str | None = None
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    degradation: DegradationConfig = DegradationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    neighbours: NeighbourConfig = NeighbourConfig()
    sampling: SamplingConfig = SamplingConfig()
    validation: ValidationConfig = ValidationConfig()
    normalisation: Normalisation = Normalisation()
    jitter: float = Field(0.03, ge=0)
    loss: LossConfig = LossConfig()
    blind_spot: BlindSpotConfig | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    card: CardConfig = CardConfig()
    steps: int = Field(8000, ge=1)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)
    workers: int = Field(1, ge=1)
    checkpoint_minutes: float = Field(5.0, ge=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        scale, crop = self.architecture.scale, self.sampling.crop
        if self.blind_spot is not None and (scale != (1, 1, 1) or self.architecture.expected_error):
            raise ValueError(f"blind_spot removes noise, keeps the scale (1,1,1), not {scale}, and can learn no expected_error")
        if self.normalisation.kind != "percentiles":
            raise ValueError("normalisation.kind is percentiles for what is trained; other kinds are for networks of others")
        unpaired = self.blind_spot is None and all(source.noisy is None for source in self.sources)
        if self.architecture.z_context and not unpaired:
            raise ValueError("z_context wants neighbouring sections, which neither real pairs nor blind_spot give")
        if self.blind_spot is not None and any(source.noisy is not None for source in self.sources):
            raise ValueError("blind_spot learns from noisy images alone: name them as path, and leave `noisy` out")
        ignored = sorted({"degradation", "augmentation"} & self.model_fields_set)
        if ignored and (self.blind_spot is not None or all(source.noisy is not None for source in self.sources)):
            why = "blind_spot takes" if self.blind_spot is not None else "registered pairs are taken"
            raise ValueError(f"{why} noisy images as they are: leave {' and '.join(ignored)} out")
        if self.architecture.dims == 2 and self.card.stride is not None and self.card.stride[0] != 1:
            raise ValueError(f"a 2D model has a stride of 1 along z, not card.stride {self.card.stride}")
        if self.architecture.dims == 2 and crop[0] != 1:
            raise ValueError(f"a 2D model takes crops of one section, not sampling.crop {crop}; neighbours are z_context")
        if any(n % g for n, g in zip(crop, self.architecture.granularity, strict=True)):
            raise ValueError(f"sampling.crop {crop} must be multiples of the network's {self.architecture.granularity}")
        if self.architecture.dims == 3 and self.augmentation.zoom != (1.0, 1.0):
            raise ValueError(f"augmentation.zoom {self.augmentation.zoom} stretches sections, which 3D models do not look at")
        return self

    def semantic(self) -> dict[str, Any]:
        """Return what decides the weights, as plain JSON values; two trainings that differ here must not be mixed."""
        runtime = {"card", "checkpoint_minutes", "threads", "device", "workers"}
        content = self.model_dump(mode="json", exclude=runtime)
        for source in content["sources"]:
            for key in ("path", "noisy"):
                source[key] = source[key] and source[key].rstrip("/").rsplit("/", 1)[-1]  # data may move
            del source["cite"], source["licence"]
        content["degradation"]["recipes"] = list(self.degradation.names)
        content["start"] = content["start"] and content["start"].rsplit("/", 1)[-1]
        return content


def make_config(content: dict[str, Any]) -> TrainConfig:
    """Check a training's options.

    Raises
    ------
    ConfigError
        ``config.option``: unknown option, or a value that cannot be.
    """
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("config.option", explain(error, TrainConfig), hint="see `volumetool schema train`") from error


def read_config(path: Path, allow_hosts: Collection[str] = ()) -> TrainConfig:
    """Read a training's YAML file; paths in it, also of recipes and of a model to start from, are relative to its folder.

    Parameters
    ----------
    path : Path
        The file. It may have been made by others: of the network it reaches public hosts alone.
    allow_hosts : collection of str
        Hosts that it may name although they are not public.

    Raises
    ------
    ConfigError
        ``config.file``, ``config.option`` and ``config.private-host``.
    InputError
        ``input.url``, ``input.url-secret``.
    """
    content = read_options(path)
    sources = content.get("sources")
    for source in sources if isinstance(sources, list) else ():
        for key in ("path", "noisy"):
            if isinstance(source, dict) and isinstance(source.get(key), str):
                check_foreign(source[key], allow_hosts)
                source[key] = _beside(path, source[key])
    if str(content.get("start", "")).endswith(".safetensors"):
        content["start"] = _beside(path, content["start"])
    degradation = content.get("degradation")
    if isinstance(degradation, dict) and isinstance(degradation.get("recipes"), list):
        degradation["recipes"] = [_beside(path, r) if str(r).endswith(RECIPE_ENDINGS) else r for r in degradation["recipes"]]
    return make_config(content)


def _beside(file: Path, place: str) -> str:
    return place if "://" in place else str(absolute_path(place if place.startswith("~") else file.parent / place))


def change_config(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Return a configuration with some options replaced; None keeps what it has.

    Raises
    ------
    ConfigError
        ``config.option``: a value that cannot be.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return make_config(config.model_dump(exclude_unset=True) | given)
