"""The operation that is a network: a U-Net on the CPU or a GPU."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from volumetool.configuration import Lengths, OutputChannel, planes_of
from volumetool.errors import ConfigError, ModelError
from volumetool.geometry import Triple
from volumetool.models.card import ModelCard
from volumetool.models.package import Model
from volumetool.models.unet import UNet, add_cells_
from volumetool.processing.consistency import block_means, residuals
from volumetool.processing.device.arrays import Array, as_array
from volumetool.processing.device.cuda_graph import GraphReplay
from volumetool.processing.operations.turns import turned_ways
from volumetool.processing.spec import Numerics

ACTIVATIONS = {2: 6, 3: 7}
"""Feature maps of the finest level that a 2D and a 3D network hold at once, in their precision; measured on the U-Net."""


IMAGE = OutputChannel(name="image")
ERROR = OutputChannel(name="expected-error", values="difference")
SPREAD = OutputChannel(name="spread", values="difference")
RESIDUAL = OutputChannel(name="consistency", values="difference")


ERROR_BY = "expected_error in the body's precision"
"""How the expected error is computed; other words make other jobs of those that have it, and leave all others as they are."""


class NetworkOptions(BaseModel):
    """What may be asked of a network of ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    expected_error: bool = False
    """A further channel: the absolute error that the network expects of each voxel, in grey values."""
    spread: bool = False
    """A further channel: the standard deviation over the outputs of the patch turned and mirrored, in grey values."""
    consistency: bool = False
    """A further channel: the mean of the output over each voxel of the input, less that voxel, in grey values."""
    block: Lengths = (1, 1, 1)
    """Voxels of the output, z, y, x, over which these channels are averaged: for a trust volume alone."""
    steps: bool = False
    """With such blocks: also the expected error of each voxel, by which `--store-error` goes."""

    @model_validator(mode="after")
    def _of_blocks(self) -> Self:
        if self.steps and max(self.block) == 1:
            raise ValueError("steps is for blocks of several voxels, as --store-error and --trust make them")
        return self

    @property
    def said(self) -> str:
        """The options as they stand behind the model in a name."""
        block = f";block={','.join(map(str, self.block))}" if max(self.block) > 1 else ""
        return "".join(f";{name}=true" for name, asked in self if asked is True) + block

    @property
    def channels(self) -> tuple[OutputChannel, ...]:
        """The channels of the output; empty for the image alone."""
        every = ((ERROR, self.expected_error), (SPREAD, self.spread), (RESIDUAL, self.consistency))
        more = [channel.model_copy(update={"block": self.block}) for channel, asked in every if asked]
        return (IMAGE, *([ERROR] if self.steps else []), *more) if more else ()


def split_name(spec: str) -> tuple[str, str]:
    """Return the model and the options of a name ``MODEL;OPTION=VALUE;...``."""
    model, options = re.fullmatch(r"(.*?)((?:;\w+=[^;]*)*)", spec, re.DOTALL).groups()  # type: ignore[union-attr]  # always
    return model, options


