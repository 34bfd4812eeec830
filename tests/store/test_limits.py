"""Looking at what is stored before it is read costs nothing that stays."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.store.arrays import read_part

SHAPE = [40, 12, 12]
SPECS: dict[str, dict[str, Any]] = {
    "zarr3": {"metadata": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4, 4]}}}},
    "zarr": {"metadata": {"chunks": [4, 4, 4], "compressor": {"id": "blosc"}}},
    "n5": {"metadata": {"blockSize": [4, 4, 4], "compression": {"type": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1}}},
    "neuroglancer_precomputed": {"scale_metadata": {"chunk_size": [4, 4, 4], "resolution": [4, 4, 4]}},
}


@pytest.mark.parametrize("driver", SPECS)
def test_reading_one_array_again_and_again_leaves_nothing_behind(tmp_path: Path, driver: str) -> None:
    """What tensorstore says of an array as JSON it keeps for ever, and a job of a terabyte reads a million times."""
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path}/"}, **SPECS[driver]}
    array = ts.open(spec, create=True, dtype="uint8", shape=SHAPE + [1] * (driver == "neuroglancer_precomputed")).result()
    array[...] = 7
    read_part(array, (slice(0, 4), slice(0, 4)))
    gc.collect()
    before = len(gc.get_objects())
    for z in range(0, 40, 4):
        for y in range(0, 12, 4):
            assert (read_part(array, (slice(z, z + 4), slice(y, y + 4))) == 7).all()
    gc.collect()
    assert len(gc.get_objects()) - before < 10


def test_arrays_in_memory_of_different_rank_are_told_apart() -> None:
    """Neither has a place or a chunk shape by which it could be known, and a channel of one has as many axes as the other."""
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    everything = (slice(0, 2), slice(0, 3), slice(0, 4))
    for view in (ts.array(voxels), ts.array(voxels[None])[0], ts.array(voxels)):
        np.testing.assert_array_equal(read_part(view, everything), voxels)
