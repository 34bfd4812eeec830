"""``volumetool convert``: images and volumes from one format to another."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from volumetool.cli._options import ForceVoxelSize, Json, Reduction, VoxelSize, numbers
from volumetool.cli._progress import observing
from volumetool.cli._tables import say

from volumetool.storage.writing.names import WrittenName

if TYPE_CHECKING:
    from volumetool.storage.cast import Cast


def convert(
    input: Annotated[str, typer.Argument(help="TIFF stack, folder of TIFF sections, or any other volume.")],  # noqa: A002
    output: Annotated[str, typer.Argument(help="Volume to write.")],
    voxel_size: VoxelSize = None,
    force_voxel_size: ForceVoxelSize = False,
    gaps: Annotated[
        Literal["refuse", "keep", "close"],
        typer.Option(help="Of missing numbers in a folder: an error, blank sections, or neighbours that touch."),
    ] = "refuse",
    format: Annotated[  # noqa: A002
        WrittenName | None,
        typer.Option(
            help="Format to write; by default what the output's name ends like (.n5, .precomputed), else ome-zarr-0.5."
        ),
    ] = None,
    dtype: Annotated[
        Literal["uint8", "int8", "uint16", "int16", "float32"] | None,
        typer.Option(help="Data type of the output; by default the input's, which must be one of these."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="LO,HI", help="Values that become the least and the greatest of --dtype (0 and 1 of float32)."),
    ] = None,
    reduction: Reduction = None,
    memory: Annotated[str | None, typer.Option(help="To use, such as 8GiB.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier conversion there and start again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Convert an image stack or a volume to another format, with all its levels.

    Run again, it goes on where it stopped.
    """
    from volumetool.storage.conversion import plan_conversion
    from volumetool.storage.convert_volume import check_room, convert_volume, describe_conversion
    from volumetool.storage.open import open_volume
    from volumetool.units import check_given_size

    size = numbers(voxel_size, "--voxel-size")
    check_given_size(size, sure=force_voxel_size)
    volume = open_volume(input, voxel_size=size, gaps=gaps, cast=_cast(dtype, window))
    plan = plan_conversion(volume, output, format=format, memory=_bytes(memory))
    plan = replace(plan, layout=replace(plan.layout, reduction=reduction or plan.layout.reduction))
    for name, text in describe_conversion(plan):
        say(f"{name:<8}{text}")
    check_room(plan)
    if not dry_run:
        with observing() as observer:
            convert_volume(plan, overwrite=overwrite, observer=observer)
    if as_json:
        facts = {
            "output": plan.url,
            "shape": list(plan.source.shape),
            "levels": len(plan.layout.levels),
            "steps": len(plan.slabs),
        }
        print(json.dumps({**facts, "memory": plan.peak_bytes, "staging": plan.staging_bytes}))
    if not dry_run:
        say(f"wrote {plan.url}")


def _cast(dtype: str | None, window: str | None) -> Cast | None:
    from volumetool.errors import ConfigError
    from volumetool.storage.cast import Cast

    if window is None:
        return None if dtype is None else Cast(dtype)
    try:
        low, high = (float(part) for part in window.split(","))
    except ValueError:
        low = high = 0.0
    if not -inf < low < high < inf:
        raise ConfigError(
            "config.option", f"--window {window!r} is not two rising numbers", hint="write --window lo,hi, such as 1200,31000"
        )
    if dtype is None:
        raise ConfigError("config.option", f"--window {window} without --dtype", hint="say into which type: --dtype uint8")
    return Cast(dtype, (low, high))


def _bytes(text: str | None) -> int | None:
    from volumetool.errors import ConfigError
    from volumetool.units import parse_bytes

    if text is None:
        return None
    try:
        memory = int(str(parse_bytes(text)))
    except ValueError as error:
        raise ConfigError("config.option", f"--memory: {error}", hint="such as --memory 8GiB") from error
    if memory < 1:
        raise ConfigError("config.option", f"--memory {text} is no amount of memory", hint="such as --memory 8GiB")
    return memory