class NetworkOperation:
    """A model as an operation on patches.

    Parameters
    ----------
    model : Model
        Card and weights.
    options : NetworkOptions
        What is asked of it.

    Raises
    ------
    ModelError
        ``model.geometry``: the expected error is asked for, and the network has no such output.
    ConfigError
        ``config.option``: blocks do not divide the network's scale.
    """

    def __init__(self, model: Model, options: NetworkOptions = NetworkOptions()) -> None:  # noqa: B008  (frozen)
        self.model = model
        self.spec: str = model.spec
        self.card: ModelCard = model.card
        self.identity: str = model.weights_sha256
        if any(times % n for n, times in zip(options.block, model.card.scale, strict=True)):
            raise ConfigError(
                "config.option",
                f"blocks of {options.block} voxels, but {model.card.name} makes {model.card.scale} of each of the input",
                hint="leave block out: --trust takes the one that fits",
            )
        if (options.expected_error or options.steps) and not model.card.architecture.expected_error:
            raise ModelError(
                "model.geometry",
                f"expected_error is asked for, but {model.card.name} says no error that it expects",
                hint="leave the option out, or take a model whose `volumetool model show` says expected_error",
            )
        if options.channels:
            self.spec += options.said
            self.card = model.card.model_copy(update={"channels": options.channels})
            said = options.said.replace("=true", "").replace("expected_error", ERROR_BY)
            self.identity = hashlib.sha256(f"{self.identity}{said}".encode()).hexdigest()

    def open(self, device: torch.device, numerics: Numerics) -> NetworkFunction:
        """Return the network as a function on a device."""
        return NetworkFunction(self.model, device, numerics, self.card.channels)

    def working_bytes(self, patch: Triple, precision: str) -> int:
        """Return the bytes of the activations for one patch."""
        itemsize = 2 if precision == "bfloat16" else 4
        activations = math.prod(patch) * self.card.architecture.width * itemsize * ACTIVATIONS[self.card.dims]
        spreads = any(channel.name == SPREAD.name for channel in self.card.channels)
        sums = 16 * math.prod(patch) * math.prod(self.card.scale) if spreads else 0
        return activations + sums


class NetworkFunction:
    """A network on its device.

    Parameters
    ----------
    model : Model
        Card and weights.
    device : torch.device
        Device to compute on.
    numerics : Numerics
        Precision of the network's body; calls of the whole batch are recorded on a GPU.
    channels : tuple of OutputChannel
        What to return beside the image; empty for an image without a channel axis.
    """

    def __init__(
        self, model: Model, device: torch.device, numerics: Numerics, channels: tuple[OutputChannel, ...] = ()
    ) -> None:
        self._dims, self._device, self._numerics, self._scale = model.card.dims, device, numerics, model.card.scale
        self._channels, self._planes = channels, planes_of(channels)
        self._names = [channel.name for channel in channels]
        self._with_error = ERROR.name in self._names
        layout = torch.channels_last if model.card.dims == 2 else torch.channels_last_3d
        self.network = model.network().to(device).to(memory_format=layout)  # type: ignore[call-overload]  # stubs lack it
        # A U-Net does nothing at a call but compute; what else a network does, a recording would leave out.
        records = device.type == "cuda" and isinstance(self.network, UNet) and not self._with_error
        self.recorded = GraphReplay(self.network) if records else None

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return outputs, float32 (n, [planes,] z, y, x); what is not finite was computed in float32, too."""
        reduced = self._numerics.precision != "float32"
        # Threads start with gradients switched on, so the mode is entered here, in the thread that computes.
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=reduced):
            # Short batches come in many sizes, and each recording holds memory.
            y = self._forward(patches, self.recorded if len(patches) == self._numerics.batch else None)
            if reduced and not torch.isfinite(y.sum()):
                self._repeat_in_float32(patches, y)
            return as_array(y)

    def release(self) -> None:
        """Forget the recordings of the network, with the memory that they hold."""
        if self.recorded is not None:
            self.recorded.forget()

    def _forward(self, patches: NDArray[np.float32], recorded: GraphReplay | None = None) -> torch.Tensor:
        x = torch.from_numpy(patches)  # (n, depth, y, x)
        if self._device.type == "cuda":  # a copy out of pinned memory runs beside the call before it
            x = x.pin_memory()
        x = x.to(self._device, non_blocking=self._device.type == "cuda")
        if self._dims == 3:
            x = x.unsqueeze(1)  # (n, 1, z, y, x)
        log_error = None
        if self._with_error:
            assert isinstance(self.network, UNet)  # noqa: S101  (its card has the U-Net's configuration)
            y, log_error = self.network.forward_with_error_parts(x)
        else:
            y = (recorded or self.network)(x)  # (n, 1, [z*fz,] y*fy, x*fx)
        spread = self._spread(x, y, recorded or self.network) if SPREAD.name in self._names else None
        y = y.squeeze(1) if self._dims == 3 else y  # (n, z*fz, y*fy, x*fx)
        return y if not self._channels else self._beside(y, log_error, spread, patches)

    def _spread(self, x: torch.Tensor, y: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the standard deviation over outputs of patches that are turned and mirrored in plane, and turned back.

        Deviations from the output of the patch as it is are summed, in one order: small ones, so that sums are exact enough.
        """
        total, squares = torch.zeros_like(y), torch.zeros_like(y)  # (n, 1, [z*fz,] y*fy, x*fx)
        ways = turned_ways(square=x.shape[-1] == x.shape[-2] and self._scale[1] == self._scale[2])
        for exchanged, mirrored in ways[1:]:
            turned = (x.transpose(-1, -2) if exchanged else x).flip(mirrored)
            back = network(turned.contiguous()).flip(mirrored)
            away = (back.transpose(-1, -2) if exchanged else back) - y
            total += away
            squares.addcmul_(away, away)
        mean = total / len(ways)
        return (squares / len(ways) - mean * mean).clamp_(min=0).sqrt_()

    def _beside(
        self, y: torch.Tensor, log_error: torch.Tensor | None, spread: torch.Tensor | None, patches: NDArray[np.float32]
    ) -> torch.Tensor:
        """Return images with the channels that are asked for beside them, where `planes_of` says."""
        every = y.new_empty((len(y), self._planes[-1][0] + 1, *y.shape[1:]))  # (n, planes, z*fz, y*fy, x*fx)
        every[:, 0] = y
        every[:, sum(max(channel.block) == 1 for channel in self._channels) :] = 0  # not every place of a block may be taken
        errors = None if log_error is None else log_error.exp_()
        for channel, (plane, place) in zip(self._channels, self._planes, strict=True):
            along = [slice(first, None, n) for first, n in zip(place, channel.block, strict=True)]
            at = every[:, plane, along[0], along[1], along[2]]  # (n, z*fz/bz, y*fy/by, x*fx/bx)
            if channel.name == ERROR.name and errors is not None:
                at[...] = joined_parts(errors, channel.block).view(at.shape)
            elif channel.name == SPREAD.name and spread is not None:
                at[...] = _tensor(block_means(as_array(spread.view(y.shape)), channel.block))
            elif channel.name == RESIDUAL.name:
                at[...] = _tensor(residuals(as_array(y), patches, self._scale, channel.block))
        return every

    def _repeat_in_float32(self, patches: NDArray[np.float32], y: torch.Tensor) -> None:
        """Compute the patches that are not finite again, each by itself, so that its neighbours in a batch change no byte."""
        for number in range(len(y)):
            if not torch.isfinite(y[number]).all():
                with torch.autocast(self._device.type, enabled=False):
                    y[number] = self._forward(patches[number : number + 1])[0]


