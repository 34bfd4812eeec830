"""Names of what is chosen for a written volume; `volumetool.storage.formats.registry` says how formats are written."""

from __future__ import annotations

from typing import Final, Literal

WrittenName = Literal["ome-zarr-0.5", "ome-zarr-0.5-unsharded", "ome-zarr-0.4", "n5", "precomputed", "precomputed-sharded"]
"""What ``--format`` takes."""

PublishedName = Literal["precomputed", "n5", "ome-zarr-0.4", "ome-zarr-0.5-unsharded"]
"""What ``publish --as`` takes: the formats that are written without shards."""

CodecName = Literal["zstd", "gzip", "raw", "png", "jpeg"]
"""What ``--codec`` takes; each format has some of them."""

ReductionMethod = Literal["mean", "mode"]
"""What ``--reduction`` takes: how voxels of a level become one of the next."""

DEFAULT: Final = "ome-zarr-0.5"
"""What is written where neither the format is asked for nor the name of the output says one."""
