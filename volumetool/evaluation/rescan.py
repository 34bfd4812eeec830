"""Rescanning: where a slow scan pays, from the errors that a network expects of its own output."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from volumetool.configuration import Nanometres, Options, Place, read_options, with_options
from volumetool.errors import ConfigError, InputError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, Size, Triple
from volumetool.geometry.box import cut
from volumetool.paths import absolute_path, place_text, replace_file
from volumetool.storage.io.kvstore import join_url, parent_url
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import block_of, channel_names
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels

CHANNEL = "expected-error"
"""Name of the channel, of an output or of a trust volume, that holds the absolute error expected of each voxel."""

SIDE = 64
"""Voxels of the output along y and x of a box, unless a size is given; a box is one section deep then."""

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the volume for which it is said what rescanning them removes."""

AT_ONCE = 2**24
"""Voxels that are read together, about."""

MOST_BOXES = 2**27
"""Boxes that a volume may be cut into: each takes 8 bytes of memory."""

Row = Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]


class StageFrame(Options):
    """How positions in the volume become those of a stage; the YAML file of ``--stage``.

    Parameters
    ----------
    matrix : three rows of four numbers
        For stage z, y and x: factors of the volume's z, y and x in nm, and what is added.
    unit : str
        Of stage coordinates, such as ``mm``.
    """

    matrix: tuple[Row, Row, Row]
    unit: str

    def place(self, nm: Sequence[float]) -> tuple[float, ...]:
        """Return stage coordinates z, y, x of a position z, y, x in nm."""
        return tuple(float(np.dot(row[:3], nm) + row[3]) for row in self.matrix)


class RescanOptions(Options):
    """What is asked for: the options of ``volumetool rescan`` and of `volumetool.rescan`.

    Parameters
    ----------
    size : tuple of float, optional
        Size of a box in nm, z, y, x, as ``"50,2000,2000"``; by default one section of 64 x 64 voxels of the output.
    fraction : float
        Share of the volume that may be rescanned: as many boxes are named.
    stage : str or path, optional
        YAML file that says how nm become stage coordinates; see :class:`StageFrame`.
    """

    told_by = "`volumetool rescan --help`"

    size: Nanometres | None = None
    fraction: float = Field(0.1, gt=0, le=1)
    stage: Place | None = None


@dataclass(frozen=True)
class RescanBox:
    """A box that is worth a slow scan.

    Attributes
    ----------
    rank : int
        From 1, the box that gains most.
    expected_error : float
        Mean absolute error expected of its voxels, in grey values.
    gain : float
        Expected error times area, in grey values times square micrometres.
    box : Box
        In voxels of the volume with the expected error; those of a trust volume may be larger than the output's.
    nm : tuple of tuple of float
        First and last corner, z, y, x, in nm: its faces, not the centres of voxels.
    stage : tuple of tuple of float
        The four corners of its middle plane, z, y, x each, in stage coordinates; empty without a stage.
    """

    rank: int
    expected_error: float
    gain: float
    box: Box
    nm: tuple[Size, Size]
    stage: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class RescanStep:
    """What rescanning a share of the volume removes, if the slow scan has no error.

    Attributes
    ----------
    fraction : float
        Share of the volume that is rescanned, the best boxes first.
    removed : float
        Share of the expected error that goes with it.
    mean_error : float
        Mean absolute error that is expected of the whole volume then, in grey values.
    """

    fraction: float
    removed: float
    mean_error: float


