"""Crappifiers as a filter: a fine volume becomes the coarse, noisy one that a fast microscope would have taken."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import ModuleType
from typing import Annotated, ClassVar

from numpy import float32
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from volumetool.configuration import parse_numbers
from volumetool.degradation import RECIPE_ENDINGS, Crappifier, load_recipe
from volumetool.geometry import Box, PatchPlace, Triple
from volumetool.models.card import Normalisation
from volumetool.paths import absolute_path
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.blocks import Count
from volumetool.processing.operations.filter import Filter

Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _placed(recipe: str) -> str:
    """Return the absolute path of a file of a recipe; other names stay."""
    return str(absolute_path(recipe)) if recipe.endswith(RECIPE_ENDINGS) else recipe


class Crappify(Filter):
    """Degrade a volume as a fast scan would: blur, reduction, noise, all that a recipe says.

    Every random number belongs to a voxel's place in the volume. At the volume's faces each step mirrors its own image, with
    the noise of the steps before it, so what is mirrored in a patch is cut off first.
    """

    kind: ClassVar[str] = "crappify"
    normalisation: ClassVar[Normalisation] = Normalisation(kind="limits")
    spares: ClassVar[bool] = False
    working_bytes: ClassVar[int] = 48
    recipe: Annotated[str, AfterValidator(_placed)] = "pssr-em"
    """pssr-em, pssr2-poisson, pssr2-mix, sem-fast, or a YAML file."""
    scale: Annotated[tuple[Count, Count, Count], BeforeValidator(parse_numbers)] = (1, 4, 4)
    """Voxels along z, y, x that become one, 1 to 64 each; what is left of the volume at its far faces is left out."""
    seed: int = 0
    """Names the noise."""
    noise: Factor = 1.0
    """Factor on the noise of the recipe."""
    blur: Factor = 1.0
    """Factor on the width of its probe."""

    @cached_property
    def crappifier(self) -> Crappifier:
        """The recipe, with as much noise and blur as is asked for."""
        return load_recipe(self.recipe).varied(self.noise, self.blur)

    @property
    def facts(self) -> str:
        """The steps, wherever their file is, and the rest."""
        return f"{self.kind}:{self.crappifier.model_dump_json(include={'steps'})};{self.scale};{self.seed}"

    @property
    def reach(self) -> Triple:
        """As far as all steps together look."""
        return self.crappifier.halo(self.scale)

    @property
    def shrink(self) -> Triple:
        """The scale."""
        return self.scale

    @property
    def granularity(self) -> Triple:
        """The scale, times JPEG's 8 in plane where that is a step."""
        return self.crappifier.granularity(self.scale)

    def compute(self, patches: NDArray[float32], xp: ModuleType) -> Array:
        """Return patches that are degraded as volumes of their own."""
        shape: Triple = patches.shape[1:]
        return self.compute_at(patches, [PatchPlace(0, (0, 0, 0), shape)] * len(patches), xp)

    def compute_at(self, patches: NDArray[float32], places: Sequence[PatchPlace], xp: ModuleType) -> Array:
        """Return patches that are degraded as parts of their volume; what lies outside of it is 0.

        Parameters
        ----------
        patches, places, xp
            As for :meth:`Filter.compute_at`.
        """
        z, y, x = (size // factor for size, factor in zip(patches.shape[1:], self.scale, strict=True))
        made = xp.zeros((len(patches), z, y, x), float32)
        for patch, place, whole in zip(patches, places, made, strict=True):
            back = (-place.start[0], -place.start[1], -place.start[2])
            inside = Box.whole(patch.shape).shifted(place.start).intersection(Box.whole(place.volume))
            block = xp.asarray(patch[inside.shifted(back).slices])  # (z, y, x) of the volume
            # Each channel is a volume of its own, with its own noise.
            seed = self.seed + (place.channel << 32)
            degraded = self.crappifier.apply(block, scale=self.scale, seed=seed, origin=inside.start)
            whole[inside.shifted(back).coarsened(self.scale).slices] = degraded  # (z // fz, y // fy, x // fx)
        return made
