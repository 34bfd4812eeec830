"""A model in memory: its card, its weights, and the network made of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import torch
from torch import Tensor, nn

from volumetool.models.card import ZYX, ModelCard, Normalisation
from volumetool.models.fakes import Fake, FakeConfig
from volumetool.models.faults import Fault
from volumetool.models.unet import UNet, UNetConfig


@dataclass(frozen=True, eq=False)
class Model:
    """A card with its weights.

    A pickled model is its `spec` and hash alone: a worker loads the file itself, and refuses it if it has changed since.

    Parameters
    ----------
    card : ModelCard
        What the model says of itself.
    spec : str
        What `load_model` takes to load this model again: a built-in name, an absolute path, or ``fake:...``.
    state : mapping of str to Tensor
        The weights by name; empty for fakes.
    """

    card: ModelCard
    spec: str
    state: Mapping[str, Tensor] = field(repr=False)
    weights_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_sha256", model_sha256(self.card, self.state))

    def network(self) -> nn.Module:
        """Return a fresh network with the model's weights: float32, on the CPU, in eval mode, without gradients."""
        network = make_network(self.card.architecture)
        network.load_state_dict(dict(self.state))
        return network.eval().requires_grad_(requires_grad=False)

    def __reduce__(self) -> tuple[Any, ...]:
        from volumetool.models.package import reload_model

        return reload_model, (self.spec, self.weights_sha256)


def make_network(architecture: UNetConfig | FakeConfig) -> nn.Module:
    """Make the network that a configuration describes, with fresh weights."""
    return UNet(architecture) if isinstance(architecture, UNetConfig) else Fake(architecture)


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


def fake_model(config: FakeConfig, *, patch: ZYX | None = None, overlap: ZYX | None = None, trim: ZYX | None = None) -> Model:
    """Make a model of known answer, see `volumetool.models.fakes`.

    Parameters
    ----------
    config : FakeConfig
        What it computes.
    patch, overlap, trim : tuple of int, optional
        The lattice, input voxels along z, y, x. By default patches of 32 that share 8, of which 2 are trimmed on either
        side; in 2D no more than one section.

    Returns
    -------
    Model
        Its `spec` makes the same model again.
    """
    deep = config.dims == 3
    patch = patch or (32 if deep else 1, 32, 32)
    overlap = overlap or (8 if deep else 0, 8, 8)
    if trim is None:
        z, y, x = (min(2, shared // 2) for shared in overlap)
        trim = z, y, x
    card = ModelCard(
        name=f"fake-{config.behaviour}",
        description="A network without weights whose right answer is known; for tests.",
        licence="BSD-3-Clause",
        dims=config.dims,
        scale=config.scale,
        z_context=config.z_context,
        patch=patch,
        overlap=overlap,
        trim=trim,
        granularity=config.granularity,
        receptive_field=config.receptive_field,
        normalisation=Normalisation(kind="none"),
        precision_safe=("float32",),
        architecture=config,
    )
    faults = config.model_dump(include=set(Fault.model_fields), exclude_defaults=True)
    shape = config.model_dump(exclude={"kind", "behaviour", *Fault.model_fields})
    options = shape | faults | {"patch": patch, "overlap": overlap, "trim": trim}
    plain = {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in options.items()}
    return Model(card, f"fake:{config.behaviour}?{urlencode(plain, safe=',')}", {})
