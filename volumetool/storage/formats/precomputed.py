"""Neuroglancer's own format, precomputed.

Its triples are x, y, z on disk and z, y, x here. Positions are corners of voxels: the first voxel of a scale without offset
covers 0 to its size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import tensorstore as ts

from volumetool.errors import InputError
from volumetool.geometry import Box, Size, Triple
from volumetool.storage.formats.base import Format, FoundLevel, Json, ParsedMetadata, broken, read_json
from volumetool.storage.io.arrays import Driver, open_array, spatial_view
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url, local_path
from volumetool.storage.io.limits import check_levels
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.storage.io.urls import check_below
from volumetool.storage.writing.precomputed import SHARDED as WRITTEN_SHARDED
from volumetool.storage.writing.precomputed import WRITTEN, shard_chunks

_PACKED = (".gz", ".br", ".zst", ".zstd", ".xz", ".bz2")
_LOOKED_AT = 64
"""Files of a scale: writers pack all of them or none."""

SHARDED = "neuroglancer_uint64_sharded"
"""Tensorstore's name of the shards' format."""

_INFO = "info"
_AXES = ("x", "y", "z", "c")
_READ = {"raw", "jpeg", "png"}
_FOR_LABELS = {"compressed_segmentation", "compresso"}
_STRUCTURE = ("size", "voxel_offset", "chunk_sizes", "encoding", "sharding")
_CHUNK = re.compile(r"(-?[0-9]{1,18})-(-?[0-9]{1,18})_(-?[0-9]{1,18})-(-?[0-9]{1,18})_(-?[0-9]{1,18})-(-?[0-9]{1,18})")


@dataclass(frozen=True)
class Scale:
    """One resolution; triples are z, y, x.

    Attributes
    ----------
    path : str
        Where its chunks are below the volume.
    shape : tuple of int
        In voxels, z, y, x.
    voxel_size, translation : tuple of float
        Nanometres; the translation is that of the centre of voxel 0.
    offset : tuple of int
        Position of voxel 0, in voxels.
    chunks : tuple of tuple of int
        The shapes of chunks that are stored, in voxels.
    sharding : dict or None
        How chunks are stored in shards; None where each is a file of its own.
    """

    path: str
    shape: Triple
    voxel_size: Size
    translation: Size
    offset: Triple
    chunks: tuple[Triple, ...]
    sharding: Json | None

    def has_chunk(self, name: str) -> bool:
        """Return whether a file of that name holds a chunk or a shard of this scale."""
        if self.sharding is not None:
            number = re.fullmatch(rf"([0-9a-f]{{{_digits(self.sharding)}}})\.shard", name)
            return number is not None and int(number[1], 16) < 2 ** int(self.sharding["shard_bits"])
        match = _CHUNK.fullmatch(name)
        if match is None:
            return False
        x0, x1, y0, y1, z0, z1 = map(int, match.groups())
        box = ((z0, z1), (y0, y1), (x0, x1))
        whole = name == f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}"
        return whole and any(self._is_chunk(box, chunk) for chunk in self.chunks)

    def chunk_key(self, place: Triple, chunk: Triple) -> str:
        """Return the key of a chunk of a shape by its place in the grid: of its file, or its number in the shards."""
        if self.sharding is not None:
            grid = [-(-n // size) for n, size in zip(self.shape, chunk, strict=True)]
            return str(_compressed_morton(place[::-1], grid[::-1]))
        spans = []
        for number, size, offset, n in zip(place, chunk, self.offset, self.shape, strict=True):
            spans.append(f"{offset + number * size}-{offset + min((number + 1) * size, n)}")
        return "_".join(reversed(spans))

    def _is_chunk(self, box: tuple[tuple[int, int], ...], chunk: Triple) -> bool:
        for (start, stop), offset, size, n in zip(box, self.offset, chunk, self.shape, strict=True):
            begin = start - offset
            if not 0 <= begin < n or begin % size or stop - offset != min(begin + size, n):
                return False
        return True


@dataclass(frozen=True)
class ScaleKeys:
    """The names of a scale's chunk files, asked for as those of `ChunkKeys` are.

    Attributes
    ----------
    scale : Scale
        The scale.
    """

    scale: Scale

    @classmethod
    def of(cls, metadata: Json) -> ScaleKeys:
        """Return the names that tensorstore's ``scale_metadata`` tell."""
        return cls(_scale(metadata | {"chunk_sizes": [metadata["chunk_size"]]}))

    def key(self, place: Iterable[int]) -> str:
        """Return the name of the file with these numbers: x, y, z and the one of all channels; of a chunk, or of a shard."""
        x, y, z, _ = place
        depth, height, width = self._chunks
        return self._key((z * depth, y * height, x * width))

    def key_at(self, voxel: Triple) -> str:
        """Return the name of the file that holds a voxel, z, y, x, counted from the first of the scale."""
        z, y, x = (at // n for at, n in zip(voxel, self.scale.chunks[0], strict=True))
        return self._key((z, y, x))

    @property
    def _chunks(self) -> Triple:
        """Chunks in a file, along z, y, x."""
        counts = Box.whole(self.scale.shape).coarsened(self.scale.chunks[0]).stop
        return shard_chunks(counts, _bits_inside(self.scale.sharding))

    def _key(self, chunk: Triple) -> str:
        key, sharding = self.scale.chunk_key(chunk, self.scale.chunks[0]), self.scale.sharding
        return key if sharding is None else f"{int(key) >> _bits_inside(sharding):0{_digits(sharding)}x}.shard"

    def place(self, key: str) -> tuple[int, ...]:
        """Return the numbers of the chunk of that name."""
        match = _CHUNK.fullmatch(key)
        assert match is not None  # noqa: S101  (asked for names that there are)
        corner = map(int, match.groups()[::2])
        grid = zip(corner, self.scale.offset[::-1], self.scale.chunks[0][::-1], strict=True)
        return (*((at - offset) // size for at, offset, size in grid), 0)

    def __contains__(self, key: str) -> bool:
        return self.scale.has_chunk(key)


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
        Data type of the voxels.
    levels : tuple of Scale
        Finest first.
    info : dict
        Its metadata, as stored.
    driver : str
        As in `Volume`.
    """

    url: str
    kind: Literal["image", "segmentation"]
    dtype: np.dtype[Any]
    levels: tuple[Scale, ...]
    info: Json = field(repr=False)
    driver: ClassVar[Driver] = "neuroglancer_precomputed"

    def has_chunk(self, key: str) -> bool:
        """Return whether a key is that of a chunk or shard."""
        folder, _, name = key.rpartition("/")
        return any(folder == level.path and level.has_chunk(name) for level in self.levels)

    def open(self, level: int = 0) -> ts.TensorStore:
        """Open the first channel of one scale for reading, with axes z, y, x.

        Raises
        ------
        DataError
            ``data.unreadable``: it cannot be opened.
        """
        return spatial_view(open_array(self.url, self.driver, self.levels[level].path), _AXES, 0)

    @property
    def found(self) -> ParsedMetadata:
        """What its metadata say, for `open_volume`.

        Raises
        ------
        InputError
            ``input.labels``: a segmentation. ``input.unsupported``: an encoding that cannot be read, or chunk files that are
            compressed as a whole.
        """
        encodings = {str(scale.get("encoding")) for scale in self.info["scales"]}
        if self.kind == "segmentation" or encodings & _FOR_LABELS:
            raise InputError(
                "input.labels",
                f"{self.url} holds labels ({self.kind}, {', '.join(sorted(encodings))}); wanted is an intensity image",
                hint="Give the image that the labels belong to.",
                where=self.url,
            )
        if unknown := encodings - _READ:
            raise InputError(
                "input.unsupported",
                f"{self.url} stores its chunks as {', '.join(sorted(unknown))}; read are {', '.join(sorted(_READ))}",
                hint="Copy it into one of these with the software that wrote it.",
                where=self.url,
            )
        for scale in self.levels:
            self._refuse_packed(scale)
        levels = tuple(FoundLevel(scale.path, scale.voxel_size, scale.translation) for scale in self.levels)
        return ParsedMetadata(self.url, "precomputed", self.driver, _AXES, levels, (1.0, 1.0, 1.0), self.info)

    def _refuse_packed(self, scale: Scale) -> None:
        """Refuse chunk files that are compressed as a whole: by their names they would count as not stored."""
        folder = local_path(self.url) / scale.path if is_local(self.url) else None
        if folder is None or not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _LOOKED_AT)]
        packed = next((name for name in names if name.endswith(_PACKED)), None)
        if packed is not None:
            raise InputError(
                "input.unsupported",
                f"{self.url} holds chunk files compressed as a whole, such as {scale.path}/{packed}; read are plain ones",
                hint=f"Unpack them, such as with `gunzip -r {folder}`; cloud-volume writes plain ones with compress=False.",
                where=self.url,
            )


def find_precomputed(url: str) -> Precomputed | None:
    """Describe the precomputed volume at a place; None where there is none.

    Raises
    ------
    InputError
        ``input.broken-metadata``: its ``info`` is not what the format asks for.
    """
    place = canonical_url(url)
    if is_local(place) and not local_path(place).is_dir() and zip_on(place) is None:
        return None
    info = read_json(place, _INFO)
    if info is None or "scales" not in info:
        return None
    try:
        check_levels(place, len(info["scales"]))
        kind: Literal["image", "segmentation"] = "segmentation" if info["type"] == "segmentation" else "image"
        levels = tuple(sorted(map(_scale, info["scales"]), key=lambda scale: prod(scale.voxel_size)))
        for level in levels:
            check_below(place, level.path)
        return Precomputed(place, kind, np.dtype(info["data_type"]), levels, info)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(join_url(place, _INFO), f"has members that make no sense: {error!r}") from error


def scale_structure(info: Mapping[str, Any], key: str) -> Json:
    """Return the members that decide how the stored bytes of a scale become voxels."""
    (scale,) = [scale for scale in info["scales"] if str(scale["key"]).strip("/") == key]
    whole = {name: info.get(name) for name in ("data_type", "num_channels")}
    return whole | {name: scale[name] for name in _STRUCTURE if name in scale}


def _scale(stored: dict[str, Any]) -> Scale:
    size = _reversed(map(float, stored["resolution"]))
    offset = _reversed(map(int, stored.get("voxel_offset") or (0, 0, 0)))
    z, y, x = ((start + 0.5) * length for start, length in zip(offset, size, strict=True))
    return Scale(
        path=str(stored["key"]).strip("/"),
        shape=_reversed(map(int, stored["size"])),
        voxel_size=size,
        translation=(z, y, x),
        offset=offset,
        chunks=tuple(_reversed(map(int, chunk)) for chunk in stored["chunk_sizes"]),
        sharding=stored.get("sharding"),
    )


def _bits_inside(sharding: Json | None) -> int:
    """Return in how many of the last bits the numbers of the chunks in one file may differ."""
    return 0 if sharding is None else int(sharding["preshift_bits"]) + int(sharding["minishard_bits"])


def _digits(sharding: Json) -> int:
    """Return how many digits the names of shards have."""
    return len(f"{2 ** int(sharding['shard_bits']) - 1:x}")


def _compressed_morton(place: Sequence[int], grid: Sequence[int]) -> int:
    """Interleave the bits of numbers (x, y, z), leaving out those that are 0 in the whole grid."""
    code = at = 0
    for bit in range(max(grid).bit_length()):
        for number, count in zip(place, grid, strict=True):
            if (count - 1) >> bit:
                code |= (number >> bit & 1) << at
                at += 1
    return code


def _reversed(values: Any) -> Any:
    x, y, z = values
    return z, y, x


def find_precomputed_volume(url: str) -> ParsedMetadata | None:
    """Describe the precomputed image at a place; None where there is none.

    Raises
    ------
    InputError
        As `find_precomputed` and `Precomputed.found`.
    """
    stored = find_precomputed(url)
    return None if stored is None else stored.found


PRECOMPUTED = Format("precomputed", find_precomputed_volume, written=(WRITTEN, WRITTEN_SHARDED))