@dataclass(frozen=True, repr=False)
class Rescan:
    """Where a slow scan pays.

    Attributes
    ----------
    output : str
        Path or URL of the volume with the expected error.
    of : int
        Boxes in all.
    size : tuple of int
        Voxels of that volume in a box, z, y, x.
    mean_error : float
        Mean absolute error that is expected of the volume as it is, in grey values.
    steps : tuple of RescanStep
        For which share of the volume, which error is left.
    boxes : tuple of RescanBox
        The boxes to rescan, best first.
    unit : str
        Of stage coordinates; empty without a stage.
    """

    output: str
    of: int
    size: Triple
    mean_error: float
    steps: tuple[RescanStep, ...]
    boxes: tuple[RescanBox, ...]
    unit: str = ""

    def __repr__(self) -> str:
        return f"<Rescan of {self.output}: {len(self.boxes)} of {self.of} boxes of {' x '.join(map(str, self.size))} voxels>"

    def as_dict(self) -> dict[str, Any]:
        """Return what was found as JSON values."""
        boxes = [{**asdict(each), "box": str(each.box)} for each in self.boxes]
        return asdict(replace(self, boxes=())) | {"boxes": boxes}

    def to_csv(self) -> str:
        """Return the boxes as a table: rank, error, gain, voxels, nm, and stage coordinates of the centre where given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        ends = [f"{axis}_{end}" for end in ("start", "stop") for axis in "zyx"]
        stage = [f"stage_{axis}_{self.unit}" for axis in "zyx"] if self.unit else []
        writer.writerow(["rank", "expected_error", "gain", *ends, *(f"{name}_nm" for name in ends), *stage])
        for each in self.boxes:
            centre = np.mean(each.stage, axis=0).tolist() if each.stage else []
            row = [each.rank, f"{each.expected_error:.6g}", f"{each.gain:.6g}", *each.box.start, *each.box.stop]
            writer.writerow([*row, *(f"{n:.10g}" for corner in each.nm for n in corner), *(f"{n:.10g}" for n in centre)])
        return text.getvalue()

    def to_json(self) -> str:
        """Return the boxes as a collection of GeoJSON's form: polygons of x and y, in stage coordinates or else in nm."""
        features = []
        for each in self.boxes:
            (z, y, x), (end_z, end_y, end_x) = each.nm
            middle = (z + end_z) / 2
            corners = each.stage or tuple((middle, *corner) for corner in ((y, x), (y, end_x), (end_y, end_x), (end_y, x)))
            ring = [[corner[2], corner[1]] for corner in (*corners, corners[0])]
            properties = {"rank": each.rank, "expected_error": each.expected_error, "gain": each.gain, "voxels": str(each.box)}
            properties |= {"z": float(np.mean([corner[0] for corner in corners])), "nm": [list(each.nm[0]), list(each.nm[1])]}
            geometry = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        return json.dumps({"type": "FeatureCollection", "unit": self.unit or "nm", "axes": ["x", "y"], "features": features})


@with_options(RescanOptions)
def rescan(
    output: str | os.PathLike[str],
    *,
    report: str | os.PathLike[str] | None = None,
    observer: Observer = ignore,
    **options: Any,
) -> Rescan:
    """Rank the boxes of a volume by the error that is expected of them times their area: where a slow scan pays.

    Parameters
    ----------
    output : str or path
        Path or URL of a volume with a channel ``expected-error``: an output of ``em-x4;expected_error=true``, or a trust
        volume; or the output of a job that wrote a trust volume.
    report : str or path, optional
        CSV file to write; a JSON file of GeoJSON's form gets its name with ``.json``.
    observer : Observer, optional
        Told by `Progressed` how many blocks of the volume were read.
    **options
        Any field of :class:`volumetool.evaluation.rescan.RescanOptions`, such as ``size=(50, 2000, 2000)``.

    Raises
    ------
    InputError
        ``input.no-expected-error``: the volume has no such channel. Or it cannot be opened.
    DataError
        ``data.unreadable``.
    ConfigError
        ``config.option``, ``config.file``, ``config.rescan``: boxes smaller than a voxel, or too many of them.
    OutputError
        ``output.unwritable``.
    """
    asked = RescanOptions(**options)
    frame = None if asked.stage is None else StageFrame(**read_options(absolute_path(asked.stage)))
    volume, channel = expected_error(place_text(output))
    size = _voxels(volume, asked.size)
    found = _rank(volume, _sum_up(volume, channel, size, observer), size, asked.fraction, frame)
    if report is not None:
        _write(found, absolute_path(report))
    return found


def expected_error(place: str) -> tuple[Volume, int]:
    """Return the volume that holds the expected error of an output, and its channel there.

    Parameters
    ----------
    place : str
        Path or URL of an output with that channel, of a trust volume, or of the output of a job that wrote one.

    Raises
    ------
    InputError
        ``input.no-expected-error``; also as `open_volume`.
    """
    volume = open_volume(place)
    if CHANNEL not in _names(volume) and (beside := _trust_volume(volume)) is not None:
        volume = open_volume(beside)
    names = _names(volume)
    if CHANNEL not in names:
        raise InputError(
            "input.no-expected-error",
            f"{volume.url} has no channel {CHANNEL}: its channels are {', '.join(names) or 'unnamed'}",
            hint="enhance with --trust, or with `--model 'em-x4;expected_error=true'`; or give its trust volume",
            where=volume.url,
        )
    return volume, names.index(CHANNEL)


def _names(volume: Volume) -> list[str]:
    """Return the names of a volume's channels without the numbers of the input's."""
    return [name.partition(" ")[0] for name in channel_names(volume)]


def _trust_volume(volume: Volume) -> str | None:
    """Return the place of the trust volume beside an output, None where its metadata name none: they lead nowhere else."""
    job = volume.attributes.get("job")
    name = job.get("trust") if isinstance(job, dict) else None
    return join_url(parent_url(volume.url)[0], name) if isinstance(name, str) and "/" not in name else None


