"""How arrays name what is stored of them: the one place that knows the keys of chunks, and which files hold metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

METADATA = {"zarr3": ("zarr.json",), "zarr": (".zgroup", ".zattrs", ".zarray", ".zmetadata"), "n5": ("attributes.json",)}
"""Files that hold metadata of groups and arrays, by TensorStore's name of the format."""

ARRAY_METADATA = {"zarr3": "zarr.json", "zarr": ".zarray", "n5": "attributes.json"}
"""The file that holds an array's own."""

VOLUME_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray", "attributes.json", "info")
"""Files of which one stands at the root of every volume, of any format."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ChunkKeys:
    """The names of an array's stored chunks: a prefix, then one number per axis; ``key in keys`` for those that there are.

    Attributes
    ----------
    chunk : tuple of int
        Shape of what is stored under one key (of a shard, where there are shards), in the array's own order of axes.
    counts : tuple of int
        How many there are along each axis.
    prefix : str
        What stands before the first number.
    separator : str
        What stands between two numbers.
    """

    chunk: tuple[int, ...]
    counts: tuple[int, ...]
    prefix: str = "c/"
    separator: str = "/"

    @classmethod
    def of(cls, metadata: dict[str, Any], driver: str) -> ChunkKeys:
        """Return the names that an array's own metadata tell.

        Parameters
        ----------
        metadata : dict
            Metadata of the array: the content of ``zarr.json``, ``.zarray`` or ``attributes.json``.
        driver : {"zarr3", "zarr", "n5"}
            TensorStore's name of the format.

        Raises
        ------
        KeyError
            They lack a member.
        """
        if driver == "n5":
            return cls._made(metadata["dimensions"], metadata["blockSize"], "", "/")
        if driver == "zarr":
            return cls._made(metadata["shape"], metadata["chunks"], "", metadata.get("dimension_separator", "."))
        # Zarr 3 core specification, "Chunk key encoding".
        encoding = metadata.get("chunk_key_encoding", {"name": "default"})
        default = encoding["name"] == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
        chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        return cls._made(metadata["shape"], chunk, f"c{separator}" if default else "", separator)

    @classmethod
    def _made(cls, shape: Sequence[int], chunk: Sequence[int], prefix: str, separator: str) -> ChunkKeys:
        counts = tuple(-(-n // size) for n, size in zip(shape, chunk, strict=True))
        return cls(tuple(chunk), counts, prefix, separator)

    def key(self, place: Iterable[int]) -> str:
        """Return the name of the chunk with these numbers, in the array's own order of axes."""
        return self.prefix + self.separator.join(map(str, place))

    def place(self, key: str) -> tuple[int, ...]:
        """Return the numbers in the name of a chunk."""
        return tuple(map(int, key.removeprefix(self.prefix).split(self.separator)))

    def __contains__(self, key: str) -> bool:
        numbers = key.removeprefix(self.prefix).split(self.separator)
        spelled = key.startswith(self.prefix) and len(numbers) == len(self.counts) and all(map(_NUMBER.fullmatch, numbers))
        return spelled and all(int(number) < count for number, count in zip(numbers, self.counts, strict=True))
