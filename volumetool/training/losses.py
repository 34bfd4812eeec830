"""Losses: what a restored patch costs, by its distance to the truth.

All of them take float32 tensors (b, 1, y, x) or (b, 1, z, y, x) whose data range is about 0..1, both of one shape; the restored
patch and the truth may change places, equal ones cost least, and a block is judged section by section.

Letters of the shape comments: b batch, n sections (the batch, times z in 3D), y x fine voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name every PyTorch reader expects)

from volumetool.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]

WINDOW = 11  # voxels; window and sigma are those of Wang et al., IEEE TIP 2004, and of PSSR2
SIGMA = 1.5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the exponents of Wang, Simoncelli and Bovik, Asilomar 2003
_BRIGHT, _STEEP = 0.01**2, 0.03**2  # SSIM's constants for a data range of 1
_LEAST_ERROR = 1e-6  # 60 dB: a patch that is nearly perfect must not outweigh all others
_LEAST_SIMILARITY = 1e-4  # a root of nothing has no slope


class LossConfig(BaseModel):
    """The loss of a training.

    Parameters
    ----------
    kind : {"psnr", "l1", "mse", "ms-ssim-mix"}
        ``psnr`` is minus the PSNR in dB, meaned over the batch; ``ms-ssim-mix`` is PSSR2's mix of 1 - MS-SSIM and of the mean
        absolute difference under a Gaussian window.
    ms_ssim_weight : float
        Share of MS-SSIM in the mix; the absolute difference has the rest.
    frequency : float
        Weight of the focal frequency loss that is added; 0 leaves it out. Beside ``psnr`` it counts in dB, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["psnr", "l1", "mse", "ms-ssim-mix"] = "psnr"
    ms_ssim_weight: float = Field(0.8, ge=0, le=1)
    frequency: float = Field(0.0, ge=0)


def make_loss(config: LossConfig) -> Loss:
    """Return the loss that a configuration asks for.

    Parameters
    ----------
    config : LossConfig
        Kind of the loss, and the weights of its parts.

    Returns
    -------
    callable
        Takes the restored patches and the truth, float32 (b, 1, y, x) or (b, 1, z, y, x), and returns a float32 scalar.
    """
    base = _base(config)
    if not config.frequency:
        return base
    # A sum of dB and of squares would leave it to the noise of the data which of the two counts.
    frequency = _focal_decibels if config.kind == "psnr" else focal_frequency
    return lambda restored, truth: base(restored, truth) + config.frequency * frequency(restored, truth)


def _base(config: LossConfig) -> Loss:
    if config.kind == "ms-ssim-mix":
        return lambda restored, truth: ms_ssim_mix(restored, truth, config.ms_ssim_weight)
    losses: dict[str, Loss] = {"psnr": minus_psnr, "l1": F.l1_loss, "mse": F.mse_loss}
    return losses[config.kind]


def minus_psnr(restored: Tensor, truth: Tensor) -> Tensor:
    """Return minus the PSNR in dB of each patch, meaned over the batch.

    The mean of the decibels, not the decibels of the mean: else the noisiest acquisitions of a batch would outweigh the rest.

    Parameters
    ----------
    restored, truth : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), where 0..1 is the data range.

    Returns
    -------
    Tensor
        float32 scalar; -60 for equal patches.
    """
    return _decibels((restored - truth).square().flatten(1).mean(dim=1))