def _voxels(volume: Volume, nm: Size | None) -> Triple:
    """Return the size of a box in voxels."""
    z, y, x = volume.shape
    _, high, wide = block_of(volume)
    usual = (1, max(1, SIDE // high), max(1, SIDE // wide))
    size = usual if nm is None else [round(a / b) for a, b in zip(nm, volume.voxel_size, strict=True)]
    if min(size) < 1:
        at, voxel = (" x ".join(f"{n:g}" for n in each) for each in (nm or (), volume.voxel_size))
        raise ConfigError("config.rescan", f"boxes of {at} nm, but a voxel has {voxel} nm", hint="take larger boxes")
    box = (min(size[0], z), min(size[1], y), min(size[2], x))
    if (count := int(np.prod([-(-a // b) for a, b in zip(volume.shape, box, strict=True)], dtype=float))) > MOST_BOXES:
        raise ConfigError("config.rescan", f"{count} boxes; at most {MOST_BOXES} are ranked", hint="take larger boxes")
    return box


def _sum_up(volume: Volume, channel: int, size: Triple, observer: Observer) -> NDArray[np.float64]:
    """Return the sum of the expected errors in each box, (z, y, x) boxes; voxels without a finite one count as 0."""
    store = volume.open(0, channel)
    sums = np.zeros([-(-n // side) for n, side in zip(volume.shape, size, strict=True)])
    chunk = volume.levels[0].chunk
    step = [side * -(-length // side) for side, length in zip(size, chunk, strict=True)]
    parts = list(cut(Box.whole(volume.shape), (step[0], step[1], step[2]), AT_ONCE))
    count = counting(observer, "reading expected errors", len(parts))
    for part in parts:
        voxels = np.nan_to_num(read_voxels(store, part, "expected error").astype(np.float64), nan=0, posinf=0, neginf=0)
        for axis, side in enumerate(size):
            voxels = np.add.reduceat(voxels, np.arange(0, voxels.shape[axis], side), axis=axis)  # voxels -> boxes
        sums[part.coarsened(size).slices] = voxels
        count(1)
    return sums


def _rank(volume: Volume, sums: NDArray[np.float64], size: Triple, fraction: float, frame: StageFrame | None) -> Rescan:
    lengths = [np.diff(np.append(np.arange(0, n, side), n)) for n, side in zip(volume.shape, size, strict=True)]
    voxels = lengths[0][:, None, None] * lengths[1][:, None] * lengths[2]  # (z, y, x) boxes
    order = np.argsort(-sums.ravel(), kind="stable")
    done = np.cumsum(voxels.ravel()[order]) / voxels.sum()
    left = sums.sum() - np.cumsum(sums.ravel()[order])
    total = max(float(sums.sum()), 1e-300)
    steps = []
    for share in sorted({*FRACTIONS, fraction}):
        at = min(int(np.searchsorted(done, share)), len(order) - 1)
        steps.append(RescanStep(float(done[at]), 1 - float(left[at]) / total, float(left[at] / voxels.sum())))
    most = min(int(np.searchsorted(done, fraction)) + 1, len(order))
    boxes = []
    for rank, index in enumerate(order[:most].tolist(), start=1):
        corner = np.unravel_index(index, sums.shape)
        start = [int(i) * side for i, side in zip(corner, size, strict=True)]
        box = Box((start[0], start[1], start[2]), (start[0] + size[0], start[1] + size[1], start[2] + size[2]))
        boxes.append(_describe(rank, box.intersection(Box.whole(volume.shape)), float(sums.flat[index]), volume, frame))
    mean = float(sums.sum() / voxels.sum())
    return Rescan(volume.url, len(order), size, mean, tuple(steps), tuple(boxes), "" if frame is None else frame.unit)


def _describe(rank: int, box: Box, total: float, volume: Volume, frame: StageFrame | None) -> RescanBox:
    def nm(corner: Triple) -> Size:
        sides = zip(corner, volume.voxel_size, volume.translation, strict=True)
        z, y, x = ((n - 0.5) * size + origin for n, size, origin in sides)  # the translation is that of a centre
        return z, y, x

    first, last = nm(box.start), nm(box.stop)
    middle = (first[0] + last[0]) / 2
    corners = ((first[1], first[2]), (first[1], last[2]), (last[1], last[2]), (last[1], first[2]))
    stage = () if frame is None else tuple(frame.place((middle, y, x)) for y, x in corners)
    area = box.shape[0] * (last[1] - first[1]) * (last[2] - first[2]) / 1e6  # of all its sections, in square micrometres
    error = total / box.voxels
    return RescanBox(rank, error, error * area, box, (first, last), stage)


def _write(found: Rescan, path: Path) -> None:
    for file, text in ((path, found.to_csv()), (path.with_suffix(".json"), found.to_json())):
        replace_file(file, text.encode())
