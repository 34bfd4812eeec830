"""``volumetool crappify``: a fine volume to the coarse, noisy one that a fast microscope would have taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli._json import print_json, print_written
from volumetool.cli._options import Json, local_path, numbers
from volumetool.cli._progress import observing
from volumetool.cli._tables import say

if TYPE_CHECKING:
    from volumetool.training.data.crappification import CrappifyPlan

FIT = "Fitting a recipe"
BOTH = {"scale", "as_json", "verbose", "quiet", "log_file"}
FITTING = {"fit", "truth", "recipe_out"} | BOTH


def crappify(
    context: typer.Context,
    input: Annotated[str | None, typer.Argument(help="Fine volume: path or URL.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Argument(help="OME-Zarr volume to write.")] = None,
    recipe: Annotated[str, typer.Option(help="pssr-em, pssr2-poisson, pssr2-mix, sem-fast, or a YAML file.")] = "pssr-em",
    scale: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Fine voxels per coarse one; 1,4,4 without it.")] = None,
    seed: Annotated[int, typer.Option(help="Names the noise.")] = 0,
    level: Annotated[int, typer.Option(help="Level of the input; 0 is the finest.")] = 0,
    limits: Annotated[
        str | None,
        typer.Option(metavar="BLACK,WHITE", help="Grey values of black and white; 0,255 for uint8, else percentiles."),
    ] = None,
    noise: Annotated[float, typer.Option(help="Factor on the noise of the recipe.", min=0)] = 1.0,
    blur: Annotated[float, typer.Option(help="Factor on the width of its probe.", min=0)] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier crappification there.")] = False,
    fit: Annotated[
        str | None,
        typer.Option(metavar="LOW", help="Fit a recipe to this volume, as a microscope made it.", rich_help_panel=FIT),
    ] = None,
    truth: Annotated[
        str | None, typer.Option("--from", metavar="TRUTH", help="Clean fine volume of such tissue.", rich_help_panel=FIT)
    ] = None,
    recipe_out: Annotated[
        Path | None,
        typer.Option("--recipe-out", "-o", parser=local_path, help="YAML file of the fitted recipe.", rich_help_panel=FIT),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Degrade a volume as a fast scan would, chunk by chunk; or fit such a recipe to a microscope's volume."""
    _refuse_mixed(context, fitting=fit is not None)
    if fit is not None:
        _fit(fit, truth, recipe_out, None if scale is None else factors(scale), as_json=as_json)
        return
    from volumetool.degradation import Crappification
    from volumetool.errors import ConfigError
    from volumetool.training.data.crappification import crappify_volume, plan_crappification

    if input is None or output is None:
        raise ConfigError(
            "config.option",
            "INPUT and OUTPUT are needed",
            hint="volumetool crappify INPUT OUTPUT, or volumetool crappify --fit LOW --from TRUTH -o recipe.yaml",
        )
    asked: dict[str, Any] = {"recipe": recipe, "seed": seed, "level": level, "limits": limits, "noise": noise, "blur": blur}
    asked |= {} if scale is None else {"scale": scale}
    plan = plan_crappification(Crappification(input=input, output=output, **asked))
    print_plan(plan)
    if not dry_run:
        with observing() as observer:
            volume = crappify_volume(plan, overwrite=overwrite, observer=observer)
        print_written(volume, as_json=as_json)
    elif as_json:
        first = plan.layout.levels[0]
        facts = {"output": output, "shape": first.shape, "voxel_size": first.voxel_size, "levels": len(plan.layout.levels)}
        print_json("crappification-plan", {**facts, "left_out": plan.left_out, "memory": plan.memory, **plan.provenance})


def _refuse_mixed(context: typer.Context, *, fitting: bool) -> None:
    """Refuse options that only the other of the two tasks would heed."""
    from volumetool.errors import ConfigError

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    idle = given - FITTING if fitting else given & (FITTING - BOTH)
    if idle:
        names = [
            p.opts[0] if p.opts[0].startswith("-") else p.opts[0].upper() for p in context.command.params if p.name in idle
        ]
        raise ConfigError(
            "config.option",
            f"{', '.join(names)}: of no effect {'beside' if fitting else 'without'} --fit",
            hint="volumetool crappify INPUT OUTPUT, or volumetool crappify --fit LOW --from TRUTH -o recipe.yaml",
        )


def _fit(low: str, truth: str | None, recipe_out: Path | None, scale: tuple[int, int, int] | None, *, as_json: bool) -> None:
    from volumetool.degradation import save_recipe
    from volumetool.errors import ConfigError
    from volumetool.training.data.recipe_fit import fit_recipe

    if truth is None or recipe_out is None:
        raise ConfigError(
            "config.option",
            "--fit needs a fine volume and a file to write",
            hint="volumetool crappify --fit LOW --from TRUTH -o recipe.yaml",
        )
    found = fit_recipe(low, truth, scale=scale, name=recipe_out.stem)
    save_recipe(recipe_out, found.crappifier)
    if as_json:
        rows = {name: {"value": value, "error": error, "unit": unit} for name, value, error, unit in found.table}
        print_json("recipe", {"recipe": str(recipe_out), "misfit": found.misfit, "parameters": rows})
    for name, value, error, unit in found.table:
        say(f"{name:<12}{value:>9.4g} +- {error:<8.2g}{unit}")
    say(f"misfit      {found.misfit:>9.2f} standard errors; above 2 the recipe lacks something")
    say(f"wrote {recipe_out}")


def factors(text: str) -> tuple[int, int, int]:
    """Return the three factors, along z, y, x, of a text such as ``1,4,4``.

    Raises
    ------
    ConfigError
        ``config.option``: not three whole numbers above 0.
    """
    from volumetool.errors import ConfigError

    read = numbers(text, "--scale") or (0.0, 0.0, 0.0)
    if any(not value.is_integer() for value in read):
        raise ConfigError("config.option", f"--scale {text!r} is not three whole numbers", hint="write --scale 1,4,4")
    z, y, x = (int(value) for value in read)
    return z, y, x


def print_plan(plan: CrappifyPlan) -> None:
    """Print what will be done on stderr."""
    from volumetool.cli._tables import print_lines

    from volumetool.training.data.crappification import describe_crappification

    print_lines(describe_crappification(plan))
