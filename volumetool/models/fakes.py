"""Networks without weights whose right answer is known, for testing a pipeline from end to end.

Each betrays another mistake: `identity` a shifted or wrongly enlarged voxel, `constant` a weight that does not sum to one,
`box` a missing halo (it has a receptive field, and pads with zeros at the edge of its tile as the U-Net does), `position` a
wrong lattice, patch order or crop (its output depends on where in the patch a voxel lies). On top of that a fake may go wrong
on purpose, see `volumetool.models.faults`.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from volumetool.models.faults import Fault, Trouble

RAMP: tuple[float, ...] = (0.5, 0.125, 0.25)
"""What `position` adds per output voxel along z, y, x: powers of two, so that every value is exact in float32."""


class FakeConfig(Fault):
    """A network that computes something simple, and may fail; the fields of `Fault` say how.

    Parameters
    ----------
    behaviour : {"identity", "constant", "box", "position"}
        ``identity`` repeats each input voxel, ``constant`` gives `value` everywhere, ``box`` gives the mean over a
        window, repeated, ``position`` the identity plus a ramp (`RAMP`) that starts anew in each patch.
    dims : {2, 3}
        2 works section by section, 3 on blocks.
    scale : tuple of int
        Output voxels per input voxel along z, y, x.
    z_context : int
        2D only: neighbouring sections on each side that come along as channels; the box averages over them too.
    value : float
        What ``constant`` gives, in grey values of the volume.
    seconds : float
        How long each call takes at least: a device to wait for.
    radius : int
        The box covers 2 * radius + 1 voxels along each axis of the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fake"] = "fake"
    behaviour: Literal["identity", "constant", "box", "position"]
    dims: Literal[2, 3] = 2
    scale: tuple[int, int, int] = (1, 4, 4)
    z_context: int = Field(0, ge=0)
    value: float = Field(100.0, allow_inf_nan=False)
    radius: int = Field(2, ge=0)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> FakeConfig:
        if min(self.scale) < 1 or (self.dims == 2 and self.scale[0] != 1):
            raise ValueError(f"scale must be 1 or more, and 1 along z in 2D, not {self.scale}")
        if self.dims == 3 and self.z_context:
            raise ValueError(f"z_context belongs to 2D networks: {self.z_context}")
        return self

    @property
    def granularity(self) -> tuple[int, int, int]:
        """A fake takes patches of any size."""
        return 1, 1, 1

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        """Farthest input voxel that changes an output voxel, along z, y, x."""
        if self.behaviour != "box":
            return 0, 0, 0
        return (self.z_context if self.dims == 2 else self.radius), self.radius, self.radius


class Fake(nn.Module):
    """A network of known answer, called like the U-Net.

    Parameters
    ----------
    config : FakeConfig
        What it computes.
    """

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.config = config
        self.first = 3 - config.dims  # of a (z, y, x) triple, the first axis that this network has
        self.trouble = Trouble(config)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the known answer.

        Parameters
        ----------
        x : Tensor
            float32 (b, n, y, x) or (b, 1, z, y, x), grey values of the volume.

        Returns
        -------
        Tensor
            float32 (b, 1, y*fy, x*fx) or (b, 1, z*fz, y*fy, x*fx).
        """
        time.sleep(self.config.seconds)
        self.trouble.before(x)
        context = self.config.z_context
        section = centre = x[:, context : context + 1]  # (b, 1, z, y, x)
        if self.config.behaviour == "box":
            centre = self._box(x)
        if self.config.behaviour == "constant":
            centre = torch.full_like(centre, self.config.value)
        centre = self.trouble.after(section, centre)
        for axis, factor in enumerate(self.config.scale[self.first :], start=2):
            centre = centre.repeat_interleave(factor, dim=axis)  # one axis grows by its factor
        return centre + self._ramp(centre) if self.config.behaviour == "position" else centre

    def _box(self, x: Tensor) -> Tensor:
        # Sums of whole grey values are exact in float32 whatever their order, so the one division rounds alike in any tile.
        radius, dims = self.config.radius, self.config.dims
        pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
        sums = pool(x, 2 * radius + 1, stride=1, padding=radius, divisor_override=1).sum(1, keepdim=True)
        return sums / float(x.shape[1] * (2 * radius + 1) ** dims)

    def _ramp(self, like: Tensor) -> Tensor:
        ramp = torch.zeros_like(like[:1])
        for axis, step in enumerate(RAMP[self.first :], start=2):
            shape = [1] * like.ndim
            shape[axis] = like.shape[axis]
            ramp = ramp + step * torch.arange(like.shape[axis], dtype=like.dtype, device=like.device).reshape(shape)
        return ramp
