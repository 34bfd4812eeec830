"""The gate that weighs neighbouring sections, and linear enlargement.

Letters of the shape comments: b batch, c channels, n input channels, y x input voxels, cy cx voxels of a cell.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name every PyTorch reader expects)

_BLOCK = 16
"""Channels that processors with AVX512 compute at a time."""


class SectionGate(nn.Module):
    """Fuse a section with its neighbours, as far as they agree with it, place by place.

    A neighbour helps where it shows the same structure with other noise. Where it is shifted, lost, blank or simply far away it
    shows something else, and a convolution, which is linear, cannot leave it out. So all sections are averaged with weights
    that add up to 1 and follow from local statistics of the neighbours' differences from the middle: non-local means along z,
    with learnt weights. A neighbour of weight 0 and one that repeats the middle leave the same: a section alone. So does, in a
    cell of one value, a neighbour that is lost there, or lies outside of what was scanned.

    Statistics are those of cells as large as the coarsest pooling, smoothed over 3 x 3 of them: wide enough to see structure
    through noise, and cheap.

    Parameters
    ----------
    z_context : int
        Neighbours on each side.
    cell : tuple of int
        Input voxels of a cell along y, x; patches hold whole cells.
    """

    width = 32

    def __init__(self, z_context: int, cell: tuple[int, ...]) -> None:
        super().__init__()
        self.z_context, self.cell = z_context, cell
        sections = 2 * z_context + 1
        self.first = nn.Conv2d(3 * sections, self.width, 1)
        self.second = nn.Conv2d(self.width, sections, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse sections.

        Parameters
        ----------
        x : Tensor
            float32 (b, n, y, x), the section asked for in the middle.

        Returns
        -------
        fused : Tensor
            float32 (b, 1, y, x).
        sections : Tensor
            float32 (b, n, y, x): the weighted differences of the neighbours, with `fused` in the middle.
        """
        centre = x[:, self.z_context : self.z_context + 1]  # (b, 1, y, x)
        apart = (x - centre) * self._shows_something(x)  # (b, n, y, x), 0 in the middle
        shown = self._with_middle(apart, centre)
        level = F.avg_pool2d(shown, self.cell)  # (b, n, y/cy, x/cx)
        spread = F.avg_pool2d(shown.square(), self.cell) - level.square()
        found = [_log_size(_mean(level.square())), _log_size(_mean(spread)), _mean(level).abs()]
        weight = _softmax(self._favour(F.relu(self.first(torch.cat(found, dim=1)))).float())  # (b, n, y/cy, x/cx)
        apart = apart * enlarge_linear(weight, self.cell)  # (b, n, y, x)
        fused = centre + apart.sum(dim=1, keepdim=True)  # (b, 1, y, x)
        return fused, self._with_middle(apart, fused)

    def _favour(self, h: Tensor) -> Tensor:
        """Apply the second layer; (b, width, y, x) becomes (b, n, y, x).

        Its channels are filled up with zeros to a multiple of `_BLOCK`: for other numbers of channels the last bit of the sums
        depends on the number of threads.
        """
        if exporting():
            filled: Tensor = self.second(h)
            return filled
        n, weight, bias = self.second.out_channels, self.second.weight, self.second.bias
        more = -n % _BLOCK
        return F.conv2d(h, F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more)), F.pad(cast("Tensor", bias), (0, more)))[:, :n]

    def _shows_something(self, x: Tensor) -> Tensor:
        """Return 1 for each voxel whose cell has different values, and 0 elsewhere; (b, n, y, x) as `x`."""
        varies = F.max_pool2d(x, self.cell) != -F.max_pool2d(-x, self.cell)  # (b, n, y/cy, x/cx)
        return F.interpolate(varies.to(x.dtype), scale_factor=[float(size) for size in self.cell], mode="nearest")

    def _with_middle(self, sections: Tensor, middle: Tensor) -> Tensor:
        return torch.cat([sections[:, : self.z_context], middle, sections[:, self.z_context + 1 :]], dim=1)


def exporting() -> bool:
    """Return whether a network is being written for other software, which knows convolutions, but no changes in place."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _mean(cells: Tensor) -> Tensor:
    return F.avg_pool2d(cells, 3, 1, 1, count_include_pad=False)


def _softmax(x: Tensor) -> Tensor:
    """Return the softmax over channels; that of torch rounds by where a voxel lies in the patch."""
    powers = (x - x.amax(dim=1, keepdim=True)).exp()  # (b, n, y, x)
    return powers / powers.sum(dim=1, keepdim=True)


def _log_size(square: Tensor) -> Tensor:
    return (square.clamp(min=0) * 1e5).log1p() / 8  # 0 for equal sections, about 1 for strangers


def enlarge_linear(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Enlarge linearly with pixel-centred geometry; beyond the faces the outermost voxel goes on.

    Parameters
    ----------
    x : Tensor
        float32 (b, c, y, x) or (b, c, z, y, x).
    factors : tuple of int
        Output voxels per input voxel for each spatial axis.

    Returns
    -------
    Tensor
        float32, each spatial axis enlarged by its factor.
    """
    mode = "bilinear" if len(factors) == 2 else "trilinear"
    scale_factor = [float(factor) for factor in factors]
    return F.interpolate(x, scale_factor=scale_factor, mode=mode, align_corners=False)
