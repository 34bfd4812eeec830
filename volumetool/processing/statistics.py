"""Intensity statistics: two grey values per section, fitted once for the whole volume.

The low one becomes 0 and the high one 1 before the network, and back after it: two percentiles, or mean and mean plus standard
deviation. They come from a fixed sample whose
positions follow from the seed and the shape alone, so that no chunk layout, worker or region of interest moves them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple
from volumetool.processing.sections.quality import FIGURES, VERDICT, SectionQuality, Table
from volumetool.processing.sections.tiles import block_state, read_tiles
from volumetool.storage.io.chunks import stored_chunks
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import valid_voxels

_log = logging.getLogger(__name__)

QUANTILE_RULE: Final = "inverted_cdf"
"""NumPy's name of the quantile rule: the smallest sample that at least that share does not exceed, never between two."""

WHOLE_SECTION = 2**20
"""Voxels up to which a section is read whole."""

TILE = 64
TILES = 32
BLOCK = 16
"""A larger section is sampled by 32 tiles of 64 x 64 voxels, the same tiles for 16 sections, so that few chunks are read."""

SMOOTHING = (1.0, 4.0, 6.0, 4.0, 1.0)
"""Binomial weights along z: damps one section's chance, follows a drift of several."""


COLUMNS = ("channel", "z", "low", "high")
"""Columns that the table must have."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Two grey values of every section.

    Parameters
    ----------
    low, high : numpy.ndarray of float64, shape (channels, sections)
        In the units of the volume's voxels; ``high > low`` everywhere.
    sampled : str
        The `sample_state` of what they were fitted on; empty where they were given, or no store has it.
    quality : SectionQuality, optional
        What was measured of every section, and the verdict on it; None where nobody looked.
    """

    low: Table
    high: Table
    sampled: str = ""
    quality: SectionQuality | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistics) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to_csv(self) -> str:
        """Return the table that users read and edit: channel, z, low, high, and their quality if it was measured."""
        return self._written(self.quality)

    def _written(self, quality: SectionQuality | None) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *(() if quality is None else (*FIGURES, VERDICT))])
        for channel in range(self.low.shape[0]):
            for z in range(self.low.shape[1]):
                more = () if quality is None else quality.cells(channel, z)
                writer.writerow([channel, z, repr(float(self.low[channel, z])), repr(float(self.high[channel, z])), *more])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str, channels: int, sections: int) -> Statistics:
        """Read the table of a text, such as :meth:`to_csv` gives.

        Parameters
        ----------
        text : str
            What :meth:`to_csv` wrote, as edited: columns ``channel,z,low,high``, rows in any order. With a column ``verdict``,
            the table says which sections are bad; columns of figures may be left out.
        channels, sections : int
            Extent of the volume; each of its sections needs one row per channel.

        Raises
        ------
        ConfigError
            ``config.statistics`` where rows are missing or doubled, a number is not one, ``high <= low``, or a verdict is none.
        """
        low = np.full((channels, sections), np.nan)
        high = np.full((channels, sections), np.nan)
        try:
            rows = list(csv.DictReader(io.StringIO(text)))
            for row in rows:
                at = int(row["channel"]), int(row["z"])
                if min(at) < 0 or not np.isnan(low[at]):
                    raise ValueError(f"channel {at[0]}, section {at[1]} is below 0 or stands there twice")
                low[at], high[at] = float(row["low"]), float(row["high"])
            quality = SectionQuality.read(rows, low.shape) if rows and VERDICT in rows[0] else None
        except (KeyError, ValueError, IndexError, TypeError, csv.Error) as error:
            raise ConfigError(
                "config.statistics",
                f"the table of section statistics cannot be read: {error}",
                hint=f"columns: {','.join(COLUMNS)}; and {VERDICT}, if it says which sections are bad",
            ) from error
        wrong = np.argwhere(~(_apart(low, high) & np.isfinite(low) & np.isfinite(high)))
        if len(wrong):
            channel, z = (int(n) for n in wrong[0])
            raise ConfigError(
                "config.statistics",
                f"channel {channel}, section {z}: low {low[channel, z]} and high {high[channel, z]}; high must be above low",
                hint=f"both finite; the table needs one row for each of {channels} channels x {sections} sections",
            )
        return cls(low, high, quality=quality)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the grey values: they are part of the job's fingerprint."""
        return hashlib.sha256(self._written(None).encode()).hexdigest()


