"""The measured receptive field is the true one."""

from __future__ import annotations

import pytest
import torch

from volumetool.models import UNet, UNetConfig, measure_receptive_field
from volumetool.testing.fakes import load_fake
from volumetool.training.restore import safe_margin


@pytest.mark.parametrize(
    ("pools", "wanted"),
    [
        ((), 4),  # stem 1, bottom 2, head 1
        (((1, 2, 2),), 11),  # 1 + 2 + phase 1, then 2 * 2 at half resolution, then 2 + 1
        (((1, 2, 2), (1, 2, 2)), 25),
    ],
)
def test_reach_of_the_2d_unet_is_that_counted_by_hand(pools: tuple[tuple[int, int, int], ...], wanted: int) -> None:
    config = UNetConfig(pools=pools, width=2)
    assert measure_receptive_field(UNet(config), config) == (0, wanted, wanted)


def test_axes_are_measured_apart() -> None:
    config = UNetConfig(dims=3, scale=(1, 2, 2), pools=((1, 2, 2),), width=2)
    assert measure_receptive_field(UNet(config), config, reach=40) == (8, 11, 11)


def test_section_context_is_the_reach_along_z() -> None:
    config = UNetConfig(z_context=2, pools=(), width=2)
    assert measure_receptive_field(UNet(config), config) == (2, 4, 4)


def test_a_gate_s_statistics_belong_to_the_reach() -> None:
    """Cells of 4 voxels, smoothed over 3 and enlarged linearly, reach 9 voxels farther than the network behind them."""
    config = UNetConfig(z_context=1, width=2, gate=True)
    assert measure_receptive_field(UNet(config), config) == (1, 34, 34)
    assert max(measure_receptive_field(UNet(config), config)[1:]) <= safe_margin(config)[1]


def test_no_voxel_beyond_it_changes_the_output_and_one_at_it_does() -> None:
    config = UNetConfig(width=8)
    torch.manual_seed(3)
    network = UNet(config).eval().requires_grad_(requires_grad=False)
    _, _, reach = measure_receptive_field(network, config)
    x = torch.rand(1, 1, 8, 120)
    before = network(x)
    farthest = 0
    for column in range(56, 60):  # all phases of the pooling grid
        other = x.clone()
        other[..., column] += 100
        touched = (network(other) != before).any(dim=2)[0, 0].nonzero() // 4  # input columns whose output changed
        farthest = max(farthest, int((touched - column).abs().max()))
    assert farthest == reach


@pytest.mark.parametrize("spec", ["fake:box?radius=3", "fake:box?radius=2&dims=3&scale=2,2,2", "fake:box?z_context=1"])
def test_fakes_reach_as_far_as_they_say(spec: str) -> None:
    model = load_fake(spec)
    assert measure_receptive_field(model.network(), model.card.architecture) == model.card.receptive_field


def test_identity_reaches_nowhere() -> None:
    model = load_fake("fake:identity")
    assert measure_receptive_field(model.network(), model.card.architecture) == (0, 0, 0)


def test_a_probe_that_is_too_small_is_refused() -> None:
    config = UNetConfig(width=2)
    with pytest.raises(ValueError, match="raise reach"):
        measure_receptive_field(UNet(config), config, reach=16)


def test_the_network_is_left_as_it_was() -> None:
    config = UNetConfig(width=2, pools=())
    network = UNet(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_receptive_field(network, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
