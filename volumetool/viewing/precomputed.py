"""Neuroglancer's own format, precomputed: enough of it to show a volume.

Its triples are x, y, z on disk and z, y, x here. Positions are corners of voxels: the first voxel of a scale without offset
covers 0 to its size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorstore as ts

from volumetool.errors import DataError
from volumetool.geometry import Size, Triple
from volumetool.store.found import broken, read_json
from volumetool.store.kvstore import brief, canonical_url, is_local, join_url, kvstore_spec, local_path, shared_context
from volumetool.store.limits import check_array, check_levels
from volumetool.store.urls import check_below

_INFO = "info"
_CHUNK = re.compile(r"(-?[0-9]{1,18})-(-?[0-9]{1,18})_(-?[0-9]{1,18})-(-?[0-9]{1,18})_(-?[0-9]{1,18})-(-?[0-9]{1,18})")


@dataclass(frozen=True)
class Scale:
    """One resolution; triples are z, y, x.

    Attributes
    ----------
    path : str
        Where its chunks are below the volume.
    shape : tuple of int
        Voxels.
    voxel_size, translation : tuple of float
        Nanometres; the translation is that of the centre of voxel 0.
    offset : tuple of int
        Of voxel 0, in voxels.
    chunks : tuple of tuple of int
        The shapes of chunks that are stored, in voxels.
    shards : int or None
        Number of shards where chunks are stored in shards.
    """

    path: str
    shape: Triple
    voxel_size: Size
    translation: Size
    offset: Triple
    chunks: tuple[Triple, ...]
    shards: int | None

    def has_chunk(self, name: str) -> bool:
        """Say whether a file of that name holds a chunk or a shard of this scale."""
        if self.shards is not None:
            digits = len(f"{self.shards - 1:x}")
            number = re.fullmatch(rf"([0-9a-f]{{{digits}}})\.shard", name)
            return number is not None and int(number[1], 16) < self.shards
        match = _CHUNK.fullmatch(name)
        if match is None:
            return False
        x0, x1, y0, y1, z0, z1 = map(int, match.groups())
        box = ((z0, z1), (y0, y1), (x0, x1))
        whole = name == f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}"
        return whole and any(self._is_chunk(box, chunk) for chunk in self.chunks)

    def _is_chunk(self, box: tuple[tuple[int, int], ...], chunk: Triple) -> bool:
        for (start, stop), offset, size, n in zip(box, self.offset, chunk, self.shape, strict=True):
            begin = start - offset
            if not 0 <= begin < n or begin % size or stop - offset != min(begin + size, n):
                return False
        return True


@dataclass(frozen=True)
class Precomputed:
    """A precomputed volume, as coordinates only.

    Attributes
    ----------
    url : str
        Absolute path, or URL.
    kind : {"image", "segmentation"}
        What its voxels are.
    dtype : numpy.dtype
        Of the voxels.
    levels : tuple of Scale
        Finest first.
    """

    url: str
    kind: Literal["image", "segmentation"]
    dtype: np.dtype[Any]
    levels: tuple[Scale, ...]

    def has_chunk(self, key: str) -> bool:
        """Say whether a key is that of a chunk or shard."""
        folder, _, name = key.rpartition("/")
        return any(folder == level.path and level.has_chunk(name) for level in self.levels)

    def open(self, level: int = 0) -> ts.TensorStore:
        """Open one scale for reading, with axes z, y, x.

        Raises
        ------
        DataError
            ``data.unreadable``: it cannot be opened.
        """
        spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore_spec(self.url), "scale_index": level}
        try:
            array = ts.open(spec, read=True, open=True, context=shared_context()).result()
        except (ValueError, OSError) as error:
            raise DataError("data.unreadable", f"{self.url} cannot be opened: {brief(error)}", where=self.url) from error
        check_array(self.url, array)
        return array[..., 0].transpose((2, 1, 0))[ts.d[:].translate_to[0]]


def find_precomputed(url: str) -> Precomputed | None:
    """Describe the precomputed volume at a place; None where there is none.

    Raises
    ------
    InputError
        ``input.broken-metadata``: its ``info`` is not what the format asks for.
    """
    place = canonical_url(url.removeprefix("precomputed://").partition("|neuroglancer-precomputed:")[0])
    if is_local(place) and not local_path(place).is_dir():
        return None
    info = read_json(place, _INFO)
    if info is None or "scales" not in info:
        return None
    try:
        check_levels(place, len(info["scales"]))
        kind: Literal["image", "segmentation"] = "segmentation" if info["type"] == "segmentation" else "image"
        levels = tuple(map(_scale, info["scales"]))
        for level in levels:
            check_below(place, level.path)
        return Precomputed(place, kind, np.dtype(info["data_type"]), levels)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(join_url(place, _INFO), f"has members that make no sense: {error!r}") from error


def _scale(stored: dict[str, Any]) -> Scale:
    size = _reversed(map(float, stored["resolution"]))
    offset = _reversed(map(int, stored.get("voxel_offset") or (0, 0, 0)))
    sharding = stored.get("sharding")
    shards = None if sharding is None else 2 ** int(sharding["shard_bits"])
    z, y, x = ((start + 0.5) * length for start, length in zip(offset, size, strict=True))
    return Scale(
        path=str(stored["key"]).strip("/"),
        shape=_reversed(map(int, stored["size"])),
        voxel_size=size,
        translation=(z, y, x),
        offset=offset,
        chunks=tuple(_reversed(map(int, chunk)) for chunk in stored["chunk_sizes"]),
        shards=shards,
    )


def _reversed(values: Any) -> Any:
    x, y, z = values
    return z, y, x
