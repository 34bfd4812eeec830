"""A network at any place of the low-resolution volume, on its own or after a filter that sees neighbouring sections.

It runs on pieces with all the margin that reaches into them, so that what it gives is, but for the overlap's last hundredths of
a grey level, what a job gives there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from volumetool.errors import ConfigError
from volumetool.evaluation.baselines import Z_GRID, Z_REACH, Z_SIGMA, Strength, z_gauss
from volumetool.evaluation.scores.align import Matched
from volumetool.evaluation.scores.resample import Floats
from volumetool.geometry import Box
from volumetool.models import Model, UNet

_SAMPLE = 1024
"""Side of the square, in the middle of a section, that its percentiles are taken from; in coarse voxels."""


class Network:
    """A model that is run on the low-resolution volume.

    Parameters
    ----------
    model : Model
        Model to run.
    matched : Matched
        Volumes, with a low-resolution one among them.

    Attributes
    ----------
    name : str
        Name of the row in which a Gaussian along z comes before it.
    meaning, strength
        Meaning and strength of that Gaussian, see `Method`.

    Raises
    ------
    ConfigError
        ``config.model``: there is no low-resolution volume, or its scale is not the model's.
    """

    meaning = Z_SIGMA
    strength: Strength = (0.6,)

    def __init__(self, model: Model, matched: Matched) -> None:
        if matched.scale != model.card.scale:
            there = "no --low" if matched.scale is None else f"--low is {matched.scale} times coarser (z, y, x) than TRUTH"
            raise ConfigError(
                "config.model",
                f"{model.card.name} makes volumes {model.card.scale} times finer, and {there}",
                hint="give the volume that was restored as --low, and as --model the model that restored it",
            )
        self.card = model.card
        self.name = f"z-gauss, then {model.card.name}"
        self._network = cast("UNet", model.network())
        self._matched = matched
        self._limits: dict[tuple[int, float], tuple[float, float]] = {}

    def restore(self, box: Box, sigma: float = 0.0) -> Floats:
        """Return float32 (z, y, x) grey values, neither clipped nor rounded.

        Parameters
        ----------
        box : Box
            Part to restore, in voxels of the truth.
        sigma : float
            Standard deviation of the Gaussian along z that the low-resolution sections pass first, in sections.
        """
        low, high = self._grey_limits(box, sigma)
        return self._run(box, sigma, self._network) * np.float32(high - low) + np.float32(low)

    def expect_error(self, box: Box) -> Floats:
        """Return the expected absolute error, float32 (z, y, x) in grey levels, as the network says it: not calibrated."""
        low, high = self._grey_limits(box, 0.0)
        return self._run(box, 0.0, lambda unit: self._network.forward_with_error(unit)[1].exp()) * np.float32(high - low)

    def tune(self, places: Sequence[tuple[Box, Floats]]) -> Strength:
        """Return the Gaussian with the best raw PSNR, pooled over boxes one coarse section deep and their truth (y, x)."""

        def error(sigma: float) -> float:
            return sum(float(np.sum((self.restore(box, sigma).mean(axis=0) - truth) ** 2.0)) for box, truth in places)

        return (min(Z_GRID, key=error),)

    @torch.inference_mode()
    def _run(self, box: Box, sigma: float, forward: Callable[[Tensor], Tensor]) -> Floats:
        low, high = self._grey_limits(box, sigma)
        whole = np.empty(box.shape, np.float32)
        for piece in self._pieces(box):
            coarse = self._around(piece)
            sections = self._smoothed(coarse, sigma)
            unit = (sections - np.float32(low)) / np.float32(high - low)  # (z, y, x), with the neighbours of a 2D model
            if self.card.dims == 2:
                unit = sliding_window_view(unit, 2 * self.card.z_context + 1, axis=0).transpose(0, 3, 1, 2)  # (z, n, y, x)
            else:
                unit = unit[None, None]
            fine = forward(torch.from_numpy(unit.copy())).numpy()  # (z, 1, y*fy, x*fx) or (1, 1, z*fz, ...)
            fine = fine.reshape(-1, *fine.shape[-2:])
            corner = coarse.enlarged(self.card.scale).start
            inside = piece.shifted((-corner[0], -corner[1], -corner[2]))
            whole[piece.shifted((-box.start[0], -box.start[1], -box.start[2])).slices] = fine[inside.slices]
        return whole

    def _pieces(self, box: Box) -> Iterator[Box]:
        """Cut a box in plane, so that memory is that of a patch."""
        _, high, wide = (stride * factor for stride, factor in zip(self.card.stride, self.card.scale, strict=True))
        for y in range(box.start[1], box.stop[1], high):
            for x in range(box.start[2], box.stop[2], wide):
                yield Box((box.start[0], y, x), (box.stop[0], y + high, x + wide)).intersection(box)

    def _around(self, piece: Box) -> Box:
        """Return all coarse voxels that reach into a piece, up to the granularity's next multiples."""
        card, coarse = self.card, piece.coarsened(self.card.scale)
        margin = (0 if card.dims == 2 else card.receptive_field[0], *card.receptive_field[1:])
        ends = zip(coarse.start, coarse.stop, margin, card.granularity, strict=True)
        z, y, x = (((a - m) // g * g, -(-(b + m) // g) * g) for a, b, m, g in ends)
        return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))

    def _smoothed(self, coarse: Box, sigma: float) -> Floats:
        """Return sections of a box, float32 (z, y, x), each averaged with its neighbours, and the context of a 2D model."""
        reach = Z_REACH if sigma else 0
        sections = self._matched.read_low(coarse, self.card.z_context + reach).astype(np.float32)
        if not sigma:
            return sections
        return np.stack([z_gauss(sections[z : z + 2 * reach + 1], sigma) for z in range(len(sections) - 2 * reach)])

    def _grey_limits(self, box: Box, sigma: float) -> tuple[float, float]:
        """Return the grey values that become 0 and 1: the card's percentiles of the coarse section."""
        rule = self.card.normalisation
        if rule.kind == "none":
            return 0.0, 1.0
        z = box.coarsened(self.card.scale).start[0]
        if (z, sigma) not in self._limits:
            low = self._matched.volumes.low
            assert low is not None  # noqa: S101  (checked with the scale)
            start, stop = [], []
            for size in low.shape[1:]:
                start.append(max(0, (size - _SAMPLE) // 2))
                stop.append(min(size, start[-1] + _SAMPLE))
            middle = self._smoothed(Box((z, start[0], start[1]), (z + 1, stop[0], stop[1])), sigma)
            dark, bright = np.percentile(middle[len(middle) // 2], (rule.low, rule.high))
            self._limits[z, sigma] = float(dark), max(float(bright), float(dark) + 1e-6)
        return self._limits[z, sigma]
