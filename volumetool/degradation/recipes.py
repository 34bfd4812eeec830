"""The recipes that come with volumetool."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, Field

from volumetool.configuration import Lengths, Natural, Options, Place, parse_numbers
from volumetool.degradation.crappifier import Crappifier, read_recipe
from volumetool.degradation.noise import Clip, Gaussian, LineOffset, LocalGaussian, Poisson, SaltAndPepper, Shot
from volumetool.degradation.optics import Blur, Reduce
from volumetool.degradation.scan import Jitter, Lag
from volumetool.degradation.tone import Drift
from volumetool.errors import ConfigError

PSSR_EM = Crappifier(
    name="pssr-em",
    description="PSSR's EM recipe (Fang et al., Nature Methods 2021; em_AG_D_sameas_preprint): Gaussian noise whose variance "
    "is 0.05 x the blurred image, on the fine grid, then sampling without a filter; here pixel-centred.",
    steps=(LocalGaussian(factor=0.05, sigma=3.0), Clip(), Reduce(mode="centre")),
)

PSSR2_POISSON = Crappifier(
    name="pssr2-poisson",
    description="PSSR2's default: antialiased reduction, here the mean of each block, then Poisson noise on 0..255.",
    steps=(Reduce(mode="mean"), Poisson(intensity=1.0)),
)

PSSR2_MIX = Crappifier(
    name="pssr2-mix",
    description="The chain of PSSR2's notebook: reduction, Poisson noise of intensity 1.2, salt and pepper on 0.5 % of the "
    "pixels.",
    steps=(Reduce(mode="mean"), Poisson(intensity=1.2), Clip(), SaltAndPepper(share=0.005)),
)

# The figures are reasoned, not fitted: `volumetool crappify --fit` fits a microscope's own.
# - Blur and reduction: a fast scan widens the step, not the spot, and the beam stops at each position. More current makes the
#   spot somewhat wider than that of the fine image, here to a full width of 2.4 fine voxels, less than the usual step of 4:
#   so the image is sampled, with the aliasing that goes with it, and not averaged over the block.
# - Shot noise: 1 nA for 0.4 us are 2500 electrons, of which a detector for backscattered ones sees about an eighth above
#   heavily stained membranes and less than half of that above bare resin.
# - Lag: scintillator and amplifier take some 100 ns, a quarter to a third of such a dwell.
# - Jitter, line offset and drift are what is left of hum and slow changes after a good set-up.
SEM_FAST = Crappifier(
    name="sem-fast",
    description="A fast scan of stained tissue by backscattered electrons, shown with dark membranes: the spot is narrower "
    "than the step, few electrons are counted, the detector lags, lines shake, the tone drifts.",
    steps=(
        Blur(sigma=1.0),
        Reduce(mode="centre"),
        Jitter(sd=0.1),
        Shot(dose=200.0, background=100.0, inverted=True),
        Lag(time=0.3),
        Gaussian(sd=3.0),
        LineOffset(sd=1.0),
        Drift(contrast=0.03, brightness=2.0),
        Clip(),
    ),
)

RECIPES: Mapping[str, Crappifier] = MappingProxyType(
    {recipe.name: recipe for recipe in (PSSR_EM, PSSR2_POISSON, PSSR2_MIX, SEM_FAST)}
)


RECIPE_ENDINGS = (".yaml", ".yml", ".json")
"""What names of files end like that hold a recipe."""


def load_recipe(recipe: str | os.PathLike[str] | Crappifier) -> Crappifier:
    """Return a crappifier by its name or from a YAML file.

    Parameters
    ----------
    recipe : str, path or Crappifier
        One of `RECIPES`, or a file whose name ends like `RECIPE_ENDINGS`; one that is loaded already is returned as it is.

    Raises
    ------
    ConfigError
        ``config.recipe``: neither; ``config.file``: the file cannot be read.
    """
    if isinstance(recipe, Crappifier):
        return recipe
    name = os.fspath(recipe)
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).suffix in RECIPE_ENDINGS:
        return read_recipe(name)
    raise ConfigError(
        "config.recipe",
        f"there is no crappifier {name!r}",
        hint=f"take one of: {', '.join(sorted(RECIPES))}; or a YAML file",
    )


class Crappification(Options):
    """A degradation of a volume, as a user asks for it: the options of ``volumetool crappify`` and of `volumetool.crappify`.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs of the fine volume, and of the OME-Zarr volume to write.
    recipe : str, path or Crappifier
        Name of a built-in recipe, a file, or the recipe itself.
    scale : tuple of int
        Fine voxels per coarse one along z, y, x.
    seed : int
        Seed of the noise.
    level : int
        Level of the input; 0 is the finest.
    limits : tuple of float, optional
        Grey values taken as black and white; by default the whole range of uint8, percentiles of a coarse level for
        other dtypes.
    noise, blur : float
        Factors on the noise of the recipe, and on the width of its probe.
    """

    told_by = "`volumetool crappify --help`"

    input: Place
    output: Place
    recipe: Place | Crappifier = "pssr-em"
    scale: Lengths = (1, 4, 4)
    seed: int = 0
    level: Natural = 0
    limits: Annotated[tuple[float, float], BeforeValidator(parse_numbers)] | None = None
    noise: float = Field(1.0, ge=0)
    blur: float = Field(1.0, ge=0)

    @cached_property
    def crappifier(self) -> Crappifier:
        """The recipe, with as much noise and blur as is asked for."""
        return load_recipe(self.recipe).varied(self.noise, self.blur)
