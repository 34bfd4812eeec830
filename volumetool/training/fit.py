"""The training loop: draw pairs, descend, keep a running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from volumetool.training.pairs import PairsConfig, draw_batch


class FitConfig(BaseModel):
    """How to train.

    Parameters
    ----------
    pairs : PairsConfig
        What the network learns from.
    steps : int
        Optimiser steps.
    learning_rate : float
        Peak of the schedule: linear rise over the first 5 %, then half a cosine to a hundredth of the peak.
    weight_decay : float
        AdamW's decay.
    clip : float
        Largest norm of the gradient of the loss in dB.
    ema : float
        Decay of the running mean of the weights that is returned.
    bfloat16 : bool
        Whether convolutions run in bfloat16; weights and loss stay float32.
    seed : int
        Seeds the pairs and the first weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: PairsConfig = PairsConfig()
    steps: int = Field(8000, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    clip: float = Field(10.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    bfloat16: bool = True
    seed: int = 0


def fit(
    make_network: Callable[[], nn.Module],
    sources: Sequence[NDArray[np.uint8]],
    config: FitConfig,
    *,
    device: str = "cpu",
    progress: Callable[[int, float, nn.Module], None] = lambda _step, _loss, _mean: None,
) -> nn.Module:
    """Train a 2D network on crappified sections.

    The loss is minus the PSNR of each crop, meaned, because that is what the result is judged by: the mean squared error
    alone would let the noisiest acquisitions outweigh the rest, and a loss that rewards sharpness would draw detail that
    the data does not hold.

    Parameters
    ----------
    make_network : callable
        Makes the untrained network; called once, after seeding.
    sources : sequence of ndarray
        uint8 (z, y, x) fine volumes, see `draw_batch`.
    config : FitConfig
        How to train.
    device : str
        Where to train, such as ``"cpu"`` or ``"cuda"``.
    progress : callable
        Told the step (from 1), its loss in dB, and the network with the running mean of the weights.

    Returns
    -------
    nn.Module
        The trained network, in eval mode on the CPU, with the running mean of the weights.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network = make_network().to(device).train()
    mean = AveragedModel(network, avg_fn=_running_mean(config.ema))
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))

    for step in range(1, config.steps + 1):
        coarse, fine = (torch.from_numpy(part).to(device) for part in draw_batch(sources, config.pairs, rng))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.bfloat16):
            restored = network(coarse.to(memory_format=torch.channels_last))  # (b, 1, y*f, x*f)
        loss = minus_psnr(restored, fine)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        schedule.step()
        mean.update_parameters(network)
        progress(step, float(loss.detach()), mean.module)
    trained: nn.Module = mean.module
    return trained.to("cpu").eval()


def minus_psnr(restored: Tensor, fine: Tensor) -> Tensor:
    """Return minus the PSNR in dB, meaned over the batch.

    Parameters
    ----------
    restored, fine : Tensor
        float32 (b, 1, y, x), where 0..1 is the data range.

    Returns
    -------
    Tensor
        float32 scalar.
    """
    errors = (restored - fine).square().mean(dim=(1, 2, 3))  # (b,)
    return 10 * (errors + 1e-6).log10().mean()


def _running_mean(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def mean(so_far: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        # Shorter at first, or the untrained weights would weigh on it for thousands of steps.
        return so_far + (new - so_far) * max(1 - decay, 9 / (10 + int(count)))

    return mean


def _rate(step: int, steps: int) -> float:
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
