"""One program's side of `compare_pyramids.py`, run by the interpreter of its own environment: one pyramid, timed, as JSON.

    python pyramid_process.py PEER SOURCE OUTPUT LEVELS

What is imported counts as little as anybody's start does: the clock runs from the first voxel read to the last byte written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CHUNK = 64


def ngff_zarr(source: str, output: str, levels: int) -> Callable[[], None]:
    """Prepare ngff-zarr: means of blocks by its dask method, level 0 written, too."""
    import ngff_zarr as nz  # type: ignore[import-not-found, unused-ignore]
    from dask.array import from_array

    def work() -> None:
        data = from_array(np.load(source, mmap_mode="r"), chunks=(CHUNK,) * 3)
        image = nz.to_ngff_image(data, dims=["z", "y", "x"], scale=dict.fromkeys("zyx", 8.0))
        factors = [2**level for level in range(1, levels)]
        made = nz.to_multiscales(image, scale_factors=factors, method=nz.Methods.DASK_BIN_SHRINK, chunks=CHUNK)
        nz.to_ngff_zarr(output, made, version="0.5")

    return work


def ome_zarr(source: str, output: str, levels: int) -> Callable[[], None]:
    """Prepare ome-zarr-py: means of blocks, level 0 written, too."""
    from dask.array import from_array
    from ome_zarr.scale import Methods  # type: ignore[import-not-found, unused-ignore]
    from ome_zarr.writer import write_image  # type: ignore[import-not-found, unused-ignore]

    def work() -> None:
        data = from_array(np.load(source, mmap_mode="r"), chunks=(CHUNK,) * 3)
        factors = [dict.fromkeys("zyx", 2**level) for level in range(1, levels)]
        write_image(data, output, scale_factors=factors, method=Methods.LOCAL_MEAN, axes=["z", "y", "x"])

    return work


def tinybrain(source: str, output: str, levels: int) -> Callable[[], None]:
    """Prepare tinybrain, which makes means in memory, with tensorstore to read and write. Level 0 is not written."""
    import tensorstore as ts
    import tinybrain as tb  # type: ignore[import-not-found, unused-ignore]

    def work() -> None:
        finest = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{source}/0"}}
        data = ts.open(finest).result().read().result()
        turned = np.asfortranarray(data.transpose(2, 1, 0))  # it wants x, y, z in Fortran order
        writes = []
        for level, mean in enumerate(tb.downsample_with_averaging(turned, factor=(2, 2, 2), num_mips=levels - 1), start=1):
            spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{output}/{level}"}}
            spec["metadata"] = {"codecs": [{"name": "zstd", "configuration": {"level": 3}}]}
            voxels = np.ascontiguousarray(mean.transpose(2, 1, 0))
            layout = ts.ChunkLayout(chunk_shape=(CHUNK,) * 3)
            store = ts.open(spec, create=True, dtype=voxels.dtype, shape=voxels.shape, chunk_layout=layout).result()
            writes.append(store.write(voxels))
        for write in writes:
            write.result()

    return work


def convert(source: str, output: str, levels: int) -> Callable[[], None]:
    """Prepare `volumetool convert`: reads a compressed volume, writes every level."""
    from volumetool.storage.conversion import plan_conversion
    from volumetool.storage.convert_volume import convert_volume

    def work() -> None:
        assert len(convert_volume(plan_conversion(source, output)).levels) == levels

    return work


def pyramid(source: str, _output: str, levels: int) -> Callable[[], None]:
    """Prepare `volumetool pyramid`: reads a compressed volume, writes every level but the finest."""
    from volumetool.storage.pyramid import build_pyramid

    def work() -> None:
        assert len(build_pyramid(source).levels) == levels

    return work


PEERS = {"ngff-zarr": ngff_zarr, "ome-zarr-py": ome_zarr, "tinybrain": tinybrain, "convert": convert, "pyramid": pyramid}


if __name__ == "__main__":
    peer, *places, count = sys.argv[1:]
    prepared = PEERS[peer](*places, int(count))
    started = time.perf_counter()
    prepared()
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started}) + "\n")
