"""N5 as it is written: the attributes of every dialect that readers look for.

All of them list x, y, z, except COSEM's, which list z, y, x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volumetool.geometry.levels import LevelGrid
from volumetool.storage.formats.base import Json
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.writing.layout import OWN_KEY, VolumeLayout, WrittenFormat

_KEY = "attributes.json"
_GZIP_LEVEL = 1


def _stored_axes(channels: int | None) -> tuple[str, ...]:
    return SPACE[::-1] if channels is None else (*SPACE[::-1], "c")


def _array(layout: VolumeLayout, level: int) -> Json:
    """Return the attributes of a level: N5's own, axes and sizes as tensorstore and Neuroglancer read them, COSEM's transform.

    Of gzip all readers know the checksum.
    """
    grid, channels = layout.levels[level], layout.channels
    extra = [] if channels is None else [channels]
    attributes = {
        "dimensions": [*grid.shape[::-1], *extra],
        "blockSize": [*grid.chunk[::-1], *(1 for _ in extra)],
        "dataType": layout.dtype,
        "compression": {"type": "gzip", "level": _GZIP_LEVEL, "useZlib": False},
        "axes": list(_stored_axes(channels)),
        "units": [*("nm" for _ in SPACE), *("" for _ in extra)],
        "resolution": [*grid.voxel_size[::-1], *(1.0 for _ in extra)],
    }
    # COSEM's readers know three axes alone; the offset of a level on its own is as Paintera has it.
    return attributes | ({"transform": _transform(grid)} if channels is None else {"offset": [*grid.translation[::-1], 0.0]})


def _transform(grid: LevelGrid) -> Json:
    sizes = {"scale": list(grid.voxel_size), "translate": list(grid.translation)}
    return {"axes": list(SPACE), "units": ["nm" for _ in SPACE], **sizes}


def _volume(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the attributes of a volume, which is a container of its own.

    They are those of COSEM (``multiscales``; also Fiji and webKnossos), of Neuroglancer and Paintera (``resolution``,
    ``offset``, ``multiScale``) and of n5-viewer (``downsamplingFactors``, older ``scales``, with ``pixelResolution``).
    """
    first, extra = layout.levels[0], [] if layout.channels is None else [1]
    factors = [[*layout.factor(number)[::-1], *extra] for number in range(len(layout.levels))]
    placed = [{"path": f"s{number}", "transform": _transform(grid)} for number, grid in enumerate(layout.levels)]
    cosem = {} if extra else {"multiscales": [{"name": layout.name, "datasets": placed}]}
    return {
        "n5": "2.0.0",
        **cosem,
        "axes": list(_stored_axes(layout.channels)),
        "units": [*("nm" for _ in SPACE), *("" for _ in extra)],
        "resolution": [*first.voxel_size[::-1], *map(float, extra)],
        "offset": [*first.translation[::-1], *(0.0 for _ in extra)],
        "multiScale": True,
        "downsamplingFactors": factors,
        "scales": factors,
        "pixelResolution": {"unit": "nm", "dimensions": list(first.voxel_size[::-1])},
        OWN_KEY: dict(attributes),
    }


WRITTEN = WrittenFormat("n5", "n5", _stored_axes, "s{}", _array, _KEY, _volume, (".n5",), {"gzip": ()}, has_fill=False)
