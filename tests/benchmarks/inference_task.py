"""What one program of `compare_inference.py` is asked to do, and the parts that all peers share: reading, network, writing.

A peer's environment needs torch, tensorstore, safetensors and pydantic beside the peer; the repository is on its path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from volumetool.models import Model, load_model

Floats = NDArray[np.float32]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """One volume to enhance.

    Attributes
    ----------
    peer : str
        Name of the program.
    place : str
        Folder of this very task; programs may leave files in it.
    source, output : str
        The OME-Zarr to read, and the one to fill: it is there, and empty.
    factors : tuple of Triple
        Of the output's levels, each against the one before.
    model : str
        What `load_model` takes.
    low, high : tuple of float
        Grey values of every section that become 0 and 1.
    precision : str
        bfloat16 or float32.
    patch : Triple
        In input voxels.
    overlap : Triple or None
        Of patches, in input voxels; None is the program's own default.
    threads, streams : int or None
        Threads in all, and calls of the network side by side; None is the program's own default.
    result : str or None
        File for the voxels in grey levels, float32, instead of the output; to look at seams.
    """

    peer: str
    place: str
    source: str
    output: str
    factors: tuple[Triple, ...]
    model: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    precision: str
    patch: Triple
    overlap: Triple | None
    threads: int | None
    streams: int | None
    result: str | None

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `compare_inference.py` wrote."""
        found: dict[str, Any] = json.loads(path.read_text())
        return cls(**{name: _frozen(value) for name, value in found.items()})

    @cached_property
    def loaded(self) -> Model:
        """The model."""
        return load_model(self.model)

    @property
    def scale(self) -> Triple:
        """Output voxels per input voxel."""
        return self.loaded.card.scale

    def network(self) -> Network:
        """Return the network in eval mode, its memory laid out as convolutions like it."""
        dims = self.loaded.card.dims
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        network = self.loaded.network().to(memory_format=layout)  # type: ignore[call-overload]  # stubs lack it
        return Network(network, dims, self.precision)

    def raw(self) -> NDArray[Any]:
        """Read all voxels (z, y, x)."""
        voxels: NDArray[Any] = _open(f"{self.source}/0").read().result()
        return voxels

    def normalised(self) -> Floats:
        """Read all voxels (z, y, x), and bring every section to about 0..1."""
        voxels: Floats = self.raw().astype(np.float32)
        low, span = self.range()
        voxels -= low
        voxels /= span
        return voxels

    def range(self) -> tuple[Floats, Floats]:
        """Return the low value of every input section and the span above it, (z, 1, 1)."""
        low, high = (np.asarray(values, np.float32)[:, None, None] for values in (self.low, self.high))
        return low, high - low

    def output_range(self) -> tuple[Floats, Floats]:
        """Return the same for output sections, which take the values of the input section they lie in."""
        low, span = self.range()
        return low.repeat(self.scale[0], axis=0), span.repeat(self.scale[0], axis=0)

    def empty(self, shape: Triple) -> NDArray[Any]:
        """Return room for the result of an input of this shape."""
        z, y, x = (n * f for n, f in zip(shape, self.scale, strict=True))
        return np.empty((z, y, x), np.float32 if self.result else np.uint8)

    def put(self, into: NDArray[Any], grey: Floats) -> None:
        """Store grey levels, which are spoilt by it, rounded where the room is of whole numbers."""
        if into.dtype != np.float32:
            np.clip(np.rint(grey, out=grey), 0, 255, out=grey)
        into[...] = grey

    def finish(self, voxels: NDArray[Any]) -> None:
        """Write the result with all its levels, all at once."""
        if self.result:
            np.save(self.result, voxels.astype(np.float32, copy=False))
            return
        writes = []
        for number, factor in enumerate(self.factors):
            if number:
                voxels = ts.downsample(ts.array(voxels), list(factor), method="mean").read().result()
            target = _open(f"{self.output}/{number}")
            writes.append(target.write(voxels, can_reference_source_data_indefinitely=True))
        for write in writes:
            write.result()


class Network(nn.Module):
    """The network in the precision that was asked for.

    Parameters
    ----------
    network : nn.Module
        In float32.
    dims : int
        2 or 3: its spatial axes.
    precision : str
        Of its body.
    """

    def __init__(self, network: nn.Module, dims: int, precision: str) -> None:
        super().__init__()
        self.network, self.dims, self.precision = network, dims, precision

    def forward(self, x: Tensor) -> Tensor:
        """Enhance (b, 1, y, x) or (b, 1, z, y, x)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            found: Tensor = self.network(x)
            return found.float()

    def enhance(self, voxels: Floats) -> Floats:
        """Enhance one patch (z, y, x); a 2D network takes one section."""
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(voxels))
            y = self(x[None] if self.dims == 2 else x[None, None])
        found: Floats = (y[0] if self.dims == 2 else y[0, 0]).numpy()
        return found


def padded(voxels: NDArray[Any], shape: Triple) -> NDArray[Any]:
    """Mirror voxels beyond their end up to a shape."""
    return np.pad(voxels, [(0, wanted - size) for wanted, size in zip(shape, voxels.shape, strict=True)], mode="reflect")


def ceil_to(size: int, grain: int) -> int:
    """Return the next multiple."""
    return -(-size // grain) * grain


def _open(path: str) -> ts.TensorStore:
    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True).result()


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
