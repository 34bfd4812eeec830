"""The volumes that a training learns from: opened, split by space into training and validation, read crop by crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import ConfigError, DataError, InputError
from volumetool.geometry import Box, Size, Triple, mirror_index, part_inside
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.limits import check_memory
from volumetool.storage.io.retries import brief
from volumetool.storage.io.s3 import s3_credentials
from volumetool.storage.open import open_volume
from volumetool.training.config import SourceConfig, TrainConfig, ValidationConfig
from volumetool.training.data.registration import align_pairs, match_contrast

Floats = NDArray[np.float32]
Part = Literal["training", "validation"]

_CACHE_BYTES = 2**30
_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class TrainingSource:
    """An open volume and the parts of it that may be learnt from.

    Attributes
    ----------
    config : SourceConfig
        The source as it was configured.
    array : ndarray or tensorstore.TensorStore
        (z, y, x), as stored.
    shape : tuple of int
        Voxels after `mean`; all boxes and positions below count these.
    limits : tuple of float
        Grey values that become 0 and 1.
    voxel_size : tuple of float or None
        nm, z, y, x, after `mean`.
    parts : mapping of str to tuple of Box
        ``training`` and ``validation``.
    noisy : ndarray or None
        float32 (z, y, x) in 0..1, the registered partner of a real pair.
    dropped : int
        Sections of a real pair that could not be registered.
    """

    config: SourceConfig
    array: Any
    shape: Triple
    limits: tuple[float, float]
    voxel_size: Size | None
    parts: dict[Part, tuple[Box, ...]]
    noisy: Floats | None = None
    dropped: int = 0

    def read(self, box: Box, start: Triple, size: Triple) -> Floats:
        """Read a crop; beyond the box it is mirrored, so that training never sees a voxel of the validation's.

        Parameters
        ----------
        box : Box
            One of `parts`.
        start, size : tuple of int
            Voxels, counted from the corner of the box; may reach beyond it.

        Returns
        -------
        ndarray
            float32 (z, y, x) of `size`, 0 at the lower and 1 at the upper limit, clipped.
        """
        index = [
            mirror_index(a, a + n, whole) + first for a, n, whole, first in zip(start, size, box.shape, box.start, strict=True)
        ]
        low = [int(i.min()) for i in index]
        high = [int(i.max()) + 1 for i in index]
        mean = self.config.mean
        stored = self.array[tuple(slice(a * m, b * m) for a, b, m in zip(low, high, mean, strict=True))]
        grey = _voxels(stored, self.config.path).astype(np.float32)
        if mean != (1, 1, 1):
            z, y, x = (b - a for a, b in zip(low, high, strict=True))
            grey = grey.reshape(z, mean[0], y, mean[1], x, mean[2]).mean(axis=(1, 3, 5), dtype=np.float32)  # (z, y, x)
        grey = grey[np.ix_(*(i - a for i, a in zip(index, low, strict=True)))]
        if not np.isfinite(grey).all():
            raise InputError(
                "input.not-finite",
                f"{self.config.path} holds NaN or infinite values at {tuple(low)} to {tuple(high)}",
                hint="leave that part out with `boxes`",
                where=self.config.path,
            )
        black, white = self.limits
        unit: Floats = np.clip((grey - np.float32(black)) / np.float32(white - black), 0, 1)
        return unit

    def read_noisy(self, box: Box, start: Triple, size: Triple, scale: Triple) -> Floats:
        """Read the crop of the noisy partner that shows the same place as the crop of `read`.

        Beyond the box it is mirrored about coarse voxels, where `read` mirrors about fine ones: only inside it do both agree.

        Parameters
        ----------
        box, start, size
            As for :meth:`read`, in fine voxels; all must be multiples of the scale.
        scale : tuple of int
            Fine voxels per voxel of the noisy partner, along z, y, x.

        Returns
        -------
        ndarray
            float32 (z, y, x) of `size` divided by `scale`, in 0..1.
        """
        assert self.noisy is not None  # noqa: S101  (asked of real pairs alone)
        coarse = (
            mirror_index(a // f, (a + n) // f, whole // f) + first // f
            for a, n, f, whole, first in zip(start, size, scale, box.shape, box.start, strict=True)
        )
        noisy: Floats = self.noisy[np.ix_(*coarse)]  # (z/fz, y/fy, x/fx)
        return noisy


def open_sources(config: TrainConfig) -> tuple[TrainingSource, ...]:
    """Open all volumes of a training.

    Raises
    ------
    InputError
        A volume is missing or is none.
    ConfigError
        ``config.source``: a box lies outside, boxes let training see what validates, limits are no range, or a pair does not
        match or is smaller than a crop.
    """
    sources = tuple(_open(source, config) for source in config.sources)
    for source in sources:
        for other in sources:
            if source.config.path == other.config.path:
                _require_apart(source, other, config.validation.gap if source is other else 0)
    return sources


def find_shortcomings(config: TrainConfig) -> list[str]:
    """Return where boxes reach beyond their source, and where crops are larger than what they are cut from and so get mirrored.

    Real pairs are left out: boxes are not for them, and parts of them that are too small are refused.

    Raises
    ------
    ConfigError, InputError
        As :func:`open_sources`.
    """
    scale, crop, dims = config.architecture.scale, config.sampling.crop, config.architecture.dims
    side = _triple(n * f for n, f in zip(crop, scale, strict=True))
    notes = []
    for asked in config.sources:
        if asked.noisy is not None:
            continue
        source = _open(asked, config)
        stored = _triple(n * m for n, m in zip(source.shape, asked.mean, strict=True))
        notes += [note for box in asked.boxes if (note := part_inside(box, stored, asked.path)[1]) is not None]
        axes = slice(1, None) if dims == 2 else slice(None)  # of a 2D crop the sections are no matter of size
        for part, boxes in source.parts.items():
            # Cut across any axis, a crop finds its longest sides along the longest of the box.
            turned = sorted if asked.planes == "all" else tuple
            for box in boxes:
                have, want = turned(box.shape)[axes], turned(side)[axes]
                if any(n < wanted for n, wanted in zip(have, want, strict=True)):
                    notes.append(
                        f"{asked.path}: its {part} part {box} (z,y,x) is smaller than a crop of {_by(side)} voxels: the rest "
                        "is mirrored, in the preview too; choose a smaller sampling.crop or larger boxes"
                    )
    return notes


def _by(shape: Triple) -> str:
    return " x ".join(map(str, shape))


def _require_apart(source: TrainingSource, other: TrainingSource, gap: int) -> None:
    for held in source.parts["validation"]:
        grown = Box(_triple(a - gap for a in held.start), _triple(b + gap for b in held.stop))
        for seen in other.parts["training"]:
            if _stored(grown, source.config.mean).touches(_stored(seen, other.config.mean)):
                raise _wrong(source.config, f"the part {held} is to validate, but {seen} of another box or source trains on it")


def _stored(box: Box, mean: Triple) -> Box:
    start = _triple(a * m for a, m in zip(box.start, mean, strict=True))
    return Box(start, _triple(b * m for b, m in zip(box.stop, mean, strict=True)))


def _open(source: SourceConfig, config: TrainConfig) -> TrainingSource:
    array, voxel_size = _array(source.path, source.level, source.voxel_size)
    shape = _triple(n // m for n, m in zip(array.shape, source.mean, strict=True))
    if min(shape) < 1:
        raise _wrong(source, f"mean {source.mean} leaves nothing of its {tuple(array.shape)} voxels")
    limits = source.limits or _limits(array, source.path)
    if not limits[0] < limits[1]:
        raise _wrong(source, f"limits {limits} are no range")
    opened = TrainingSource(
        config=source,
        array=array,
        shape=shape,
        limits=limits,
        voxel_size=None if voxel_size is None else _size(v * m for v, m in zip(voxel_size, source.mean, strict=True)),
        parts={"training": (), "validation": ()},
    )
    if source.noisy is not None:
        opened = _pair(opened, source.noisy, config.architecture.scale)
    parts = _split(opened, config.validation, config.architecture.scale)
    return replace(opened, parts=parts if source.noisy is None else _large_enough(opened, parts, config))


def _large_enough(
    source: TrainingSource, parts: dict[Part, tuple[Box, ...]], config: TrainConfig
) -> dict[Part, tuple[Box, ...]]:
    """Keep of a real pair what holds a crop: mirrored fine and coarse voxels would not lie on top of each other."""
    crop = _triple(n * f for n, f in zip(config.sampling.crop, config.architecture.scale, strict=True))
    kept = {part: tuple(box for box in boxes if all(np.greater_equal(box.shape, crop))) for part, boxes in parts.items()}
    if not kept["training"]:
        raise _wrong(source.config, f"its {parts['training'][0].shape} voxels to train on are smaller than a crop of {crop}")
    return kept


def _array(path: str, level: int, voxel_size: Size | None) -> tuple[Any, Size | None]:
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}, **s3_credentials()})
    try:
        volume = open_volume(path, voxel_size=voxel_size)
    except InputError as error:
        if error.code != "input.no-voxel-size":
            raise
        return open_volume(path, voxel_size=(1.0, 1.0, 1.0)).open(level, context=context, strict=True), None
    return volume.open(level, context=context, strict=True), volume.levels[level].voxel_size


def _limits(array: Any, path: str) -> tuple[float, float]:
    if np.dtype(getattr(array.dtype, "numpy_dtype", array.dtype)) == np.uint8:
        return 0.0, 255.0
    low, high = (float(v) for v in np.percentile(_voxels(array[array.shape[0] // 2], path), _PERCENTILES))
    margin = (high - low) / 8  # the percentiles come to stand at 0.1 and 0.9
    return low - margin, high + margin


def _pair(source: TrainingSource, path: str, scale: Triple) -> TrainingSource:
    """Register a real pair; both come to lie in memory, one pair of sections per section kept."""
    noisy, _ = _array(path, 0, source.voxel_size or (1.0, 1.0, 1.0))
    whole = _voxels(noisy, path)
    fine = TrainingSource.read(source, Box.whole(source.shape), (0, 0, 0), source.shape)
    if scale[0] != 1 or len(whole) != len(fine):
        raise _wrong(source.config, f"{len(fine)} clean sections against {len(whole)} noisy ones at scale {scale}")
    black, white = _limits(noisy, path)
    pairs = align_pairs((whole.astype(np.float32) - black) / (white - black), fine, scale=scale[1])
    # The detector's gain differs between a fast and a slow scan; what is to be learnt is the detail.
    matched = [match_contrast(a, b, scale=scale[1]) for a, b in zip(pairs.noisy, pairs.clean, strict=True)]
    clean = np.stack(matched)
    return replace(
        source, array=clean, limits=(0.0, 1.0), shape=clean.shape, noisy=pairs.noisy, dropped=len(pairs.dropped),
        config=source.config.model_copy(update={"mean": (1, 1, 1), "planes": "z"}),
    )  # fmt: skip


def _voxels(array: Any, path: str) -> NDArray[Any]:
    """Return the voxels of an array in memory or in a store.

    Raises
    ------
    ResourceError
        ``resource.memory``.
    DataError
        ``data.unreadable``, ``data.oversized``.
    """
    if not isinstance(array, ts.TensorStore):
        return np.asarray(array)
    check_memory(path, array.size * array.dtype.numpy_dtype.itemsize, f"a part of {array.shape} voxels, read as a whole,")
    try:
        return read_part(array, (slice(None),) * array.rank)
    except (ValueError, OSError) as error:
        raise DataError(
            "data.unreadable",
            f"{path} cannot be read at {array.domain}: {brief(error)}",
            hint="The data may be damaged or incomplete; copy them again.",
            where=path,
        ) from error


def _split(source: TrainingSource, config: ValidationConfig, scale: Triple) -> dict[Part, tuple[Box, ...]]:
    whole = Box.whole(source.shape)
    asked = [_reduced(box, source.config.mean).intersection(whole) for box in source.config.boxes] or [whole]
    training, validation = [], []
    for box in asked:
        if box.voxels == 0:
            raise _wrong(source.config, f"a box lies outside its {source.shape} voxels")
        first, second = split_box(box, config.share, config.gap, scale)
        training.append(first)
        if second is not None:
            validation.append(second)
    return {"training": tuple(training), "validation": tuple(validation)}


def split_box(box: Box, share: float, gap: int, grain: Triple = (1, 1, 1)) -> tuple[Box, Box | None]:
    """Split a box along its longest axis (of equals the first) into a part to train on and one to validate on.

    Parameters
    ----------
    box : Box
        Box to split.
    share : float
        Share of the axis for validation, at its end; 0 for none.
    gap : int
        Voxels between the two that are left out.
    grain : tuple of int
        The validation part begins at a multiple of this, so that real pairs stay aligned.

    Returns
    -------
    training : Box
        The part to train on.
    validation : Box or None
        The part to validate on; None where the share is 0 or the axis is too short for both.
    """
    axis = int(np.argmax(box.shape))
    begin = (box.stop[axis] - round(box.shape[axis] * share)) // grain[axis] * grain[axis]
    end = begin - gap
    if share == 0 or begin >= box.stop[axis] or end <= box.start[axis]:
        return box, None
    stop, start = list(box.stop), list(box.start)
    stop[axis], start[axis] = end, begin
    return Box(box.start, _triple(stop)), Box(_triple(start), box.stop)


def _reduced(box: Box, mean: Triple) -> Box:
    start = _triple(-(-a // m) for a, m in zip(box.start, mean, strict=True))
    return Box(start, _triple(b // m for b, m in zip(box.stop, mean, strict=True)))


def _triple(values: Any) -> Triple:
    z, y, x = (int(v) for v in values)
    return z, y, x


def _size(values: Any) -> Size:
    z, y, x = (float(v) for v in values)
    return z, y, x


def weights(sources: Sequence[TrainingSource], part: Part) -> NDArray[np.float64]:
    """Return with what probability each source is drawn: float64 (sources,), its sum 1."""
    each = np.array([source.config.weight if source.parts[part] else 0.0 for source in sources])
    shares: NDArray[np.float64] = each / each.sum()
    return shares


def _wrong(source: SourceConfig, why: str) -> ConfigError:
    return ConfigError("config.source", f"{source.path}: {why}", hint="see `volumetool schema train`", where=source.path)
