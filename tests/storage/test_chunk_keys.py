"""Names of chunks are those that zarr-python and tensorstore write, for every format, separator and axis order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.storage.io.chunk_keys import ARRAY_METADATA, ChunkKeys

SHAPE, CHUNK = (5, 7, 9), (2, 3, 4)
ARRAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "zarr3": ("zarr3", {}),
    "zarr3 v2 keys": ("zarr3", {"chunk_key_encoding": {"name": "v2"}}),
    "zarr3 dots": ("zarr3", {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}),
    "zarr2": ("zarr", {}),
    "zarr2 nested": ("zarr", {"dimension_separator": "/"}),
    "n5": ("n5", {}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_keys_of_an_array_are_the_files_that_are_written(tmp_path: Path, name: str) -> None:
    driver, more = ARRAYS[name]
    grids = {
        "zarr3": {"shape": SHAPE, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": CHUNK}}},
        "zarr": {"shape": SHAPE, "chunks": CHUNK},
        "n5": {"dimensions": SHAPE, "blockSize": CHUNK, "compression": {"type": "raw"}},
    }
    place = {"driver": "file", "path": str(tmp_path / "a")}
    spec = {"driver": driver, "kvstore": place, "metadata": grids[driver] | more, "dtype": "uint8"}
    ts.open(spec, create=True).result().write(np.ones(SHAPE, np.uint8)).result()
    metadata = tmp_path / "a" / ARRAY_METADATA[driver]
    keys = ChunkKeys.of(json.loads(metadata.read_text()), driver)
    written = {str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*") if file.is_file()} - {
        metadata.name
    }
    assert {keys.key(at) for at in np.ndindex(*keys.counts)} == written
    assert all(key in keys and keys.key(keys.place(key)) == key for key in written)
    assert not [key for key in (metadata.name, keys.key((9, 0, 0)), keys.key((0, 0)), keys.key((0, 0, "00"))) if key in keys]  # type: ignore[list-item]