def no_normalisation(channels: int, sections: int) -> Statistics:
    """Return statistics that leave every voxel as it is."""
    return Statistics(np.zeros((channels, sections)), np.ones((channels, sections)))


def range_normalisation(dtype: np.dtype[Any], channels: int, sections: int) -> Statistics:
    """Return statistics by which the values of an integer type lie between 0 and 1.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of the volume.
    channels, sections : int
        Extent of the table.

    Raises
    ------
    ConfigError
        ``config.statistics``: the type has no range.
    """
    if dtype.kind not in "iu":
        raise ConfigError(
            "config.statistics",
            f"the model takes values over the range of an integer type, and the volume is {dtype}",
            hint="normalise=percentiles or normalise=none suit such a volume; or cast it first, with `volumetool convert`",
        )
    limits = np.iinfo(dtype)
    return Statistics(np.full((channels, sections), float(limits.min)), np.full((channels, sections), float(limits.max)))


def fit_statistics(
    volume: Volume, level: int, percentiles: tuple[float, float] | None, *, seed: int = 0, nodata: float | None = None
) -> Statistics:
    """Fit the two grey values of every section on a fixed sample, and smooth them along z.

    Parameters
    ----------
    volume, level, percentiles, seed, nodata
        As for :func:`sample_statistics`.
    """
    return smooth_statistics(sample_statistics(volume, level, percentiles, seed=seed, nodata=nodata))


def sample_statistics(
    volume: Volume,
    level: int,
    percentiles: tuple[float, float] | None,
    *,
    seed: int = 0,
    nodata: float | None = None,
    seen: Callable[[int, Box, NDArray[Any]], None] | None = None,
) -> Statistics:
    """Return the two grey values of every section of a fixed sample, NaN where it has none: they are still to be smoothed.

    Parameters
    ----------
    volume : Volume
        The volume that will be enhanced.
    level : int
        Its level that will be enhanced.
    percentiles : tuple of float or None
        Low and high, in per cent; None fits the mean, and the mean plus the standard deviation.
    seed : int
        Moves the sample's tiles.
    nodata : float, optional
        Value left out; ``nan`` leaves out NaN.
    seen : callable, optional
        Told channel, box and voxels of every tile of the sample.
    """
    channels, shape = volume.channels or 1, volume.levels[level].shape
    depth, sampled = shape[0], hashlib.sha256()
    low = np.full((channels, depth), np.nan)  # (c, z)
    high = np.full((channels, depth), np.nan)  # (c, z)
    for channel in range(channels):
        tiles = read_tiles(volume, level, channel, sampled.update)
        for boxes in _blocks(shape, seed, channel):
            start, stop = boxes[0].start[0], boxes[0].stop[0]
            blocks = []
            for box, voxels in tiles(boxes):
                blocks.append(voxels.reshape(stop - start, -1))  # (z, y, x) -> (z, y*x)
                if seen is not None:
                    seen(channel, box, voxels)
            # (z, samples): the tiles side by side; the empty array stands in where no tile could be read.
            sample = np.concatenate(blocks or [np.empty((stop - start, 0), volume.dtype)], axis=1)
            for z in range(start, stop):
                low[channel, z], high[channel, z] = _low_and_high(sample[z - start], percentiles, nodata)
    return Statistics(low, high, sampled.hexdigest() if volume.compute is None else "")


