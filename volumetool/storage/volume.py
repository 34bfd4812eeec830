"""What volumetool knows of a volume: where it is, how large, how fine.

A `Volume` holds plain values and no open handle: it travels to workers by pickle, and each process opens the arrays
itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import InputError, VolumetoolError
from volumetool.geometry.box import Box, Size, Triple
from volumetool.redaction import fact_table, redact
from volumetool.storage.cast import Cast
from volumetool.storage.formats.reader import Reader, open_reader
from volumetool.storage.io.arrays import Driver, open_array, spatial_view

if TYPE_CHECKING:
    import dask.array as da
    import zarr

    from volumetool.storage.voxels import LevelArray

Compute = Callable[[int, Box], NDArray[Any]]
"""Computes the voxels of a channel and a box (z, y, x)."""

DTYPES = ("uint8", "int8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Level:
    """One resolution of a volume; triples are z, y, x.

    Attributes
    ----------
    path : str
        Where the array is below the volume's URL; empty if the URL is the array itself.
    shape : tuple of int
        In voxels, z, y, x.
    voxel_size, translation : tuple of float
        Nanometres; the translation is that of the centre of voxel 0.
    chunk : tuple of int
        The unit of compression, in voxels.
    shard : tuple of int or None
        The unit of storage, in voxels; None if each chunk is stored on its own.
    """

    path: str
    shape: Triple
    voxel_size: Size
    translation: Size
    chunk: Triple
    shard: Triple | None


@dataclass(frozen=True, repr=False)
class Volume:
    """A multiscale image, as coordinates only.

    Attributes
    ----------
    url : str
        Absolute path, or URL; ``memory://array`` of an array in memory.
    format : str
        ``"ome-zarr-0.4"`` to ``"ome-zarr-0.6"``, ``"n5"``, ``"precomputed"``, ``"zarr"`` (a bare array),
        or what the format's own file says.
    driver : str
        The tensorstore driver that reads the arrays; ``"virtual_chunked"`` where they are read by `reader`.
    axes : tuple of str
        The axes as stored: x, y, z in N5 and precomputed. `open` always gives z, y, x.
    dtype : numpy.dtype
        One of uint8, int8, uint16, int16, float32, in native byte order; where there is a `cast`, one of the `CASTABLE`.
    channels : int or None
        Length of the c axis; None if there is none.
    levels : tuple of Level
        Finest first.
    attributes : mapping
        What volumetool wrote of its own (provenance), or noted of a TIFF stack; empty for other volumes of other origin.
    identity : str
        SHA-256 of everything above that describes voxels: the metadata part of an input's fingerprint. A copy of the
        volume at another place has the same identity.
    level_identities : tuple of str
        The same of each level alone.
    cast : Cast, optional
        What `convert` makes of the voxels, which `open` gives as they are stored.
    reader : Reader, optional
        What reads the voxels of a volume whose files tensorstore does not read.
    compute : callable, optional
        Computes the voxels of a channel and a box, of a volume that no store has. It has one level, and cannot be opened.
    """

    url: str
    format: str
    driver: Driver
    axes: tuple[str, ...]
    dtype: np.dtype[Any]
    channels: int | None
    levels: tuple[Level, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    identity: str = ""
    level_identities: tuple[str, ...] = ()
    cast: Cast | None = field(default=None, compare=False)
    reader: Reader | None = field(default=None, compare=False)
    compute: Compute | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        size, nm = (" x ".join(f"{n:g}" for n in each) for each in (self.shape, self.voxel_size))
        channels = "" if self.channels is None else f", {self.channels} channels"
        what = f"{self.format}, {self.dtype}, {size} voxels of {nm} nm, {len(self.levels)} levels{channels}"
        return f"<Volume {redact(self.url)}: {what}>"

    def _repr_html_(self) -> str:
        from volumetool.storage.voxels import thumbnail

        facts: dict[str, object] = {"place": self.url, "format": self.format, "data type": self.dtype}
        facts |= {"channels": self.channels} if self.channels is not None else {}
        for number, level in enumerate(self.levels):
            size, nm = (" x ".join(f"{n:g}" for n in each) for each in (level.shape, level.voxel_size))
            facts[f"level {number} (z, y, x)"] = f"{size} voxels of {nm} nm"
        try:
            return fact_table("Volume", facts, thumbnail(self))
        except VolumetoolError as error:
            return fact_table("Volume", facts | {"no picture": error.message})

    @property
    def shape(self) -> Triple:
        """Voxels of the finest level."""
        return self.levels[0].shape

    @property
    def voxel_size(self) -> Size:
        """Voxel size of the finest level, in nanometres."""
        return self.levels[0].voxel_size

    @property
    def translation(self) -> Size:
        """Position of the centre of the first voxel of the finest level, in nanometres."""
        return self.levels[0].translation

    def open(
        self, level: int = 0, channel: int = 0, context: ts.Context | None = None, *, strict: bool = False
    ) -> ts.TensorStore:
        """Open one level for reading.

        Parameters
        ----------
        level : int
            0 is the finest.
        channel : int
            Index on the c axis; 0 where the volume has none.
        context : tensorstore.Context, optional
            Thread pools; by default those of `shared_context`.
        strict : bool, default False
            Reading a chunk that is not stored raises ValueError, instead of giving the fill value; see
            :func:`volumetool.storage.io.arrays.read_part`.

        Returns
        -------
        tensorstore.TensorStore
            Read-only view with axes z, y, x and the volume's dtype. Reading a damaged chunk raises ValueError.

        Raises
        ------
        InputError
            ``input.level`` or ``input.channel``: the volume has no such level or channel.
        DataError
            ``data.unreadable``: the array is gone or its metadata damaged.
        """
        self.check(level, channel)
        if self.reader is not None:
            array = open_reader(self.reader, context)
        else:
            array = open_array(self.url, self.driver, self.levels[level].path, context, strict=strict)
        return spatial_view(array, self.axes, channel)

    def to_dask(self, level: int = 0, chunks: Any = None) -> da.Array:
        """Return one level as a dask array, which reads a block when it is computed, in whatever process that is.

        Parameters
        ----------
        level : int
            0 is the finest; its voxel size is that of ``volume.levels[level]``.
        chunks : int, tuple or str, optional
            Blocks, as `dask.array.from_array` takes them; ``"auto"`` makes them of whole shards or chunks. By default one
            shard, or one chunk where there are no shards, is one block.

        Returns
        -------
        dask.array.Array
            Axes z, y, x, or c, z, y, x where the volume has channels; in the volume's dtype.

        Raises
        ------
        InputError
            ``input.level``.
        """
        from volumetool.storage.voxels import dask_array

        return dask_array(self, level, chunks)

    def to_zarr(self, level: int = 0) -> zarr.Array[Any]:
        """Return one level as a read-only array of zarr-python, with the axes as stored.

        Raises
        ------
        InputError
            ``input.level``; ``input.no-zarr``: the volume is no Zarr, or on no disk of this machine, or there
            is no zarr-python.
        """
        from volumetool.storage.voxels import zarr_array

        return zarr_array(self, level)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read voxels of the finest level, such as ``volume[10, :500, :500]``; with channels the first index is theirs."""
        return self._finest[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001  (NumPy's protocol)
        return self._finest.__array__(dtype, copy)

    @property
    def _finest(self) -> LevelArray:
        from volumetool.storage.voxels import LevelArray

        return LevelArray(self)

    def identity_of(self, level: int) -> str:
        """Return the identity of one level: levels that are added or made again do not change it."""
        return self.level_identities[level] if self.level_identities else self.identity

    def check(self, level: int, channel: int = 0) -> None:
        """Refuse a level or a channel that the volume does not have.

        Raises
        ------
        InputError
            ``input.level``, ``input.channel``.
        """
        if not 0 <= level < len(self.levels):
            raise InputError(
                "input.level",
                f"level {level} was asked for; {self.url} has levels 0 to {len(self.levels) - 1}",
                hint="Choose one of these levels.",
                where=self.url,
            )
        if not 0 <= channel < (self.channels or 1):
            raise InputError(
                "input.channel",
                f"channel {channel} was asked for; {self.url} has {self.channels or 1}",
                hint="Channels count from 0.",
                where=self.url,
            )


def identity_of(levels: tuple[Level, ...], facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of canonical JSON of the levels and of what else describes the stored voxels."""
    described = [{"shape": level.shape, "voxel_size": level.voxel_size, "translation": level.translation} for level in levels]
    text = json.dumps({"levels": described, **facts}, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()
