"""ResUNets of PSSR2, from a file of their weights alone (``torch.save`` of a state dict).

What the file does not hold, the architecture, follows from the names and shapes of its tensors: a residual U-Net (Zhang et al.,
IEEE Geoscience and Remote Sensing Letters 2018) that ends in an enlargement, as PSSR2 trains it. The file is a pickle, of which
torch's reader of weights alone (``weights_only``) takes tensors and nothing else.
"""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from volumetool.models.foreign.archive import open_archive
from volumetool.models.foreign.program import Forward, digest_of, make_positive, read_whole, unusable

HINT = "save the weights of a ResUNet of PSSR2 by torch.save(network.state_dict(), FILE); of other networks, export ONNX"

WHITE, GREY = 255.0, 128.0
"""Grey values of 8 bit: the largest, and the one that the network takes and gives as 0."""

DEEPEST = 8
"""Levels of a network, at most."""


class ResUNetProgram:
    """A ResUNet of PSSR2 whose weights were read.

    Parameters
    ----------
    network : ResUNet
        With its weights.
    sha256 : str
        Digest of the file.
    positive : bool
        With positive weights and without biases, and of values that are 0 or more.
    """

    kind = "ResUNet of PSSR2"

    def __init__(self, network: ResUNet, sha256: str, *, positive: bool = False) -> None:
        self._network, self.sha256, self._made_positive = network, sha256, positive
        self.layouts: tuple[tuple[int, int], ...] = ((4, network.inputs),)
        self.weight_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())

    def open(self, device: torch.device) -> Forward:
        """Return the network on a device. Its values are 0 to 1 over the range of 8 bit."""
        network = copy.deepcopy(self._network).to(device)
        if self._made_positive:
            return network

        def forward(x: Tensor) -> Tensor:
            y: Tensor = network(x * (WHITE / GREY) - 1)
            return (y + 1) * (GREY / WHITE)

        return forward

    def positive(self) -> Self:
        """Return the same layers with positive weights and without biases."""
        network = copy.deepcopy(self._network)
        make_positive(network.state_dict().items())
        return type(self)(network, self.sha256, positive=True)


def read_resunet(path: Path) -> ResUNetProgram:
    """Read a file of the weights of a ResUNet, and build the network that they are of.

    Raises
    ------
    ModelError
        ``model.broken``: it holds something else, or not all of one.
    """
    content = read_whole(path)
    weights = _weights(path, content)
    missing = next((part for part in _SHAPES if part not in weights), None)
    if missing is not None:
        raise unusable(path, f"it has no tensor {missing}, as weights of a ResUNet of PSSR2 have{_of_another(weights)}", HINT)
    with torch.device("meta"):  # no memory is taken for what a shape may say
        network = _network(path, weights).eval()
    wanted = network.state_dict()
    odd = sorted(wanted.keys() ^ weights.keys()) or [name for name in wanted if wanted[name].shape != weights[name].shape]
    if odd:
        raise unusable(path, f"its tensor {odd[0]!r} does not fit a ResUNet of PSSR2{_of_another(weights)}", HINT)
    network.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    return ResUNetProgram(network.float().requires_grad_(requires_grad=False), digest_of(content))


