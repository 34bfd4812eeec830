"""Stored arrays that are opened again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorstore as ts

from volumetool.storage.io import arrays
from volumetool.storage.io.arrays import read_part


def test_another_handle_shares_no_cache_and_sees_the_mended_chunk(tmp_path: Path) -> None:
    """Of a part, turned round, as regions read it: the same voxels in the same places."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a/"}}
    voxels = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
    cached = ts.Context({"cache_pool": {"total_bytes_limit": 10**6}})
    array = ts.open(spec, create=True, dtype="uint8", shape=voxels.shape, context=cached, recheck_cached_data=False).result()
    array.write(voxels).result()
    view = array.transpose((2, 0, 1))[1:4]
    assert np.asarray(view.read().result()).shape == (3, 6, 4)
    array.kvstore.write("c/0/0/0", None).result()
    assert np.asarray(view.read().result()).any()  # the first handle remembers
    assert not read_part(arrays.reopened(view), (slice(1, 4),)).any()
    assert arrays.reopened(view).domain == view.domain
