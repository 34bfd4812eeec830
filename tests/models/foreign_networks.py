"""Networks of others for tests: written by torch, of layers whose reach is known by gradients."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {2: (nn.MaxPool2d, nn.AvgPool2d), 3: (nn.MaxPool3d, nn.AvgPool3d)}
UPS = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MEANS = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Added(nn.Module):
    """What goes in, and what layers make of it, added."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    """Every voxel looks at every other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)  # (n, c, voxels)
        weights = torch.softmax(flat.transpose(1, 2) @ flat, dim=-1)  # (n, voxels, voxels)
        return (flat @ weights).reshape(x.shape)


def conv(dims: int, channels: tuple[int, int] = (3, 3), kernel: int = 3, dilation: int = 1) -> nn.Module:
    return CONVS[dims](*channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def generated(seed: int) -> tuple[nn.Module, int]:
    """Return a network of a few layers, in evaluation mode, and the axes of its images."""
    chance = random.Random(seed)  # noqa: S311  (no secret)
    torch.manual_seed(seed)
    dims = 3 if seed % 5 == 4 else 2
    layers: list[nn.Module] = [conv(dims, (1, 3), chance.choice([1, 3, 5])), nn.ReLU()]
    for _ in range(chance.randint(1, 3)):
        size = chance.choice([2, 2, 3])
        inside = nn.Sequential(conv(dims, kernel=chance.choice([1, 3])), nn.ReLU())
        layers.append(
            chance.choice(
                [
                    conv(dims, kernel=3, dilation=chance.choice([1, 2, 3])),
                    Added(nn.Sequential(conv(dims), nn.LeakyReLU(), conv(dims))),
                    nn.Sequential(chance.choice(POOLS[dims])(size), inside, nn.Upsample(scale_factor=size)),
                    nn.Sequential(CONVS[dims](3, 3, size, stride=size), inside, UPS[dims](3, 3, size, stride=size)),
                ]
            )
        )
    if dims == 2 and chance.random() < 0.4:
        factor = chance.choice([2, 4])
        layers += [conv(2, (3, factor**2)), nn.PixelShuffle(factor)]
    else:
        layers.append(conv(dims, (3, 1), 1))
    return nn.Sequential(*layers).eval(), dims


def looks_at_everything(kind: str) -> nn.Module:
    """Return a 2D network whose output depends on the whole image."""
    torch.manual_seed(0)
    middle = {"instance-norm": NORMS[2](3), "attention": Attention(), "pooling": Added(MEANS[2](1))}[kind]
    return nn.Sequential(conv(2, (1, 3)), middle, conv(2, (3, 1))).eval()


def quietly(export: Callable[[], object]) -> None:
    """Export a network by an exporter that is an old one, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export()


def write_onnx(path: Path, network: nn.Module, dims: int = 2, channels: int = 1) -> Path:
    """Write a network as an ONNX file that takes images of any size."""
    axes = {0: "n", **{axis: f"side_{axis}" for axis in range(2, dims + 2)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is an old one
        image = torch.zeros(1, channels, *[24] * dims)
        torch.onnx.export(network, (image,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": axes})
    return path


def write_torchscript(path: Path, network: nn.Module, side: int = 24) -> Path:
    """Write a network of one channel in 2D as a TorchScript program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, side, side)), path)
    return path


def write_torch_export(path: Path, network: nn.Module, dims: int = 2, channels: int = 1) -> Path:
    """Write a network as a program of torch.export that takes images of any size."""
    free = dict.fromkeys(range(2, dims + 2), torch.export.Dim.AUTO)
    program = torch.export.export(network, (torch.zeros(1, channels, *[24] * dims),), dynamic_shapes=(free,))
    torch.export.save(program, path)
    return path


def reach_by_gradients(network: nn.Module, dims: int, side: int = 96) -> tuple[int, tuple[int, ...]]:
    """Return scale and reach along each axis, by the gradients of a network with positive weights.

    `side` is a multiple of the network's grid, which divides 12, and more than twice its reach.
    """
    chance = torch.Generator().manual_seed(0)
    network = _positive(network, chance)
    found = []
    for axis in range(dims):
        sides = [12] * dims
        sides[axis] = side
        x = torch.rand((1, 1, *sides), generator=chance, dtype=torch.float64, requires_grad=True)
        out = network(x)[0, 0].transpose(0, axis).flatten(1).sum(1)  # (side * scale,)
        scale, reach = len(out) // side, 0
        for place in range(side // 2 - 6, side // 2 + 6):
            (slope,) = torch.autograd.grad(out[place * scale : (place + 1) * scale].sum(), x, retain_graph=True)
            touched = slope[0, 0].transpose(0, axis).flatten(1).any(1).nonzero().flatten()
            reach = max(reach, int((touched - place).abs().max()))
        found.append(reach)
    return scale, tuple(found)


def _positive(network: nn.Module, chance: torch.Generator) -> nn.Module:
    from copy import deepcopy

    made = deepcopy(network).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_((0.5 + torch.rand(weight.shape, generator=chance, dtype=torch.float64)) / max(1, weight[0].numel()))
    return made
