"""The network keeps its promises of shape, geometry, locality and precision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F  # noqa: N812

from volumetool.models import UNet, UNetConfig, load_model
from volumetool.models.section_gate import enlarge_linear
from volumetool.models.unet import Up, add_cells_
from volumetool.training.losses import expected_error_loss

SMALL = {"width": 4}


def make(seed: int = 0, **fields: object) -> UNet:
    torch.manual_seed(seed)
    return UNet(UNetConfig.model_validate(SMALL | fields)).eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("fields", "given", "got"),
    [
        ({"scale": (1, 4, 4)}, (2, 1, 16, 24), (2, 1, 64, 96)),
        ({"scale": (1, 2, 3)}, (1, 1, 16, 16), (1, 1, 32, 48)),
        ({"scale": (1, 1, 1)}, (1, 1, 16, 16), (1, 1, 16, 16)),
        ({"scale": (1, 4, 4), "z_context": 2}, (2, 5, 16, 16), (2, 1, 64, 64)),
        ({"scale": (1, 4, 4), "z_context": 2, "gate": True}, (2, 5, 16, 24), (2, 1, 64, 96)),
        ({"dims": 3, "scale": (2, 4, 3)}, (1, 1, 6, 16, 16), (1, 1, 12, 64, 48)),
        ({"dims": 3, "scale": (1, 1, 1), "pools": ((2, 2, 2),)}, (1, 1, 6, 8, 8), (1, 1, 6, 8, 8)),
        ({"pools": ((1, 2, 2), (1, 2, 3), (1, 2, 1))}, (1, 1, 16, 12), (1, 1, 64, 48)),
        ({"pools": ()}, (1, 1, 7, 5), (1, 1, 28, 20)),
    ],
)
def test_output_has_scale_times_the_input_size(fields: dict[str, object], given: tuple[int, ...], got: tuple[int, ...]) -> None:
    assert tuple(make(**fields)(torch.rand(given)).shape) == got


def test_em_x4_architecture_stays_small() -> None:
    assert sum(parameter.numel() for parameter in UNet(UNetConfig()).parameters()) == 567_312


def test_pixel_shuffle_in_2d_is_pytorch_s_own() -> None:
    x = torch.rand(2, 3 * 16, 5, 6)
    for layout in (torch.contiguous_format, torch.channels_last):
        fine = torch.zeros(2, 3, 20, 24).to(memory_format=layout)
        assert torch.equal(add_cells_(fine, x.unflatten(1, (-1, 4, 4))), F.pixel_shuffle(x, 4))


def test_pixel_shuffle_in_3d_puts_each_channel_at_its_place_in_the_block() -> None:
    fz, fy, fx = 2, 3, 4
    x = torch.arange(fz * fy * fx, dtype=torch.float32).reshape(1, -1, 1, 1, 1).expand(1, -1, 2, 2, 2)
    out = add_cells_(torch.full((1, 1, 4, 6, 8), 100.0), x.unflatten(1, (-1, fz, fy, fx)))[0, 0]
    for z, y, x_ in ((0, 0, 0), (1, 2, 3), (2, 3, 4), (3, 5, 7), (1, 4, 6)):
        assert out[z, y, x_] == 100 + (z % fz) * fy * fx + (y % fy) * fx + x_ % fx


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"scale": (1, 1, 1)}, (2, 1, 16, 12)),
        ({"z_context": 1}, (2, 3, 16, 12)),
        ({"z_context": 2, "gate": True}, (2, 5, 16, 12)),
        ({"dims": 3, "scale": (2, 1, 3), "pools": ((2, 1, 3), (1, 2, 2))}, (2, 1, 4, 8, 12)),
    ],
)
def test_voxels_are_the_same_with_and_without_gradients_and_the_input_stays(
    fields: dict[str, object], given: tuple[int, ...]
) -> None:
    """Without gradients the network overwrites what it needs no more: never its input, and nothing that counts."""
    network, x = make(**fields), torch.rand(given)
    before = x.clone()
    with torch.inference_mode():
        without = network(x)
    wanting = x.clone().requires_grad_()
    with_gradients = network.requires_grad_()(wanting)
    with_gradients.square().sum().backward()
    assert torch.equal(without, with_gradients)
    assert torch.equal(x, before)
    assert wanting.grad is not None
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (2, 3, 1)])
def test_the_way_up_is_pixel_shuffle_with_its_gradients(factors: tuple[int, ...]) -> None:
    """Against the textbook's way in float64, the shuffle spelled out voxel by voxel; the skip stays as it was."""
    dims = len(factors)
    torch.manual_seed(0)
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(8, 4 * math.prod(factors), 1).double()
    h = torch.rand(2, 8, *(4, 5, 6)[:dims], dtype=torch.float64)
    skip = torch.rand(2, 4, *(n * f for n, f in zip(h.shape[2:], factors, strict=True)), dtype=torch.float64)
    before = skip.clone()
    ours = Up(conv, factors)(h, skip)
    shuffled = torch.empty_like(skip)
    parts = conv(h)
    for number, offsets in enumerate(itertools.product(*map(range, factors))):
        cut = tuple(slice(offset, None, factor) for offset, factor in zip(offsets, factors, strict=True))
        shuffled[(slice(None), slice(None), *cut)] = parts[:, number :: math.prod(factors)]
    theirs = skip + shuffled
    assert torch.equal(skip, before)
    assert torch.allclose(ours, theirs, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), conv.parameters()),
        torch.autograd.grad(theirs.square().sum(), conv.parameters()),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-9)


