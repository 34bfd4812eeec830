"""``volumetool convert``: images and volumes from one format to another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from volumetool.cli._job_options import help_of
from volumetool.cli._json import print_json, print_written
from volumetool.cli._options import ForceVoxelSize, Json, Reduction, VoxelSize
from volumetool.cli._progress import observing
from volumetool.cli._tables import say

from volumetool.storage.writing.names import CodecName, WrittenName


def convert(
    input: Annotated[str, typer.Argument(help="TIFF stack, folder of TIFF sections, or any other volume.")],  # noqa: A002
    output: Annotated[str, typer.Argument(help="Volume to write.")],
    level: Annotated[int, typer.Option(min=0, help=help_of("level"))] = 0,
    roi: Annotated[
        str | None, typer.Option(metavar="BOX", help="Copy only this part: z0:z1,y0:y1,x0:x1 in voxels of that level.")
    ] = None,
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
    levels: Annotated[
        int | None,
        typer.Option(min=1, help="Levels to write at the most, the finest counted; by default until one fits into a chunk."),
    ] = None,
    chunk: Annotated[str | None, typer.Option(metavar="Z,Y,X", help=help_of("chunk"))] = None,
    shard: Annotated[str | None, typer.Option(metavar="Z,Y,X", help=help_of("shard"))] = None,
    codec: Annotated[
        CodecName | None,
        typer.Option(
            help="How chunks are compressed: zstd (the default of OME-Zarr 0.5), gzip (of 0.4, n5 and "
            "precomputed-sharded) or raw (of precomputed); png is for "
            "precomputed of uint8 and uint16, and jpeg, which changes voxels, for that of uint8."
        ),
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
    from volumetool.storage.conversion import Conversion, plan_requested
    from volumetool.storage.convert_volume import check_room, convert_volume, describe_conversion

    asked: dict[str, Any] = {"level": level, "roi": roi, "voxel_size": voxel_size, "force_voxel_size": force_voxel_size}
    asked |= {"gaps": gaps, "format": format, "dtype": dtype, "window": window, "levels": levels, "chunk": chunk}
    asked |= {"shard": shard, "codec": codec, "reduction": reduction, "memory": memory}
    plan = plan_requested(Conversion(input=input, output=output, **asked))
    for name, text in describe_conversion(plan):
        say(f"{name:<8}{text}")
    check_room(plan)
    if not dry_run:
        with observing() as observer:
            volume = convert_volume(plan, overwrite=overwrite, observer=observer)
        print_written(volume, as_json=as_json)
    elif as_json:
        facts: dict[str, Any] = {"output": plan.url, "format": plan.layout.format, "shape": list(plan.part.shape)}
        facts |= {"levels": len(plan.layout.levels), "steps": len(plan.slabs)}
        print_json("conversion-plan", {**facts, "memory": plan.peak_bytes, "staging": plan.staging_bytes})
