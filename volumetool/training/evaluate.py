"""How good a trained network is, in PSNR and SSIM, beside the classical methods that it has to beat.

Fine sections that the network has never seen are crappified and restored. Against a noisy truth, SSIM rewards any fine
texture; that is why the table holds an unsharp mask, which adds texture and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional as F  # noqa: N812

from volumetool.models.card import Metric, Normalisation
from volumetool.training.crappify import crappify
from volumetool.training.restore import restore_section

Floats = NDArray[np.float32]


def evaluate(
    network: nn.Module, dataset: str, sections: Sequence[NDArray[np.uint8]], recipe: str, *, scale: int = 4
) -> tuple[Metric, ...]:
    """Compare a 2D network with classical methods on semi-synthetic pairs.

    Parameters
    ----------
    network : nn.Module
        In eval mode; normalised by percentiles 1 and 99.
    dataset : str
        Name for the table.
    sections : sequence of ndarray
        uint8 (y, x) fine sections, never seen in training.
    recipe : str
        A crappifier, see `volumetool.training.crappify`.
    scale : int
        Fine voxels per coarse one.

    Returns
    -------
    tuple of Metric
        One per method: means over the sections of PSNR and SSIM (7 x 7 window) of 8-bit images, data range 255.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    scores: dict[str, list[tuple[float, float]]] = {}
    for seed, section in enumerate(sections):
        y, x = (size // (4 * scale) * 4 * scale for size in section.shape)
        fine = section[:y, :x]
        coarse = crappify(fine, recipe, np.random.default_rng(seed), scale=scale)
        for method, restored in _methods(network, coarse, scale):
            image = np.rint(np.clip(restored, 0, 255)).astype(np.uint8)
            psnr = float(peak_signal_noise_ratio(fine, image, data_range=255))
            ssim = float(structural_similarity(fine, image, data_range=255))
            scores.setdefault(method, []).append((psnr, ssim))
    protocol = f"{recipe} at x{scale}, {len(sections)} sections, 8 bit, data range 255"
    return tuple(
        Metric(
            dataset=dataset,
            protocol=protocol,
            method=method,
            psnr=round(float(np.mean([psnr for psnr, _ in pairs])), 3),
            ssim=round(float(np.mean([ssim for _, ssim in pairs])), 4),
        )
        for method, pairs in scores.items()
    )


def _methods(network: nn.Module, coarse: NDArray[np.uint8], scale: int) -> Iterator[tuple[str, Floats]]:
    grey = coarse.astype(np.float32)
    yield "bilinear", _enlarge(grey, scale, "bilinear")
    yield "bicubic", _enlarge(grey, scale, "bicubic")
    yield "gauss+bicubic", _enlarge(ndimage.gaussian_filter(grey, 0.6), scale, "bicubic")
    sharp = grey + (grey - ndimage.gaussian_filter(grey, 0.6))
    yield "unsharp+bicubic", _enlarge(sharp, scale, "bicubic")
    yield "net", restore_section(network, coarse, Normalisation())


def _enlarge(grey: Floats, scale: int, mode: str) -> Floats:
    x = torch.from_numpy(grey)[None, None]  # (1, 1, y, x)
    enlarged: Floats = F.interpolate(x, scale_factor=float(scale), mode=mode, align_corners=False)[0, 0].numpy()
    return enlarged
