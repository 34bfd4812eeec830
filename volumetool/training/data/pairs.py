"""Training pairs, made on the fly: random fine crops and what a fast microscope would have seen of them.

A batch holds a few simulated acquisitions. Each draws a source, a viewing direction, a recipe, a noise strength and a
contrast, and each is normalised by percentiles of its own coarse, noisy crops: at inference too, statistics come from the
coarse image, not from the patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from volumetool.degradation import Crappifier, load_recipe
from volumetool.geometry import Box, Triple
from volumetool.training.config import TrainConfig
from volumetool.training.data.augment import augment, draw_log, resize
from volumetool.training.data.neighbours import displace, spoil
from volumetool.training.data.sources import Part, TrainingSource, weights

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampler:
    """Everything that batches are drawn from.

    Parameters
    ----------
    sources : sequence of TrainingSource
        Open volumes.
    config : TrainConfig
        Configuration that says what the pairs look like.
    """

    sources: Sequence[TrainingSource]
    config: TrainConfig
    crappifiers: tuple[Crappifier, ...] = field(init=False)

    def __post_init__(self) -> None:
        recipes = self.config.degradation.recipes
        object.__setattr__(self, "crappifiers", tuple(load_recipe(name) for name in recipes))

    def draw(self, part: Part, *key: int) -> tuple[Floats, Floats]:
        """Draw one batch; the same key gives the same bytes, whatever was drawn before.

        Parameters
        ----------
        part : {"training", "validation"}
            Part of every source.
        *key : int
            Numbers that name the batch, such as the step and the number of the device.

        Returns
        -------
        coarse : ndarray
            float32 (batch, channels, y, x) for 2D models, else (batch, 1, z, y, x); normalised.
        fine : ndarray
            float32 (batch, 1, y*fy, x*fx) or (batch, 1, z*fz, y*fy, x*fx), on the same intensity scale.
        """
        rng = np.random.default_rng([self.config.seed, *key])
        pairs = [self._acquire(part, rng) for _ in range(self.config.sampling.acquisitions)]
        coarse, fine = (np.concatenate(each) for each in zip(*pairs, strict=True))
        if self.config.architecture.dims == 3:
            return coarse[:, None], fine[:, None]
        return coarse, fine  # (b, channels, y, x), (b, 1, y*fy, x*fx)

    @property
    def _side(self) -> Triple:
        """Fine voxels of a crop."""
        return _triple(n * f for n, f in zip(self.config.sampling.crop, self.config.architecture.scale, strict=True))

    def _acquire(self, part: Part, rng: np.random.Generator) -> tuple[Floats, Floats]:
        source = self.sources[rng.choice(len(self.sources), p=weights(self.sources, part))]
        crops = self.config.sampling.crops
        if self.config.blind_spot is not None:
            coarse = fine = np.stack([self._crop(source, part, rng)[0] for _ in range(crops)])  # (crops, z, y, x)
        elif source.noisy is not None:
            both = [self._crop(source, part, rng) for _ in range(crops)]
            fine, coarse = (np.stack(each) for each in zip(*both, strict=True))
        else:
            fine = self._slabs(source, part, rng)  # (crops, z*fz, y*fy, x*fx)
            fine = augment(fine.reshape(-1, *fine.shape[-2:]), self.config.augmentation, rng).reshape(fine.shape)
            coarse = self._crappify(fine, rng)  # (crops, z, y, x)
            if self.config.architecture.z_context:
                coarse = spoil(coarse, self.config.neighbours, rng) if source.config.stack else _alone(coarse)
        if self.config.architecture.dims == 2 and fine.shape[1] > 1:
            middle = fine.shape[1] // 2
            fine = fine[:, middle : middle + 1]  # (crops, 1, y*fy, x*fx)
        return self._normalise(coarse, fine, rng)

    def _slabs(self, source: TrainingSource, part: Part, rng: np.random.Generator) -> Floats:
        """Cut the fine crops of an acquisition: float32 (crops, sections, y, x), or (crops, z, y, x) for 3D models."""
        architecture, crops = self.config.architecture, self.config.sampling.crops
        slab, step = (int(rng.integers(low, high + 1)) for low, high in (source.config.slab, source.config.z_step))
        zoom, side, scale = draw_log(self.config.augmentation.zoom, rng), self._side, architecture.scale[1]
        if architecture.dims == 3:
            return np.stack([self._crop(source, part, rng)[0] for _ in range(crops)])
        if not source.config.stack:
            step, slab = 0, 1
        elif architecture.z_context:
            slab = min(slab, step)  # sections do not overlap
        margin = self.config.neighbours.margin(side[1], scale) if architecture.z_context else 0
        depth = (architecture.channels - 1) * step + slab
        drawn = (side[1] + 2 * margin, side[2] + 2 * margin)
        size = (depth, round(drawn[0] / zoom), round(drawn[1] / zoom))
        return np.stack([self._stack(source, part, rng, (size, drawn, step, slab)) for _ in range(crops)])

    def _stack(
        self, source: TrainingSource, part: Part, rng: np.random.Generator, cut: tuple[Triple, tuple[int, int], int, int]
    ) -> Floats:
        """Cut one crop: a section with its neighbours, each the mean of `slab` sections, `step` apart; (sections, y, x)."""
        size, drawn, step, slab = cut
        config = self.config.architecture
        crop = self._crop(source, part, rng, size)[0]
        sections = np.stack([crop[z * step : z * step + slab].mean(axis=0) for z in range(config.channels)])
        sections = resize(sections, drawn)
        if not config.z_context:
            return sections
        return displace(sections, self.config.neighbours, (drawn[0] - self._side[1]) // 2, config.scale[1], rng)

    def _crop(
        self, source: TrainingSource, part: Part, rng: np.random.Generator, size: Triple | None = None
    ) -> tuple[Floats, Floats | None]:
        """Cut one crop of `size` fine voxels, turned and flipped at random; of a real pair, its noisy partner too."""
        scale, size = self.config.architecture.scale, size or self._side
        boxes = source.parts[part]
        box = boxes[rng.choice(len(boxes), p=_volumes(boxes))]
        first = _plane(source, box, size, rng)
        order = (first, *(axis for axis in range(3) if axis != first))
        along = np.argsort(order)  # where each of the volume's axes stands in the crop
        extent = _triple(size[i] for i in along)
        start = _triple(
            rng.integers(min(0, n - s), max(0, n - s) + 1) // f * f if source.noisy is not None else
            rng.integers(min(0, n - s), max(0, n - s) + 1)
            for n, s, f in zip(box.shape, extent, scale, strict=True)
        )  # fmt: skip
        turns = int(rng.integers(4)) if size[1] == size[2] and self.config.blind_spot is None else 2 * int(rng.integers(2))
        flips = rng.integers(2, size=2)
        fine = source.read(box, start, extent).transpose(order)  # (z, y, x)
        if source.noisy is None:
            return _turn(fine, turns, flips), None
        noisy = source.read_noisy(box, start, extent, scale).transpose(order)
        return _turn(fine, turns, flips), _turn(noisy, turns, flips)

    def _crappify(self, fine: Floats, rng: np.random.Generator) -> Floats:
        config, scale = self.config.degradation, self.config.architecture.scale
        recipe = self.crappifiers[rng.integers(len(self.crappifiers))]
        recipe = recipe.varied(noise=draw_log(config.noise, rng), blur=draw_log(config.blur, rng))
        seed = int(rng.integers(2**62))
        # Sections of 2D crops do not touch each other in any recipe, so all go through as one stack.
        blocks = fine.reshape(1, -1, *fine.shape[-2:]) if self.config.architecture.dims == 2 else fine
        coarse = [recipe.apply(block, scale=scale, seed=seed + number) for number, block in enumerate(blocks)]
        grey: Floats = (np.rint(np.stack(coarse) * 255) / 255).astype(np.float32)
        return grey.reshape(len(fine), -1, *grey.shape[-2:])

    def _normalise(self, coarse: Floats, fine: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        normalisation = self.config.normalisation
        low, high = np.percentile(coarse, (normalisation.low, normalisation.high))
        span = max(high - low, 1 / 255)
        low, high = np.array([low, low + span]) + rng.normal(0, self.config.jitter * span, 2)
        unit = [(np.asarray(part, np.float32) - np.float32(low)) / np.float32(high - low) for part in (coarse, fine)]
        return unit[0], unit[1]


def _alone(coarse: Floats) -> Floats:
    """Return sections whose neighbours repeat them, as at inference for an image: (crops, sections, y, x)."""
    middle = coarse.shape[1] // 2
    return np.broadcast_to(coarse[:, middle : middle + 1], coarse.shape).copy()


def _plane(source: TrainingSource, box: Box, size: Triple, rng: np.random.Generator) -> int:
    """Draw the axis to look along, of those across which at least half a crop fits: the rest would be mostly mirror."""
    if source.config.planes == "z":
        return 0
    room = [min(n / s for n, s in zip(np.delete(box.shape, axis), size[1:], strict=True)) for axis in range(3)]
    good = [axis for axis in range(3) if room[axis] >= 0.5] or [int(np.argmax(room))]
    return good[int(rng.integers(len(good)))]


def _volumes(boxes: Sequence[Box]) -> NDArray[np.float64]:
    voxels = np.array([box.voxels for box in boxes], float)
    shares: NDArray[np.float64] = voxels / voxels.sum()
    return shares


def _turn(crop: Floats, turns: int, flips: NDArray[np.int64]) -> Floats:
    turned = np.rot90(crop, turns, axes=(1, 2))
    return turned[:: -1 if flips[0] else 1, :, :: -1 if flips[1] else 1].copy()


def _triple(values: object) -> Triple:
    z, y, x = (int(v) for v in values)  # type: ignore[attr-defined]
    return z, y, x