def _weights(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file; nothing else in it is made."""
    with open_archive(path, content, "archive of torch.save", HINT):
        pass  # looked at as a whole: torch would unpack anything
    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]{1,100})", str(error))  # torch's own words advise to load it all the same
        why = named[1] if named else type(error).__name__
        raise unusable(path, f"it is no file of weights alone, and what else it holds could run code: {why}", HINT) from error
    if not isinstance(found, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()):
        raise unusable(path, "it holds no tensors by their names", HINT)
    weights = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    if any(tensor.layout != torch.strided or tensor.is_quantized for tensor in weights.values()):
        raise unusable(path, "its tensors are sparse or quantised", HINT)
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > len(content):
        raise unusable(path, "its tensors claim more memory than the file has", HINT)
    return weights


_SHAPES = ("encoder.0.respass.weight", "reconstruction.pre.weight", "reconstruction.conv.weight")
"""Tensors that tell channels and enlargement."""


def _of_another(weights: Mapping[str, Tensor]) -> str:
    """Return what is known of weights that are of another network of PSSR2."""
    if any(".dilations." in name for name in weights):
        return "; it is an atrous one (ResUNetA), whose dilations the file does not tell"
    if any(name.startswith(("encoder_pool.", "reconstruction_pool.")) for name in weights):
        return "; it pools pyramids, whose sizes the file does not tell"
    return ""


def _network(path: Path, weights: Mapping[str, Tensor]) -> ResUNet:
    """Return the network that the shapes tell, without memory for its weights."""
    widths: list[int] = []
    while (name := f"encoder.{len(widths)}.respass.weight") in weights and len(widths) < DEEPEST:
        widths.append(weights[name].shape[0] if weights[name].dim() else 0)
    layers = {n for n in weights if re.fullmatch(r"encoder\.0\.conv\.\d+\.weight", n) and weights[n].dim() == 4}
    first, before, last = (weights[name] for name in _SHAPES)
    plain = all(tensor.dim() == 4 for tensor in (first, before, last)) and layers and min(widths) > 0
    scale = math.isqrt(before.shape[0] // widths[0]) if plain else 0
    if not scale or any(width % 4 for width in widths[1:]):
        raise unusable(path, f"its tensors have no shapes of a ResUNet of PSSR2{_of_another(weights)}", HINT)
    return ResUNet(first.shape[1], last.shape[0], widths, len(layers), scale)


class ResUNet(nn.Module):
    """A residual U-Net that enlarges, with the names of tensors that PSSR2 gives them.

    Parameters
    ----------
    inputs, outputs : int
        Channels of the input, which are neighbouring sections, and of the output.
    widths : list of int
        Features of each level, the finest first.
    layers : int
        Convolutions of each block.
    scale : int
        Output voxels per input voxel, along y and x.
    """

    def __init__(self, inputs: int, outputs: int, widths: list[int], layers: int, scale: int) -> None:
        super().__init__()
        self.inputs, self._scale = inputs, scale
        self.norm = nn.BatchNorm2d(inputs)
        pairs = list(zip([inputs, *widths], widths, strict=False))
        self.encoder = nn.ModuleList(_Residual(few, many, layers) for few, many in pairs)
        # Four features of a coarser level are one of the finer level, which stands beside them.
        self.decoder = nn.ModuleList(_Residual(many // 4 + few, few, layers) for few, many in reversed(pairs[1:]))
        self.reconstruction = nn.ModuleDict(
            {
                "pre": nn.Conv2d(widths[0] + inputs, scale**2 * widths[0], 3, padding=1),
                "conv": nn.Conv2d(widths[0], outputs, 3, padding=1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged image.

        Parameters
        ----------
        x : Tensor of float32, shape (n, inputs, y, x)
            Values of -1 to 1.
        """
        x = self.norm(x)
        finer = [x]
        for number, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if number else x)  # (n, width, y / 2**number, x / 2**number)
            finer.append(x)
        finer.pop()
        for block in self.decoder:
            x = block(torch.cat([F.pixel_shuffle(x, 2), finer.pop()], dim=1))  # twice as many rows and columns
        x = F.relu(self.reconstruction["pre"](torch.cat([x, finer.pop()], dim=1)))
        y: Tensor = self.reconstruction["conv"](F.pixel_shuffle(x, self._scale))  # (n, outputs, y * scale, x * scale)
        return y


class _Residual(nn.Module):
    """Convolutions, each normalised, beside one of single voxels."""

    def __init__(self, inputs: int, outputs: int, layers: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for number in range(layers):
            steps += [nn.Conv2d(outputs if number else inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.conv = nn.Sequential(*steps[:-1])
        self.respass = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.respass(x))
