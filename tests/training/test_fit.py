"""The loop learns, repeats itself, and says where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from volumetool.models import UNet, UNetConfig
from volumetool.models.unet import enlarge_linear
from volumetool.training.fit import FitConfig, fit, minus_psnr
from volumetool.training.pairs import PairsConfig, draw_batch
from volumetool.training.phantom import phantom

SMALL = UNetConfig(width=4, pools=((1, 2, 2),))


@pytest.fixture(scope="module")
def source() -> NDArray[np.uint8]:
    return phantom((64, 64, 64), seed=1)


def config(steps: int, **changes: object) -> FitConfig:
    pairs = PairsConfig(crop=16, acquisitions=2, crops=2)
    return FitConfig.model_validate({"pairs": pairs, "steps": steps, "ema": 0.9, "bfloat16": False} | changes)


def test_loss_is_minus_the_psnr() -> None:
    fine = torch.zeros(2, 1, 8, 8)
    assert float(minus_psnr(fine + 0.1, fine)) == pytest.approx(-20, abs=1e-2)


def test_a_moment_of_training_beats_enlarging(source: NDArray[np.uint8]) -> None:
    noisy = PairsConfig(crop=16, acquisitions=4, crops=2, strength=(1.5, 2.0), grain=(0, 0), recipes=("pssr-em",))
    told: list[tuple[int, float]] = []
    network = fit(
        lambda: UNet(SMALL),
        [source],
        config(80, pairs=noisy, learning_rate=1e-2),
        progress=lambda step, loss, _mean: told.append((step, loss)),
    )
    assert [step for step, _ in told] == list(range(1, 81))
    coarse, fine = (torch.from_numpy(part) for part in draw_batch([source], noisy, np.random.default_rng(99)))
    with torch.no_grad():
        trained, enlarged = minus_psnr(network(coarse), fine), minus_psnr(enlarge_linear(coarse, (4, 4)), fine)
    assert trained < enlarged - 0.2


def test_the_same_seed_trains_the_same_network(source: NDArray[np.uint8]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first, again, other = (fit(lambda: UNet(SMALL), [source], config(3, seed=seed)) for seed in (1, 1, 2))
    torch.set_num_threads(threads)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_what_comes_back_is_the_running_mean_in_eval_mode(
    source: NDArray[np.uint8],
) -> None:
    seen: list[torch.Tensor] = []
    trained = fit(lambda: UNet(SMALL), [source], config(2), progress=lambda _s, _l, mean: seen.append(weights(mean)))
    assert not trained.training
    assert torch.equal(weights(trained), seen[-1])


def test_bfloat16_trains_too(source: NDArray[np.uint8]) -> None:
    trained = fit(lambda: UNet(SMALL), [source], config(2, bfloat16=True))
    assert weights(trained).dtype == torch.float32
    assert torch.isfinite(weights(trained)).all()


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()