def test_enlargement_is_pixel_centred() -> None:
    # On a ramp, output voxel j of block i lies at i + (j + 0.5) / f - 0.5 of the input's own coordinate.
    ramp = torch.arange(8, dtype=torch.float32).expand(1, 1, 8, 8)
    out = enlarge_linear(ramp, (4, 4))[0, 0, 0]
    wanted = (torch.arange(32) + 0.5) / 4 - 0.5
    assert torch.allclose(out[2:-2], wanted[2:-2], atol=1e-6)


def test_without_learned_detail_the_output_is_the_enlarged_centre_section() -> None:
    network = make(z_context=1)
    network.head.weight.zero_()
    network.head.bias.zero_()
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(network(x), enlarge_linear(x[:, 1:2], (4, 4)))


def test_a_fresh_network_does_add_detail() -> None:
    # Otherwise every test of seams that uses fresh weights would be a test of linear enlargement.
    x = torch.rand(1, 1, 32, 32)
    assert (make()(x) - enlarge_linear(x, (4, 4))).abs().max() > 0.02


def test_neighbouring_sections_matter_in_25d() -> None:
    network, x = make(z_context=1), torch.rand(1, 3, 16, 16)
    other = x.clone()
    other[:, 0] += 0.5
    assert not torch.allclose(network(x), network(other))


def gated(**fields: object) -> UNet:
    """Make a network whose gate has learnt something: a fresh one weighs nearly alike."""
    network = make(z_context=2, gate=True, **fields)
    torch.manual_seed(1)
    for parameter in network.gate.parameters():
        nn.init.normal_(parameter)
    return network


def test_a_gate_leaves_a_section_alone_where_its_neighbours_repeat_it() -> None:
    x = torch.rand(2, 1, 16, 16)
    fused, sections = gated().gate(x.expand(2, 5, 16, 16))
    assert torch.equal(fused, x)
    assert torch.equal(sections[:, 2:3], x)
    assert not sections[:, [0, 1, 3, 4]].any()


def test_a_neighbour_of_one_value_counts_as_no_neighbour_cell_by_cell() -> None:
    """As a lost section does, which is stored as zeros, and the part of a section that was not scanned."""
    x = torch.rand(1, 5, 32, 32)
    x[:, 1] = 0
    x[:, 3, :, 16:] = 1
    like = x.clone()
    like[:, 1] = x[:, 2]
    like[:, 3, :, 16:] = x[:, 2, :, 16:]
    network = gated()
    assert torch.equal(network.gate(x)[0], network.gate(like)[0])
    assert torch.equal(network.gate(x)[1], network.gate(like)[1])