def smooth_statistics(sampled: Statistics, bad: Sequence[Sequence[int]] = ()) -> Statistics:
    """Smooth the two grey values of sections along z.

    Parameters
    ----------
    sampled : Statistics
        What `sample_statistics` returns.
    bad : sequence of sequence of int, optional
        Of each channel the sections that get the values of those around them.
    """
    left_out = [*bad, *[()] * (len(sampled.low) - len(bad))]
    low, high = (
        np.stack([_smooth_good(values, sections) for values, sections in zip(table, left_out, strict=True)])  # (c, z)
        for table in (sampled.low, sampled.high)
    )
    # Where the two do not differ in float32, a voxel could not be divided by their difference.
    high = np.where(_apart(low, high), high, low + np.maximum(1.0, np.abs(low)))
    return Statistics(low, high, sampled.sampled)


def sample_state(volume: Volume, level: int, seed: int = 0) -> str:
    """Return a digest of the states of all stored chunks that `fit_statistics` reads.

    Parameters
    ----------
    volume : Volume
        The volume that will be enhanced.
    level : int
        Its level that will be enhanced.
    seed : int
        As for :func:`fit_statistics`: the same seed samples the same tiles.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.

    Raises
    ------
    InputError
        ``input.vanished``.
    DataError
        ``data.unreadable``: the store does not answer.
    """
    digest = hashlib.sha256()
    for channel in range(volume.channels or 1):
        store, chunks = volume.open(level, channel), stored_chunks(volume, level, channel)
        for boxes in _blocks(volume.levels[level].shape, seed, channel):
            digest.update(block_state(store, chunks, boxes)[0])
    return digest.hexdigest()


def _apart(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where two percentiles differ in float32, which is what voxels are normalised in."""
    return high.astype(np.float32) > low.astype(np.float32)


def _blocks(shape: Triple, seed: int, channel: int) -> Iterator[list[Box]]:
    """Yield the tiles of each block of the sample; they have its sections."""
    for start in range(0, shape[0], BLOCK):
        stop = min(start + BLOCK, shape[0])
        tiles = _tiles(shape, (seed, channel, start // BLOCK))
        yield [Box((start, ys.start, xs.start), (stop, ys.stop, xs.stop)) for ys, xs in tiles]


def _tiles(shape: Triple, key: tuple[int, int, int]) -> list[tuple[slice, slice]]:
    _, height, width = shape
    if height * width <= WHOLE_SECTION:
        return [(slice(0, height), slice(0, width))]
    tiles = []
    for number in range(TILES):
        digest = hashlib.blake2b(repr((shape, key, number)).encode(), digest_size=16).digest()
        y = int.from_bytes(digest[:8], "little") % max(1, height - TILE + 1)
        x = int.from_bytes(digest[8:], "little") % max(1, width - TILE + 1)
        tiles.append((slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width))))
    return tiles


def _low_and_high(sample: NDArray[Any], percentiles: tuple[float, float] | None, nodata: float | None) -> tuple[float, float]:
    data = sample[valid_voxels(sample, nodata)]  # (samples,) -> those with data
    if data.size == 0 or data.min() == data.max():  # a blank section says nothing about contrast
        return np.nan, np.nan
    if percentiles is None:
        mean = float(data.mean(dtype=np.float64))
        return mean, mean + float(data.std(dtype=np.float64))
    low, high = (np.quantile(data, percent / 100, method=QUANTILE_RULE) for percent in percentiles)
    return (float(low), float(high)) if high > low else (float(data.min()), float(data.max()))


def _smooth_good(values: NDArray[np.float64], bad: Sequence[int]) -> NDArray[np.float64]:
    """Smooth along z as if the bad sections were not there; they lie on a line between others then."""
    good = np.setdiff1d(np.arange(len(values)), bad)
    if len(good) in (0, len(values)):
        return _smooth(values)
    return np.interp(np.arange(len(values)), good, _smooth(values[good]))  # (z,)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average along z with binomial weights over the sections that have a value; blank ones take their neighbours'."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    sections = np.arange(len(values))
    filled = np.interp(sections, sections[known], values[known])  # (z,): blank sections lie on a line between others
    reach = len(SMOOTHING) // 2
    padded = np.pad(filled, reach, mode="edge")  # (z + 4,)
    return np.convolve(padded, np.asarray(SMOOTHING) / sum(SMOOTHING), mode="valid")  # (z,)
