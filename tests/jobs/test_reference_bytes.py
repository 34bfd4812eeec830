"""The bytes of reference jobs never change while NUMERICS_VERSION stays: digests of every level, recorded once.

The networks are fakes whose arithmetic is exact in any order, so that the digests hold on every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, SMALL_3D, Voxels, digest, noise, run, write_input

from volumetool.storage.pyramid import build_pyramid

SHAPE = (6, 37, 45)
POSITION_2D = "fake:position?patch=1,16,16&overlap=0,8,8&trim=0,2,2"
BOX_2D = "fake:box?radius=2&patch=1,16,16&overlap=0,8,8&trim=0,2,2"
BOX_25D = "fake:box?z_context=2&radius=1&patch=1,16,16&overlap=0,4,4&trim=0,1,1"


def holes(voxels: Voxels, value: float) -> Voxels:
    """Return voxels of which a block and some single ones have no data."""
    holed = voxels.copy()
    holed[1:4, 5:20, 8:33] = value
    holed[::2, ::7, ::11] = value
    return holed


def mask_file(folder: Path) -> str:
    """Write a mask two times coarser than the input, zero in a corner; return its path."""
    mask = np.ones((6, 19, 23), np.uint8)
    mask[:, :12, :15] = 0
    return str(write_input(folder / "mask.zarr", mask, voxel_size=(8.0, 64.0, 64.0)))


JOBS: dict[str, tuple[Voxels, dict[str, Any]]] = {
    "2D": (noise(SHAPE), {"model": POSITION_2D}),
    "2.5D": (noise(SHAPE), {"model": BOX_25D}),
    "3D": (noise(SHAPE), SMALL_3D),
    "nodata": (holes(noise(SHAPE), 0), {"model": BOX_2D, "nodata": 0, "fill": 7}),
    "mask": (noise(SHAPE), {"model": POSITION_2D}),
    "uint16": (noise(SHAPE, "uint16"), {"model": BOX_2D, "invert": True}),
    "float32": (holes(noise(SHAPE, "float32"), np.nan), {"nodata": "nan", "equalise_sections": True}),
    "exact": (noise(SHAPE), {"model": BOX_2D, "exact": True}),
    "roi": (noise(SHAPE), {"model": BOX_2D, "roi": "0:3,0:20,0:20"}),
    "crop": (noise(SHAPE), {"model": BOX_2D, "roi": "1:5,3:30,7:41", "crop": True}),
    "kept patches": (noise(SHAPE), SMALL_3D | {"patch_cache": "always"}),
    "pyramid": (noise((2, *SHAPE)), {}),
}

DIGESTS: dict[str, str] = {
    "2D": "abddd0461895aeab7e0efacd8680c703cf3bf4a552b7c8c9cdaf1cc033a471d1",
    "2.5D": "3d0d7abc455ae9ae78cced2bdd67557b2cb25b3514f2d84dcbc063f06cad05b5",
    "3D": "406584755681853e7ab5fb032a9237ec1e33f5dd81cbe9eddba871c7a789ad46",
    "nodata": "cd38be3f5eafd55fd3786b5cd3d9088e24efa7fa2ea5e1eb7dbe234b820c6fb6",
    "mask": "42be8fe2b2f5e57dbc490e47432c91758cb66faeff5983eaee2d588b40af1cda",
    "uint16": "1326abbf7bae2ad54291af08c71e6c79fac2292e553628a88d4f52a4cd401617",
    "float32": "263fb451a2b1485fe412d3a314034d345a156bcc34b1ed0c2729a94ce2166976",
    "exact": "d6228e8883b39ec17678960ddde1996e5b11ff5359398b5fce930f24b1e9aa83",
    "roi": "d74d43242de03f2ba2a5ba1a9b4dabe670187a9aaf6644795804eab62b07dd0e",
    "crop": "19473ef5de85371d99be7c1c9a6f1d706997288da45d9259dfd6b5801396fe3b",
    "kept patches": "406584755681853e7ab5fb032a9237ec1e33f5dd81cbe9eddba871c7a789ad46",
    "pyramid": "62ac1a847f7665c8e18dad1cc5b77bd7b426942495671ee55d193d08ae056f49",
}


@pytest.mark.parametrize("name", JOBS)
def test_a_reference_job_has_the_recorded_bytes(name: str, tmp_path: Path) -> None:
    voxels, options = JOBS[name]
    made = write_input(tmp_path / "in.zarr", voxels)
    if name == "pyramid":
        build_pyramid(str(made))
        assert digest(made) == DIGESTS[name]
        return
    if name == "mask":
        options = options | {"mask": mask_file(tmp_path)}
    run(input=str(made), output=str(tmp_path / "out.zarr"), **SMALL | options | {"chunk": "2,8,8"})
    assert digest(tmp_path / "out.zarr") == DIGESTS[name]
