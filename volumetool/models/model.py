"""A model in memory: its card, its weights, and the network made of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from volumetool.models.card import ModelCard
from volumetool.models.unet import UNet


@dataclass(frozen=True, eq=False)
class Model:
    """A card with its weights.

    A pickled model is its `spec` and hash alone: a worker loads the file itself, and refuses it if it has changed since.

    Parameters
    ----------
    card : ModelCard
        What the model says of itself.
    spec : str
        What `load_model` takes to load this model again: a built-in name, an absolute path, or what a registered scheme
        takes.
    state : mapping of str to Tensor
        The weights by name.
    """

    card: ModelCard
    spec: str
    state: Mapping[str, Tensor] = field(repr=False)
    weights_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_sha256", model_sha256(self.card, self.state))

    def network(self) -> nn.Module:
        """Return a fresh network with the model's weights: float32, on the CPU, in eval mode, without gradients."""
        network = UNet(self.card.architecture)
        network.load_state_dict(dict(self.state))
        return network.eval().requires_grad_(requires_grad=False)

    def __reduce__(self) -> tuple[Any, ...]:
        from volumetool.models.package import reload_model

        return reload_model, (self.spec, self.weights_sha256)


def model_sha256(card: ModelCard, state: Mapping[str, Tensor]) -> str:
    """Hash what decides the output: the weights in order of their names, and the card's semantic fields.

    Parameters
    ----------
    card : ModelCard
        The card; its description, metrics and the like do not count.
    state : mapping of str to Tensor
        Weights by name.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(card.semantic(), sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