def expected_error_loss(log_error: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
    """Return the negative log-likelihood of the errors under Laplace distributions, without its constant.

    It is least where exp(`log_error`) is the mean absolute error of voxels that look alike. No gradient reaches `restored`: a
    likelihood that trains both outputs at once gives hard voxels less weight, by the error that it expects there, and the
    enhanced image gets worse where it matters (Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation",
    ICLR 2022).

    Parameters
    ----------
    log_error : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), natural logarithm of the expected absolute error.
    restored, truth : Tensor
        float32, of the same shape.

    Returns
    -------
    Tensor
        float32 scalar.
    """
    error = (restored.detach() - truth).abs()
    return (log_error + error * (-log_error).exp()).mean()


def ms_ssim(restored: Tensor, truth: Tensor) -> Tensor:
    """Return the multi-scale structural similarity, meaned over all sections.

    Wang, Simoncelli and Bovik 2003, equation 7, with the Gaussian window of SSIM, whole windows only. There are five scales
    where the window fits into the coarsest; smaller sections have as many as fit, and their exponents are scaled to a sum of
    1. With one scale it is the SSIM of Wang et al. 2004. What correlates the wrong way round counts as hardly similar, 1e-4,
    because powers want positive numbers.

    Parameters
    ----------
    restored, truth : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), where 0..1 is the data range; y and x 11 or more.

    Returns
    -------
    Tensor
        float32 scalar, 1 for equal patches and less for all others.

    Raises
    ------
    ConfigError
        ``config.crop`` if the window does not fit.
    """
    restored, truth = _sections(restored), _sections(truth)  # (n, 1, y, x)
    count = _scales_that_fit(restored)
    exponents = torch.tensor(SCALES[:count], device=restored.device) / sum(SCALES[:count])
    similar = []
    for scale in range(count):
        bright, steep = _similarity(restored, truth)  # (n, 1, y-10, x-10)
        similar.append(((bright * steep) if scale == count - 1 else steep).mean(dim=(1, 2, 3)))  # (n,)
        restored, truth = F.avg_pool2d(restored, 2), F.avg_pool2d(truth, 2)  # (n, 1, y/2, x/2)
    factors = torch.stack(similar, dim=1).clamp(min=_LEAST_SIMILARITY) ** exponents  # (n, scales)
    similarity: Tensor = factors.prod(dim=1).mean()
    return similarity


def ms_ssim_mix(restored: Tensor, truth: Tensor, weight: float = 0.8) -> Tensor:
    """Return PSSR2's loss: 1 - MS-SSIM, mixed with the mean absolute difference under the same Gaussian window.

    Zhao et al., "Loss functions for image restoration with neural networks", IEEE TCI 2017, equation 14. PSSR2's weight is 0.8.

    Parameters
    ----------
    restored, truth : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), where 0..1 is the data range; y and x 11 or more.
    weight : float
        Share of MS-SSIM, 0..1.

    Returns
    -------
    Tensor
        float32 scalar, 0 for equal patches.
    """
    absolute = _blur((_sections(restored) - _sections(truth)).abs()).mean()
    return weight * (1 - ms_ssim(restored, truth)) + (1 - weight) * absolute


def focal_frequency(restored: Tensor, truth: Tensor) -> Tensor:
    """Return the focal frequency loss: the squared error of the spectrum, where frequencies that are far off count most.

    Jiang et al., "Focal frequency loss for image reconstruction and synthesis", ICCV 2021, equations 8 to 10 with alpha 1, over
    whole sections. The spectrum is that of the orthonormal transform, so that without the weights it would be the mean squared
    error (Parseval). The weights, 0..1 in each section, are constants to the gradient.

    Parameters
    ----------
    restored, truth : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), where 0..1 is the data range.

    Returns
    -------
    Tensor
        float32 scalar, 0 for equal patches, never above their mean squared error.
    """
    return _focal_errors(restored, truth).mean()


def _focal_decibels(restored: Tensor, truth: Tensor) -> Tensor:
    return _decibels(_focal_errors(restored, truth).view(len(restored), -1).mean(dim=1))


def _focal_errors(restored: Tensor, truth: Tensor) -> Tensor:
    off: Tensor = torch.fft.fft2(_sections(restored) - _sections(truth), norm="ortho")  # (n, 1, y, x), complex
    errors = off.real.square() + off.imag.square()
    weights = errors.detach().sqrt()
    weights = weights / weights.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * errors).mean(dim=(1, 2, 3))  # (n,)


def _decibels(errors: Tensor) -> Tensor:
    return 10 * (errors + _LEAST_ERROR).log10().mean()


def _sections(patches: Tensor) -> Tensor:
    """Return (b, 1, y, x) as it is, and (b, 1, z, y, x) as (b * z, 1, y, x); in float32, which variances need."""
    return patches.reshape(-1, 1, *patches.shape[-2:]).float()


def _scales_that_fit(sections: Tensor) -> int:
    side = min(sections.shape[-2:])
    if side < WINDOW:
        raise ConfigError(
            "config.crop",
            f"crops of {side} fine voxels are smaller than the window of MS-SSIM, {WINDOW}",
            hint="take larger crops, or another loss than ms-ssim-mix",
        )
    return sum(side >> scale >= WINDOW for scale in range(len(SCALES)))


def _similarity(restored: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM's two factors at each place: that of the means, and that of contrast and structure."""
    mean_r, mean_t = _blur(restored), _blur(truth)  # (n, 1, y-10, x-10)
    variances = _blur(restored.square() + truth.square()) - mean_r.square() - mean_t.square()
    together = _blur(restored * truth) - mean_r * mean_t
    bright = (2 * mean_r * mean_t + _BRIGHT) / (mean_r.square() + mean_t.square() + _BRIGHT)
    return bright, (2 * together + _STEEP) / (variances + _STEEP)


def _blur(sections: Tensor) -> Tensor:
    """Mean under the Gaussian window, where it lies inside: (n, 1, y, x) becomes (n, 1, y-10, x-10)."""
    steps = torch.arange(WINDOW, dtype=sections.dtype, device=sections.device) - WINDOW // 2
    window: Tensor = torch.exp(-0.5 * (steps / SIGMA).square())
    window = window / window.sum()
    return F.conv2d(F.conv2d(sections, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
