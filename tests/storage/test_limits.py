"""Looking at what is stored before it is read costs nothing that stays."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.storage.io.arrays import read_part

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
    # Other threads of the process make objects, too: what reading keeps, it keeps in every round.
    assert any(kept_by_reading(array) < 10 for _ in range(3))


def kept_by_reading(array: Any) -> int:
    """Return how many objects are there after thirty reads that were not there before."""
    gc.collect()
    before = len(gc.get_objects())
    for z in range(0, 40, 4):
        for y in range(0, 12, 4):
            assert (read_part(array, (slice(z, z + 4), slice(y, y + 4))) == 7).all()
    gc.collect()
    return len(gc.get_objects()) - before


def test_arrays_in_memory_are_told_apart() -> None:
    """None has a place or a chunk shape by which it could be known, and tensorstore keeps no axis of one voxel of them."""
    for shape in ((2, 3, 4), (1, 3, 4), (1, 1, 4), (2, 3, 4)):
        voxels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        everything = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        np.testing.assert_array_equal(read_part(ts.array(voxels), everything), voxels)
