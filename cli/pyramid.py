"""``volumetool pyramid``: the levels of a volume."""

from __future__ import annotations

from typing import Annotated

import typer
from volumetool.cli._json import print_written
from volumetool.cli._options import Json, Reduction, VoxelSize, given_size
from volumetool.cli._progress import observing


def pyramid(
    volume: Annotated[str, typer.Argument(help="OME-Zarr 0.5 volume; its finest level stays as it is.")],
    nodata: Annotated[float | None, typer.Option(help="Value that means leave out: voxels without data.")] = None,
    reduction: Reduction = None,
    voxel_size: VoxelSize = None,
    as_json: Json = False,
) -> None:
    """Write the levels of a volume again, each from the one before; a volume of one level gets the others."""
    from volumetool.storage.pyramid import build_pyramid

    size = given_size(voxel_size)
    with observing() as observer:
        built = build_pyramid(volume, reduction=reduction, nodata=nodata, voxel_size=size, observer=observer)
    print_written(built, as_json=as_json)
