"""Training without a clean image: hide single voxels and let the network guess them from their surroundings.

Noise2Void (Krull et al., CVPR 2019): where noise is independent from voxel to voxel, the surroundings tell about a voxel's
signal and nothing about its noise, so the best guess of the noisy voxel is the clean one. A voxel is hidden by replacing it in
the input and scoring the output there alone.

How blind it is. Our network adds its input to its output (`volumetool.models.unet`); with a scale of (1, 1, 1), which this kind
of training needs, that path carries the replaced value of a hidden voxel, not the true one. And no hidden voxel takes part in
the replacement of another, or the true value would come back through its neighbours. So nothing of a scored voxel reaches its
guess.

What the network does with a voxel that is *not* hidden, as all are when it is used, it learns from replacements alone. A median
(N2V2, Hoeck et al., ECCVW 2022) is nearly clean, so a network with a path past its body learns to trust the centre and lets the
noise through later; a neighbour's own noisy value teaches it not to. Hence the default here is ``uniform``; ``median`` is for
networks without that path.

Noise that is correlated along the scan line, as a slow detector makes it, tells about its neighbours; then a run along x must
be hidden around each scored voxel (StructN2V, Broaddus et al., ISBI 2020), and the voxel in its middle alone is scored.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class BlindSpotConfig(BaseModel):
    """The blind spots: the voxels that are hidden, and their replacement.

    Parameters
    ----------
    share : float
        Share of the voxels that is scored, spread evenly; Noise2Void takes 1 to 2 %.
    replacement : {"uniform", "median"}
        A neighbour picked at random, or the median of all neighbours.
    radius : int
        Voxels from a hidden voxel to the edge of its neighbourhood, along y and x.
    run : int
        Voxels along x that are hidden around each scored one, odd; 1 hides it alone. Noise that reaches two voxels to either
        side needs 5.
    loss : {"mse", "l1"}
        Mean square, whose best guess is the mean of what the voxel may be, or mean absolute difference, whose is the median.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(1 / 64, gt=0, le=0.1)
    replacement: Literal["uniform", "median"] = "uniform"
    radius: int = Field(2, ge=1)
    run: int = Field(1, ge=1)
    loss: Literal["mse", "l1"] = "mse"

    @model_validator(mode="after")
    def _check(self) -> BlindSpotConfig:
        if self.run % 2 == 0:
            raise ValueError(f"a run of {self.run} voxels has no middle one: take an odd number")
        if self.run * self.share > 0.5:
            raise ValueError(f"runs of {self.run} voxels around {self.share:.3f} of them hide more than half of the image")
        return self


def mask_batch(noisy: Tensor, generator: torch.Generator, config: BlindSpotConfig) -> tuple[Tensor, Tensor]:
    """Hide voxels of a batch.

    Parameters
    ----------
    noisy : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x); a block is masked section by section.
    generator : torch.Generator
        A generator of the CPU; it decides the positions and the neighbours.
    config : BlindSpotConfig
        Which voxels are hidden, and what they are replaced by.

    Returns
    -------
    masked : Tensor
        float32, shaped as `noisy`: the network's input.
    scored : Tensor
        bool, shaped as `noisy`: where `blind_spot_loss` compares. With runs, more voxels than these are replaced.
    """
    sections = noisy.reshape(-1, *noisy.shape[-2:])  # (n, y, x)
    scored = _positions(sections.shape, generator, config.share)
    hidden = _widen(scored, config.run)
    where = hidden.nonzero().to(noisy.device)  # (m, 3)
    values = _replacements(sections, hidden.to(noisy.device), where, generator, config)
    masked = sections.index_put(tuple(where.T), values)
    return masked.view_as(noisy), scored.to(noisy.device).view_as(noisy)


def blind_spot_loss(restored: Tensor, noisy: Tensor, scored: Tensor, config: BlindSpotConfig | None = None) -> Tensor:
    """Return how far the guesses are from the voxels that were hidden.

    Parameters
    ----------
    restored : Tensor
        float32 (b, 1, y, x) or (b, 1, z, y, x), made of the masked input.
    noisy : Tensor
        The batch before masking, of the same shape.
    scored : Tensor
        bool, from `mask_batch`.
    config : BlindSpotConfig, optional
        Names the loss; the mean square without it.

    Returns
    -------
    Tensor
        float32 scalar, over the scored voxels alone.
    """
    off = restored[scored] - noisy[scored]  # (voxels,)
    return off.abs().mean() if config is not None and config.loss == "l1" else off.square().mean()


def _positions(shape: torch.Size, generator: torch.Generator, share: float) -> Tensor:
    """At most one voxel in each square cell of a grid that starts anywhere: random, but spread evenly."""
    side = int(share**-0.5)
    count, *sizes = shape
    start = torch.randint(side, (2,), generator=generator)
    cells = [-(-(size + int(first)) // side) for size, first in zip(sizes, start, strict=True)]
    corner = torch.cartesian_prod(*(torch.arange(n) for n in cells)) * side - start  # (cells, 2)
    spots = corner + torch.randint(side, (count, len(corner), 2), generator=generator)  # (n, cells, 2)
    inside = ((spots >= 0) & (spots < torch.tensor(sizes))).all(dim=2)  # (n, cells)
    inside &= torch.rand(inside.shape, generator=generator) < share * side**2  # cells have whole sides, shares are as they are
    section = torch.arange(count)[:, None].expand_as(inside)
    scored = torch.zeros(shape, dtype=torch.bool)
    scored[section[inside], spots[..., 0][inside], spots[..., 1][inside]] = True
    return scored


def _widen(scored: Tensor, run: int) -> Tensor:
    pooled: Tensor = torch.nn.functional.max_pool2d(scored.float(), (1, run), stride=1, padding=(0, run // 2))
    return pooled > 0


def _replacements(
    sections: Tensor, hidden: Tensor, where: Tensor, generator: torch.Generator, config: BlindSpotConfig
) -> Tensor:
    """Values for the hidden voxels, made of voxels of their neighbourhoods that are not hidden themselves."""
    reach = torch.arange(-config.radius, config.radius + 1, device=sections.device)
    offsets = torch.cartesian_prod(reach, reach)  # (k, 2)
    section = where[:, :1]  # (m, 1)
    rows, columns = (
        _mirror(where[:, axis, None] + offsets[:, axis - 1], sections.shape[axis]) for axis in (1, 2)
    )  # (m, k) each
    near = sections[section, rows, columns]  # (m, k)
    free = ~hidden[section, rows, columns]  # (m, k); the voxel itself is hidden, so it is never its own neighbour
    if config.replacement == "median":
        values = near.masked_fill(~free, torch.nan).nanquantile(0.5, dim=1)  # (m,)
    else:
        lots = torch.rand(free.shape, generator=generator).to(near.device).masked_fill(~free, -1)
        values = near.gather(1, lots.argmax(dim=1, keepdim=True))[:, 0]  # (m,)
    # Runs may by chance cover a neighbourhood: then any value will do that comes from elsewhere.
    elsewhere = sections.masked_fill(hidden, torch.nan).nanmean()
    return torch.where(free.any(dim=1), values, elsewhere)


def _mirror(index: Tensor, size: int) -> Tensor:
    index = index.abs()
    return torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)
