"""Small N5 volumes, as other programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

Json = dict[str, Any]
# x, y, z; all different, so that no forgotten transposition goes unseen.
SHAPE = (8, 6, 4)


def write_dataset(url: Path, attributes: Json | None = None, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    """Write an N5 dataset of its own voxel numbers; returned as z, y, x."""
    metadata = {
        "dimensions": shape,
        "dataType": "uint16",
        "blockSize": [5] * len(shape),
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(url)}, "metadata": metadata}
    voxels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    ts.open(spec, create=True).result().write(voxels).result()
    if attributes:
        write_attributes(url, json.loads((url / "attributes.json").read_text()) | attributes)
    return voxels.transpose()


def write_attributes(url: Path, attributes: Json) -> None:
    url.mkdir(parents=True, exist_ok=True)
    (url / "attributes.json").write_text(json.dumps(attributes))


def write_pyramid(group: Path, attributes: Json, *levels: Json) -> np.ndarray[Any, Any]:
    voxels = write_dataset(group / "s0", levels[0] if levels else None)
    write_dataset(group / "s1", levels[1] if levels else None, (4, 3, 2))
    write_attributes(group, attributes)
    return voxels