def joined_parts(parts: torch.Tensor, block: Triple) -> torch.Tensor:
    """Return the means over blocks of what a network says of each voxel of its output.

    Parameters
    ----------
    parts : Tensor
        float32 (b, 1, fz, fy, fx, z, y, x), in 2D without fz and z, as `volumetool.models.unet.add_cells_` takes them.
    block : tuple of int
        Voxels of the output, z, y, x: a divisor of the network's scale.

    Returns
    -------
    Tensor
        float32 (b, 1, z*fz/bz, y*fy/by, x*fx/bx); in 2D without z.
    """
    dims = parts.dim() // 2 - 1
    own = block[3 - dims :]
    if max(own) > 1:
        for axis, n in enumerate(own):
            parts = parts.unflatten(2 + 2 * axis, (-1, n))
        parts = parts.mean([3 + 2 * axis for axis in range(dims)])  # (b, 1, fz/bz, fy/by, fx/bx, z, y, x)
    sizes = [n * times for n, times in zip(parts.shape[-dims:], parts.shape[2 : 2 + dims], strict=True)]
    fine = (len(parts), 1, *sizes)
    return parts.reshape(fine) if parts.shape[2 : 2 + dims].numel() == 1 else add_cells_(parts.new_zeros(fine), parts)


def _tensor(array: Array) -> torch.Tensor:
    """Return an array as a tensor; of some devices it is a copy."""
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(array)
    return tensor
