"""``volumetool crappify``: a fine volume to the coarse, noisy one that a fast microscope would have taken."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from volumetool.cli.options import Json, numbers
from volumetool.cli.progress import counting

if TYPE_CHECKING:
    from volumetool.jobs.crappify import CrappifyPlan


def crappify(
    input: Annotated[str, typer.Argument(help="Fine volume: path or URL.")],  # noqa: A002
    output: Annotated[str, typer.Argument(help="OME-Zarr volume to write.")],
    recipe: Annotated[str, typer.Option(help="pssr-em, pssr2-poisson, pssr2-mix, sem-fast, or a YAML file.")] = "pssr-em",
    scale: Annotated[str, typer.Option(metavar="Z,Y,X", help="Fine voxels per coarse one.")] = "1,4,4",
    seed: Annotated[int, typer.Option(help="Names the noise.")] = 0,
    level: Annotated[int, typer.Option(help="Level of the input; 0 is the finest.")] = 0,
    limits: Annotated[
        str | None,
        typer.Option(metavar="BLACK,WHITE", help="Grey values of black and white; 0,255 for uint8, else percentiles."),
    ] = None,
    noise: Annotated[float, typer.Option(help="Factor on the noise of the recipe.", min=0)] = 1.0,
    blur: Annotated[float, typer.Option(help="Factor on the width of its probe.", min=0)] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier crappification there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Degrade a volume as a fast scan would, chunk by chunk, for training and for tests."""
    from volumetool.jobs.crappify import Crappification, crappify_volume, plan_crappification
    from volumetool.training.crappifiers import load_recipe

    asked = Crappification(
        input=input,
        output=output,
        crappifier=load_recipe(recipe).varied(noise, blur),
        scale=factors(scale),
        seed=seed,
        level=level,
        limits=_limits(limits),
    )
    plan = plan_crappification(asked)
    print_plan(plan)
    if not dry_run:
        with counting("crappifying") as progress:
            crappify_volume(plan, overwrite=overwrite, progress=progress)
    if as_json:
        first = plan.layout.levels[0]
        facts = {"output": output, "shape": first.shape, "voxel_size": first.voxel_size, "levels": len(plan.layout.levels)}
        print(json.dumps({**facts, "left_out": plan.left_out, "memory": plan.memory, **plan.provenance}))
    if not dry_run:
        print(f"wrote {output}", file=sys.stderr)


def factors(text: str) -> tuple[int, int, int]:
    """Read ``1,4,4``.

    Raises
    ------
    ConfigError
        ``config.option``: not three whole numbers above 0.
    """
    from volumetool.errors import ConfigError

    read = numbers(text, "--scale") or (0.0, 0.0, 0.0)
    z, y, x = (int(value) for value in read)
    if (z, y, x) != read:
        raise ConfigError("config.option", f"--scale {text!r} is not three whole numbers", hint="write --scale 1,4,4")
    return z, y, x


def _limits(text: str | None) -> tuple[float, float] | None:
    from volumetool.errors import ConfigError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError("config.option", f"--limits {text!r} is not two numbers", hint="write --limits 0,65535") from error
    return low, high


def print_plan(plan: CrappifyPlan) -> None:
    """Print what will be done on stderr."""
    from volumetool.jobs.crappify import describe_crappification

    for name, value in describe_crappification(plan):
        print(f"{name:<10}{value}", file=sys.stderr)
