"""The network: a small residual U-Net that works on the low-resolution grid and enlarges at its end.

Three decisions set it apart from a textbook U-Net, and each serves volumes that are far larger than memory:

- All work happens on the coarse grid and sub-pixel convolution (Shi et al. 2016) makes the fine voxels at the very end: 16
  times less arithmetic at 4x than enlarging first.
- No layer looks at the whole tile (no batch, instance or group norm, no attention, no global pooling), so a voxel depends
  on its neighbourhood alone and patches of one volume agree where they overlap.
- The network learns what linear enlargement misses: its output is added to the enlarged input. The last convolution and
  that sum stay in float32 even when the body runs in bfloat16, which keeps the result within half a grey level of 255.

Letters of the shape comments: b batch, c channels, n input channels, w width, z y x input voxels, fz fy fx the scale.
2D models leave z out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name every PyTorch reader expects)

from volumetool.models.section_gate import SectionGate, enlarge_linear, exporting

_WIDEST, _MOST_POOLS, _MOST_SCALE, _MOST_CONTEXT = 2**14, 12, 2**10, 64
"""Channels, pools, output voxels per input voxel or per pooled one, and sections on each side, at most."""


_SUMMED = 128
"""Channels that one convolution of size 1 adds up: oneDNN splits longer float32 sums by threads, and bytes would differ."""


class UNetConfig(BaseModel):
    """Everything that decides the shape of the network.

    Parameters
    ----------
    kind : {"unet"}
        Name of the architecture.
    dims : {2, 3}
        2 works section by section, 3 on blocks.
    scale : tuple of int
        Output voxels per input voxel along z, y, x; 1 or more each. z is 1 for 2D.
    z_context : int
        2D only: neighbouring sections on each side that come along as channels (2.5D).
    width : int
        Channels of the finest level; every level below has twice as many.
    pools : tuple of (int, int, int)
        Pooling along z, y, x from each level to the next coarser one; their number is the depth. z is 1 for 2D.
    gate : bool
        2.5D only: weigh each neighbouring section, place by place, by how well it agrees with the others; see `SectionGate`.
    expected_error : bool
        A second output: the logarithm of the expected absolute error of every output voxel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["unet"] = "unet"
    dims: Literal[2, 3] = 2
    scale: tuple[int, int, int] = (1, 4, 4)
    z_context: int = Field(0, ge=0)
    width: int = Field(32, ge=1)
    pools: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (1, 2, 2))
    gate: bool = False
    expected_error: bool = False

    @model_validator(mode="after")
    def _check(self) -> UNetConfig:
        if min(self.scale) < 1 or any(min(pool) < 1 for pool in self.pools):
            raise ValueError(f"scale {self.scale} and pools {self.pools} must be 1 or more on every axis")
        if self.dims == 2 and (self.scale[0] != 1 or any(pool[0] != 1 for pool in self.pools)):
            raise ValueError(f"a 2D network has scale and pools of 1 along z, not {self.scale} and {self.pools}")
        if self.dims == 3 and self.z_context:
            raise ValueError(f"z_context belongs to 2D networks; a 3D one sees its neighbours anyway: {self.z_context}")
        if self.gate and not (self.z_context and self.pools):
            raise ValueError("a gate weighs cells of neighbouring sections: it needs a z_context above 0, and pools")
        if len(self.pools) > _MOST_POOLS or self.width << len(self.pools) > _WIDEST:
            raise ValueError(f"width {self.width} with {len(self.pools)} pools is wider than {_WIDEST} channels")
        if max(prod(self.scale), *(max(pool) for pool in self.pools), 1) > _MOST_SCALE or self.z_context > _MOST_CONTEXT:
            raise ValueError(f"scale {self.scale}, pools {self.pools} or z_context {self.z_context} are beyond any network")
        return self

    @property
    def channels(self) -> int:
        """Input channels: the section and its neighbours."""
        return 2 * self.z_context + 1

    def spatial(self, zyx: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the part of a z, y, x triple that the network has axes for."""
        return zyx if self.dims == 3 else zyx[1:]

    @property
    def granularity(self) -> tuple[int, int, int]:
        """Patch starts and sizes are multiples of this many input voxels along z, y, x."""
        z, y, x = (prod(factors) for factors in zip((1, 1, 1), *self.pools, strict=True))
        return z, y, x


class UNet(nn.Module):
    """U-Net with additive skips on the low-resolution grid.

    Parameters
    ----------
    config : UNetConfig
        The shape of the network.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = torch.channels_last if config.dims == 2 else torch.channels_last_3d
        conv: Callable[..., nn.Conv2d | nn.Conv3d] = nn.Conv2d if config.dims == 2 else nn.Conv3d
        widths = [config.width << level for level in range(len(config.pools) + 1)]
        pools = [config.spatial(pool) for pool in config.pools]

        self.gate = SectionGate(config.z_context, config.granularity[1:]) if config.gate else None
        self.stem = conv(config.channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(ConvBlock(conv, width) for width in widths[:-1])
        self.downs = nn.ModuleList(
            conv(fine, coarse, pool, stride=pool) for fine, coarse, pool in zip(widths[:-1], widths[1:], pools, strict=True)
        )
        self.bottom = ConvBlock(conv, widths[-1])
        self.ups = nn.ModuleList(
            Up(conv(coarse, fine * prod(pool), 1), pool)
            for fine, coarse, pool in zip(widths[:-1], widths[1:], pools, strict=True)
        )
        self.decoders = nn.ModuleList(ConvBlock(conv, width) for width in widths[:-1])
        self.factors = config.spatial(config.scale)
        self.head = conv(widths[0], prod(config.scale), 3, padding=1)
        if not self.head.weight.is_meta:  # a network of shapes alone has nothing to start from
            self._start()
        # Last, so that all else begins as it does without.
        self.error_head = ErrorHead(conv, widths[0], prod(config.scale)) if config.expected_error else None

    @torch.no_grad()
    def _start(self) -> None:
        self.apply(_start_convolution)
        self.head.weight.mul_(0.2)  # training starts near linear enlargement

    def forward(self, x: Tensor) -> Tensor:
        """Enhance a batch of patches.

        Parameters
        ----------
        x : Tensor
            float32 (b, n, y, x) or (b, 1, z, y, x), normalised to about 0..1; sizes are multiples of the granularity.

        Returns
        -------
        Tensor
            float32 (b, 1, y*fy, x*fx) or (b, 1, z*fz, y*fy, x*fx) on the same intensity scale, not clipped.
        """
        return self._refine(x)[0]

    def forward_with_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Enhance a batch of patches, and say how far off each voxel is expected to be.

        The second output learns from the finished features without changing them, so that the first is the same with and
        without it. It learns in float32; afterwards its layers take the precision of the body: in bfloat16 they are five times
        as fast, and move an expected error by a hundredth.

        Parameters
        ----------
        x : Tensor
            As for `forward`.

        Returns
        -------
        enhanced : Tensor
            The enhanced patches, as `forward` returns them.
        log_error : Tensor
            float32, of the same shape: the natural logarithm of the expected absolute error, in the units of `enhanced`.
        """
        enhanced, parts = self.forward_with_error_parts(x)
        return enhanced, add_cells_(torch.zeros_like(enhanced), parts)

    def forward_with_error_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Do as `forward_with_error`, and leave the voxels that one voxel of the input becomes side by side.

        Parameters
        ----------
        x : Tensor
            As for `forward`.

        Returns
        -------
        enhanced : Tensor
            The enhanced patches, as `forward` returns them.
        parts : Tensor
            float32 (b, 1, fy, fx, y, x) or (b, 1, fz, fy, fx, z, y, x): the logarithms of the expected errors, as `add_cells_`
            takes them.
        """
        assert self.error_head is not None, "the architecture has no expected_error"  # noqa: S101
        enhanced, features = self._refine(x)
        if torch.is_grad_enabled():
            with _in_float32(x):
                parts = self.error_head(features.detach().float())
        else:
            parts = self.error_head(features)
        return enhanced, parts.float().unflatten(1, (1, *self.factors))

    def _refine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centre = x[:, self.config.z_context : self.config.z_context + 1]  # (b, 1, z, y, x)
        if self.gate is not None:
            centre, x = self.gate(x)  # (b, 1, y, x), (b, n, y, x)
        # Convolutions are fastest on this layout. A clone, because a single channel has it already and has others, too.
        h = self.stem(x.clone(memory_format=self.layout))  # (b, w, z, y, x)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            h = encoder(h)
            skips.append(h)
            h = down(h)  # (b, 2c, z/pz, y/py, x/px)
        h = self.bottom(h)
        for decoder, up in zip(reversed(self.decoders), reversed(self.ups), strict=True):
            h = decoder(up(h, skips.pop()))  # (b, c/2, z*pz, y*py, x*px)
        with _in_float32(x):
            detail = self.head(h.float()).unflatten(1, (1, *self.factors))  # (b, 1, fz, fy, fx, z, y, x)
            return add_cells_(enlarge_linear(centre.float(), self.factors), detail), h  # (b, 1, z*fz, y*fy, x*fx)


class ErrorHead(nn.Sequential):
    """Layers from the features of the finest level to the logarithm of the expected error of each output voxel.

    Parameters
    ----------
    conv : callable
        ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
    width : int
        Channels of the features.
    voxels : int
        Output voxels per input voxel.
    """

    def __init__(self, conv: Callable[..., nn.Conv2d | nn.Conv3d], width: int, voxels: int) -> None:
        last = conv(width, voxels, 3, padding=1)
        super().__init__(nn.ReLU(), conv(width, width, 3, padding=1), nn.ReLU(), last)
        nn.init.constant_(cast("Tensor", last.bias), -3.0)  # training starts near an error of a twentieth of the range

    def forward(self, features: Tensor) -> Tensor:
        """Return logarithms (b, fz*fy*fx, z, y, x); the features are overwritten where gradients are switched off."""
        first, second = self[1], self[3]
        h = first(F.relu(features, inplace=not torch.is_grad_enabled()))  # (b, w, z, y, x)
        logarithms: Tensor = second(F.relu(h, inplace=True))
        return logarithms


class ConvBlock(nn.Module):
    """Two convolutions beside a straight path, so that no unit that falls silent can cut off the levels below.

    Parameters
    ----------
    conv : callable
        ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
    width : int
        Channels in and out.
    """

    def __init__(self, conv: Callable[..., nn.Conv2d | nn.Conv3d], width: int) -> None:
        super().__init__()
        self.first = conv(width, width, 3, padding=1)
        self.second = conv(width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Refine (b, c, z, y, x); the shape stays."""
        detail: Tensor = self.second(F.relu(self.first(F.relu(h)), inplace=True))
        return detail.add_(h)


def _start_convolution(module: nn.Module) -> None:
    # Without normalisation layers, PyTorch's own start would shrink the signal by a factor of 1.7 at every convolution.
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Up(nn.ModuleList):
    """A convolution to the finer voxels within each coarse one, added to what the finer level knows.

    It is a list of one, so that weights keep the names that stored models have.

    Parameters
    ----------
    conv : nn.Conv2d or nn.Conv3d
        Convolution of size 1, to prod(factors) times the channels of the finer level.
    factors : tuple of int
        Fine voxels per coarse one for each spatial axis.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, factors: tuple[int, ...]) -> None:
        super().__init__([conv])
        self.factors = factors

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        """Add coarse maps to finer ones.

        Parameters
        ----------
        h : Tensor
            Coarse maps (b, 2c, z, y, x).
        skip : Tensor
            (b, c, z*fz, y*fy, x*fx); overwritten where gradients are switched off.

        Returns
        -------
        Tensor
            (b, c, z*fz, y*fy, x*fx).
        """
        conv = cast("nn.Conv2d | nn.Conv3d", self[0])
        # Stored in the order of PixelShuffle, a channel's voxels side by side; turned, all channels of a voxel move as one.
        weight, bias = (
            part.unflatten(0, (-1, prod(self.factors))).transpose(0, 1).flatten(0, 1)
            for part in (conv.weight, cast("Tensor", conv.bias))
        )
        convolve: Callable[..., Tensor] = F.conv2d if h.dim() == 4 else F.conv3d
        finer = convolve(h[:, :_SUMMED], weight[:, :_SUMMED], bias)  # (b, fz*fy*fx*c, z, y, x)
        for first in range(_SUMMED, h.shape[1], _SUMMED):
            part = slice(first, first + _SUMMED)
            finer = finer + convolve(h[:, part], weight[:, part])
        finer = finer.unflatten(1, (*self.factors, -1)).movedim(1 + len(self.factors), 1)  # (b, c, fz, fy, fx, z, y, x)
        return add_cells_(skip.clone() if torch.is_grad_enabled() else skip, finer)


def _in_float32(x: Tensor) -> AbstractContextManager[Any]:
    """Leave the reduced precision of what is around; where a network is written for other software, none is."""
    return nullcontext() if exporting() else torch.autocast(x.device.type, enabled=False)


def add_cells_(fine: Tensor, parts: Tensor) -> Tensor:
    """Add, in place, the voxels within each coarse voxel to those that are there.

    With ``parts = x.unflatten(1, (-1, *factors))`` it adds ``torch.nn.PixelShuffle`` of x, in 2D and 3D and with another factor
    on each axis. No pass only rearranges voxels, which would take as long as a convolution.

    Parameters
    ----------
    fine : Tensor
        (b, c, z*fz, y*fy, x*fx), of any dtype and layout; in 2D without z.
    parts : Tensor
        (b, c, fz, fy, fx, z, y, x), of the same dtype; in 2D without fz and z.

    Returns
    -------
    Tensor
        `fine`.
    """
    dims = fine.dim() - 2
    order = (0, 1, *(axis for d in range(dims) for axis in (2 + dims + d, 2 + d)))
    if exporting():
        return fine + parts.permute(order).reshape(fine.shape)
    cells = fine
    for axis in reversed(range(2, 2 + dims)):
        cells = cells.unflatten(axis, (-1, parts.shape[axis]))  # (b, c, z, fz, y, fy, x, fx) in the end
    cells.add_(parts.permute(order))
    return fine
