"""The operation that is a network: a U-Net on the CPU or a GPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.geometry import Triple
from volumetool.models.card import ModelCard
from volumetool.models.package import Model
from volumetool.models.unet import UNet
from volumetool.processing.device.arrays import Array, as_array
from volumetool.processing.device.cuda_graph import GraphReplay
from volumetool.processing.spec import Numerics

ACTIVATIONS = {2: 6, 3: 7}
"""Feature maps of the finest level that a 2D and a 3D network hold at once, in their precision; measured on the U-Net."""


class NetworkOperation:
    """A model as an operation on patches.

    Parameters
    ----------
    model : Model
        Card and weights.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.spec: str = model.spec
        self.card: ModelCard = model.card
        self.identity: str = model.weights_sha256

    def open(self, device: torch.device, numerics: Numerics) -> NetworkFunction:
        """Return the network as a function on a device."""
        return NetworkFunction(self.model, device, numerics)

    def working_bytes(self, patch: Triple, precision: str) -> int:
        """Return the bytes of the activations for one patch."""
        itemsize = 2 if precision == "bfloat16" else 4
        return math.prod(patch) * self.card.architecture.width * itemsize * ACTIVATIONS[self.card.dims]


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
    """

    def __init__(self, model: Model, device: torch.device, numerics: Numerics) -> None:
        self._dims, self._device, self._numerics = model.card.dims, device, numerics
        layout = torch.channels_last if model.card.dims == 2 else torch.channels_last_3d
        self.network = model.network().to(device).to(memory_format=layout)  # type: ignore[call-overload]  # stubs lack it
        # A U-Net does nothing at a call but compute; what else a network does, a recording would leave out.
        records = device.type == "cuda" and isinstance(self.network, UNet)
        self.recorded = GraphReplay(self.network) if records else None

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return the network's outputs, float32 (n, z, y, x); what is not finite was computed in float32, too."""
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
        x = x.to(self._device, non_blocking=True)
        if self._dims == 3:
            x = x.unsqueeze(1)  # (n, 1, z, y, x)
        y: torch.Tensor = (recorded or self.network)(x)  # (n, 1, [z*fz,] y*fy, x*fx)
        return y.squeeze(1) if self._dims == 3 else y  # (n, z*fz, y*fy, x*fx)

    def _repeat_in_float32(self, patches: NDArray[np.float32], y: torch.Tensor) -> None:
        """Compute the patches that are not finite again, each by itself, so that its neighbours in a batch change no byte."""
        for number in range(len(y)):
            if not torch.isfinite(y[number]).all():
                with torch.autocast(self._device.type, enabled=False):
                    y[number] = self._forward(patches[number : number + 1])[0]
