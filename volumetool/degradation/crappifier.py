"""A crappifier: steps in order, one of them the reduction to the coarse grid."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from volumetool.configuration import explain, read_options
from volumetool.degradation.arrays import Array, BlockPosition, module_of
from volumetool.degradation.compression import BLOCK, Jpeg
from volumetool.degradation.noise import Clip, Gaussian, LineOffset, LocalGaussian, Poisson, SaltAndPepper, Shot
from volumetool.degradation.optics import Blur, Reduce
from volumetool.degradation.scan import Charging, Jitter, Lag
from volumetool.degradation.tone import Drift, Tone
from volumetool.errors import ConfigError
from volumetool.geometry import Triple
from volumetool.paths import replace_file

AnyStep = Annotated[
    Blur
    | Reduce
    | Poisson
    | Shot
    | Gaussian
    | LocalGaussian
    | SaltAndPepper
    | LineOffset
    | Clip
    | Jitter
    | Lag
    | Charging
    | Tone
    | Drift
    | Jpeg,
    Field(discriminator="kind"),
]


class Crappifier(BaseModel):
    """A model of a fast microscope: it degrades a fine image.

    Every random number belongs to a voxel's position, and every sum has a fixed order: a volume that is crappified in
    chunks, each with `halo` around it, is bit for bit the volume crappified at once.

    Parameters
    ----------
    name : str
        Short name.
    description : str
        Origin of the recipe, in a sentence or two.
    steps : tuple of Step
        Steps in order. Exactly one is ``reduce``; JPEG stands after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    description: str = ""
    steps: tuple[AnyStep, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [step.kind for step in self.steps]
        if kinds.count("reduce") != 1:
            raise ValueError(f"steps need exactly one `kind: reduce`, not {kinds.count('reduce')}")
        if "jpeg" in kinds[: kinds.index("reduce")]:
            raise ValueError("`kind: jpeg` must stand after `kind: reduce`")
        return self

    def apply(self, block: Array, *, scale: Triple, seed: int, origin: Triple = (0, 0, 0)) -> Array:
        """Degrade a block.

        Parameters
        ----------
        block : array of float32, shape (z, y, x)
            Fine voxels, black at 0 and white at 1; NumPy or CuPy. Mirrored at its faces. Voxels beyond the last whole
            block of `scale` are left out.
        scale : tuple of int
            Fine voxels per coarse one along z, y, x.
        seed : int
            Seed of the noise.
        origin : tuple of int
            Position of voxel (0, 0, 0) of the block in its volume, in fine voxels: multiples of `granularity`.

        Returns
        -------
        array of float32, shape (z // fz, y // fy, x // fx)
            In 0..1.

        Raises
        ------
        ConfigError
            ``config.scale`` where the scale is not whole numbers from 1 or larger than the block; ``config.origin``.
        """
        self._check_place(block.shape, scale, origin)
        z, y, x = (size // factor * factor for size, factor in zip(block.shape, scale, strict=True))
        image = block[:z, :y, :x]
        place = BlockPosition(origin, (1, 1, 1), seed, 0)
        for number, step in enumerate(self.steps):
            if isinstance(step, Reduce):
                image = step.reduce(image, scale)  # (z // fz, y // fy, x // fx)
                place = BlockPosition(_quotient(origin, scale), scale, seed, 0)
            else:
                image = step.apply(image, BlockPosition(place.origin, place.scale, seed, number))
        return image.clip(0, 1).astype(module_of(block).float32, copy=False)

    def halo(self, scale: Triple) -> Triple:
        """Return the fine voxels that a block needs on each side, so that its core is what it would be in the volume.

        Parameters
        ----------
        scale : tuple of int
            Fine voxels per coarse one along z, y, x.

        Returns
        -------
        tuple of int
            Multiples of `granularity`.
        """
        margin, grid = (0, 0, 0), (1, 1, 1)
        for step in self.steps:
            if isinstance(step, Reduce):
                margin, grid = _rounded_up(margin, scale), scale
            elif isinstance(step, Jpeg):
                margin = _rounded_up(margin, self.granularity(scale))
            else:
                z, y, x = (m + n * f for m, n, f in zip(margin, step.reach(grid), grid, strict=True))
                margin = (z, y, x)
        return _rounded_up(margin, self.granularity(scale))

    def granularity(self, scale: Triple) -> Triple:
        """Return the fine voxels of which an origin must be a multiple: `scale`, times JPEG's 8 in plane.

        Parameters
        ----------
        scale : tuple of int
            Fine voxels per coarse one along z, y, x.
        """
        times = BLOCK if any(isinstance(step, Jpeg) for step in self.steps) else 1
        return scale[0], scale[1] * times, scale[2] * times

    def varied(self, noise: float = 1.0, blur: float = 1.0) -> Crappifier:
        """Return the recipe with stronger or weaker noise and a wider or narrower probe.

        Parameters
        ----------
        noise : float
            Factor on the standard deviation of every noise; on the intensity of PSSR2's Poisson noise, which mixes.
        blur : float
            Factor on the width of every point-spread function.
        """
        return self.model_copy(update={"steps": tuple(step.varied(noise, blur) for step in self.steps)})

    def _check_place(self, shape: Triple, scale: Triple, origin: Triple) -> None:
        if any(f != int(f) or f < 1 for f in scale) or any(n < f for n, f in zip(shape, scale, strict=True)):
            raise ConfigError(
                "config.scale",
                f"a block of {shape} voxels (z, y, x) cannot be reduced by {scale}",
                hint="the scale is whole numbers from 1, none larger than the volume",
            )
        if any(o % g for o, g in zip(origin, self.granularity(scale), strict=True)):
            raise ConfigError(
                "config.origin",
                f"the origin {origin} is no multiple of {self.granularity(scale)}",
                hint="cut blocks on multiples of the crappifier's granularity",
            )


def _quotient(origin: Triple, scale: Triple) -> Triple:
    z, y, x = (o // f for o, f in zip(origin, scale, strict=True))
    return z, y, x


def _rounded_up(margin: Triple, unit: Triple) -> Triple:
    z, y, x = (math.ceil(m / u) * u for m, u in zip(margin, unit, strict=True))
    return z, y, x


def read_recipe(path: str | os.PathLike[str]) -> Crappifier:
    """Read a crappifier from a YAML file.

    Raises
    ------
    ConfigError
        ``config.file`` where it cannot be read, ``config.recipe`` where it is no crappifier.
    """
    options = read_options(Path(path))
    try:
        return Crappifier.model_validate(options)
    except ValidationError as error:
        raise ConfigError(
            "config.recipe",
            f"{path} is no crappifier:\n{explain(error, Crappifier)}",
            hint="`volumetool schema crappifier` says what can stand in it",
            where=str(path),
        ) from error


def save_recipe(path: str | os.PathLike[str], crappifier: Crappifier) -> None:
    """Write a crappifier as a YAML file that `read_recipe` reads back equal.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    text = yaml.safe_dump(crappifier.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    replace_file(path, text.encode())
