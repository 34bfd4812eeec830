"""``volumetool convert``: images and volumes to OME-Zarr."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer
from volumetool.cli.options import Json, VoxelSize, numbers
from volumetool.cli.progress import counting


def convert(
    input: Annotated[str, typer.Argument(help="TIFF stack, folder of TIFF sections, or a volume.")],  # noqa: A002
    output: Annotated[str, typer.Argument(help="OME-Zarr volume to write.")],
    voxel_size: VoxelSize = None,
    gaps: Annotated[
        Literal["refuse", "keep", "close"],
        typer.Option(help="Of missing numbers in a folder: an error, blank sections, or neighbours that touch."),
    ] = "refuse",
    as_json: Json = False,
) -> None:
    """Convert an image stack or a volume to an OME-Zarr 0.5 volume with all its levels."""
    from volumetool.jobs.convert import convert_volume

    with counting("converting") as progress:
        size = numbers(voxel_size, "--voxel-size")
        volume = convert_volume(input, output, voxel_size=size, gaps=gaps, progress=progress)
    if as_json:
        print(json.dumps({"output": volume.url, "shape": list(volume.shape), "levels": len(volume.levels)}))
    print(f"wrote {volume.url}: {' x '.join(map(str, volume.shape))} voxels, {len(volume.levels)} levels", file=sys.stderr)
