"""A volume before it exists, and how a format stores it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from volumetool.errors import ConfigError, OutputError
from volumetool.geometry.box import Size, Triple
from volumetool.geometry.levels import LevelGrid, plan_levels, total_factor, without_shards
from volumetool.storage.io.arrays import PRECOMPUTED, Driver
from volumetool.storage.writing.names import DEFAULT, CodecName, ReductionMethod, WrittenName

OWN_KEY = "volumetool"
"""Under which a volume's attributes say how volumetool made it."""


@dataclass(frozen=True)
class VolumeLayout:
    """A volume before it exists.

    Attributes
    ----------
    dtype : str
        uint8, int8, uint16, int16 or float32.
    levels : tuple of LevelGrid
        Finest first.
    channels : int or None
        Length of the c axis; None for none.
    fill_value : float
        What voxels are that were never written; chunks of nothing else are not stored. NaN is allowed for float32.
    name : str
        The image's name in the metadata.
    format : str
        A format of the registry that is written.
    reduction : {"mean", "mode"}
        How each level is made from the one before; formats that have a place for it say so.
    codec : str, optional
        How chunks are compressed, one of the format's codecs; by default its first.
    kept : mapping
        Attributes of another volume that this one is a copy of, ``omero`` among them, for formats that have a place for them.
    """

    dtype: str
    levels: tuple[LevelGrid, ...]
    channels: int | None = None
    fill_value: float = 0
    name: str = "volume"
    format: WrittenName = DEFAULT
    reduction: ReductionMethod = "mean"
    kept: Mapping[str, Any] = field(default_factory=dict)
    codec: CodecName | None = None

    @property
    def stored_fill(self) -> int | float | str:
        """The fill value as JSON metadata have it."""
        if self.dtype != "float32":
            return int(self.fill_value)
        return "NaN" if math.isnan(self.fill_value) else float(self.fill_value)

    def factor(self, level: int) -> Triple:
        """Return how many voxels of the finest level make one of a level, z, y, x."""
        return total_factor(self.levels, level)


def _as_it_is(grid: LevelGrid) -> Size:
    return grid.translation


@dataclass(frozen=True)
class WrittenFormat:
    """How a format is written.

    Attributes
    ----------
    name : str
        Its name, as ``--format`` takes it.
    driver : str
        The tensorstore driver that writes the arrays.
    axes : callable
        Gives the axes of the arrays as stored, from the number of channels, None for none.
    path : str
        Path of a level below the volume; ``{}`` stands for its number.
    array : callable
        Gives what tensorstore is told of a level to create it: of precomputed volumes ``multiscale_metadata`` and
        ``scale_metadata``, else the metadata of the array.
    root : str
        File at the root of the volume whose content `group` gives; a volume is one when it is there.
    group : callable
        Gives the metadata of the volume, from its layout and what volumetool says of its making.
    beside : mapping
        Further files at the root, with their content.
    endings : tuple of str
        How names of such volumes end.
    codecs : mapping
        How chunks can be compressed, and the data types that a codec takes, all where none is listed. The first codec is taken
        where none is asked for.
    sharded : bool
        Whether many chunks are stored in one file or object, whose shape can be chosen.
    arranged : callable
        Gives levels with the shards in which the format stores them.
    has_fill : bool
        Whether voxels that are not stored can be other than 0.
    translation : callable
        Gives the centre of the first voxel of a level as it is stored, nm, z, y, x: the nearest to the level's own that the
        format has.
    """

    name: WrittenName
    driver: Driver
    axes: Callable[[int | None], tuple[str, ...]]
    path: str
    array: Callable[[VolumeLayout, int], dict[str, Any]]
    root: str
    group: Callable[[VolumeLayout, Mapping[str, Any]], dict[str, Any]]
    endings: tuple[str, ...]
    codecs: Mapping[CodecName, tuple[str, ...]]
    beside: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sharded: bool = False
    has_fill: bool = True
    translation: Callable[[LevelGrid], Size] = _as_it_is
    arranged: Callable[[Sequence[LevelGrid]], tuple[LevelGrid, ...]] = without_shards

    def plan_levels(
        self, shape: Triple, voxel_size: Size, translation: Size, chunk: Triple | None, shard: Triple | None
    ) -> tuple[LevelGrid, ...]:
        """Return the levels of a volume of this format; see :func:`volumetool.geometry.plan_levels`.

        Parameters
        ----------
        shape, voxel_size, translation
            Of the finest level.
        chunk, shard : tuple of int or None
            Of the finest level, in voxels; None for the default.

        Raises
        ------
        ConfigError
            ``config.shard``: the format has none, or it is not whole chunks.
        """
        if self.sharded:
            return plan_levels(shape, voxel_size, translation, chunk, shard)
        if shard is not None:
            what = f"--shard {shard}, but {self.name} has no shards, or none of another shape than its own"
            raise ConfigError("config.shard", what, hint="leave it out, or take another format")
        return self.arranged(plan_levels(shape, voxel_size, translation, chunk))

    def check(self, place: str, layout: VolumeLayout) -> None:
        """Refuse what the format has no place for.

        Raises
        ------
        OutputError
            ``output.fill-value``, ``output.codec``, ``output.channels``.
        """
        if not self.has_fill and layout.fill_value != 0:
            raise OutputError(
                "output.fill-value",
                f"{self.name} has 0 where nothing is stored, but the fill value is {layout.fill_value:g}",
                hint="Take 0, or a format of OME-Zarr.",
                where=place,
            )
        fitting = [codec for codec, dtypes in self.codecs.items() if not dtypes or layout.dtype in dtypes]
        if layout.codec is not None and layout.codec not in fitting:
            raise OutputError(
                "output.codec",
                f"{layout.codec} is no codec of {self.name} for {layout.dtype}; possible are {', '.join(fitting)}",
                hint="Choose one of these, or another format.",
                where=place,
            )
        if self.driver == PRECOMPUTED and (layout.channels or 1) > 1:
            raise OutputError(
                "output.channels",
                f"{self.name} stores all {layout.channels} channels of a chunk in one file, so that none can be written alone",
                hint="Take n5 or a format of OME-Zarr.",
                where=place,
            )