def test_a_gate_averages_sections_and_never_leaves_their_range() -> None:
    x = torch.rand(3, 5, 24, 32)
    fused, _ = gated().gate(x)
    assert (fused <= x.amax(dim=1, keepdim=True) + 1e-6).all()
    assert (fused >= x.amin(dim=1, keepdim=True) - 1e-6).all()
    assert not torch.allclose(fused, x[:, 2:3])


def test_a_gate_needs_neighbours() -> None:
    with pytest.raises(ValidationError, match="z_context"):
        UNetConfig(gate=True)


def test_the_expected_error_learns_and_leaves_the_enhanced_image_alone() -> None:
    plain, both = make(), make(expected_error=True)
    x, truth = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 64, 64)
    enhanced, log_error = both.requires_grad_().forward_with_error(x)
    assert torch.equal(enhanced, plain(x))
    assert torch.equal(both(x), enhanced)
    assert log_error.shape == enhanced.shape
    expected_error_loss(log_error, enhanced, truth).backward()
    learning = {name.split(".")[0] for name, parameter in both.named_parameters() if parameter.grad is not None}
    assert learning == {"error_head"}


def test_in_bfloat16_an_expected_error_moves_by_a_hundredth() -> None:
    """The layers after the body take its precision, the image does not change."""
    network = load_model("em-x4").network()
    x = torch.rand(1, network.config.channels, 64, 64, generator=torch.Generator().manual_seed(0)) / 4 + 0.4
    with torch.inference_mode():
        exact = network.forward_with_error(x)[1]
        with torch.autocast("cpu", torch.bfloat16):
            image, log_error = network.forward_with_error(x)
            assert torch.equal(image, network(x))
            features = network._refine(x)[1]
            with torch.autocast("cpu", enabled=False):
                head = network.error_head(features.float())
    assert log_error.dtype == torch.float32
    full = add_cells_(torch.zeros_like(image), head.unflatten(1, (1, *network.factors)))
    assert (log_error - full).abs().mean() < 0.01
    assert (log_error - exact).abs().mean() < 0.03


def test_far_voxels_do_not_matter() -> None:
    # No layer sees the whole tile: a change in one corner ends within the receptive field.
    network, x = make(), torch.rand(1, 1, 96, 96)
    other = x.clone()
    other[..., :8, :8] += 10
    same = network(x)[..., (8 + 25) * 4 :, :] == network(other)[..., (8 + 25) * 4 :, :]
    assert same.all()
    assert not torch.equal(network(x)[..., : 8 * 4, :], network(other)[..., : 8 * 4, :])


def test_a_shift_by_the_granularity_shifts_the_output() -> None:
    network, x = make(), torch.rand(1, 1, 80, 80)
    whole, cut = network(x), network(x[..., 4:, 4:])
    inner = slice(26 * 4, -26 * 4)
    assert torch.allclose(whole[..., 16:, 16:][..., inner, inner], cut[..., inner, inner], atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_bfloat16_keeps_a_float32_output_close_to_float32(dims: int) -> None:
    network = make(dims=dims)
    x = torch.rand(1, 1, 32, 32) if dims == 2 else torch.rand(1, 1, 4, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert half.dtype == torch.float32
    # Were the skip in bfloat16 too, the output would lie on its coarse grid of steps.
    assert not torch.equal(half, half.bfloat16().float())
    assert (half - network(x)).abs().max() < 0.02


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": (2, 4, 4)},
        {"scale": (1, 0, 4)},
        {"pools": ((2, 2, 2),)},
        {"dims": 3, "z_context": 1},
        {"width": 0},
        {"unknown": 1},
    ],
)
def test_impossible_shapes_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UNetConfig.model_validate(fields)
