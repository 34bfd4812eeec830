"""Models: a card with its weights, in memory, in and out of files, and by name.

A model file is safetensors with the card as JSON in its metadata: numbers and text, nothing that could run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from volumetool.errors import ModelError
from volumetool.machine import usable_memory
from volumetool.models.card import ModelCard
from volumetool.models.header import foreign_kind, wrong_head
from volumetool.models.unet import UNet
from volumetool.paths import absolute_path, replace_file
from volumetool.redaction import fact_table

CARD_KEY = "volumetool.card"
"""Key of the card in the metadata of a safetensors file."""


@dataclass(frozen=True, eq=False)
class Model:
    """A card with its weights.

    Parameters
    ----------
    card : ModelCard
        Model card: what the model says of itself.
    spec : str
        What `load_model` takes to load this model again: a built-in name or an absolute path.
    state : mapping of str to Tensor
        The weights by name.
    """

    card: ModelCard
    spec: str
    state: Mapping[str, Tensor] = field(repr=False)
    weights_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_sha256", model_sha256(self.card, self.state))

    def _repr_html_(self) -> str:
        card = self.card
        facts = {"about": card.description, "scale (z, y, x)": card.scale, "patch": card.patch, "licence": card.licence}
        return fact_table(f"Model {card.name}", {**facts, "from": self.spec, "sha256": self.weights_sha256[:12]})

    def network(self) -> nn.Module:
        """Return a fresh network with the model's weights: float32, on the CPU, in eval mode, without gradients."""
        network = UNet(self.card.architecture)
        network.load_state_dict(dict(self.state))
        return network.eval().requires_grad_(requires_grad=False)


def model_sha256(card: ModelCard, state: Mapping[str, Tensor]) -> str:
    """Hash what decides the output: the weights in order of their names, and the card's semantic fields.

    Parameters
    ----------
    card : ModelCard
        The card; its description, metrics and the like do not count.
    state : mapping of str to Tensor
        Weights by the name of their layer.

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


def save_model(path: Path | str, network: nn.Module, card: ModelCard) -> None:
    """Write a model file.

    Parameters
    ----------
    path : Path or str
        The file, by custom ``*.safetensors``; one that exists is replaced.
    network : nn.Module
        The trained network; its weights are stored as float32.
    card : ModelCard
        What the model says of itself. Its architecture must be the network's.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in network.state_dict().items()}
    _check_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, card, where=str(path))
    _check_finite(state, where=str(path))
    replace_file(path, save(state, metadata={CARD_KEY: card.model_dump_json()}))


def load_model(spec: str | os.PathLike[str]) -> Model:
    """Load a model.

    Parameters
    ----------
    spec : str or path
        A built-in name such as ``em-x4``, or the path or ``file://`` URL of a model file.

    Returns
    -------
    Model
        The card and the weights.

    Raises
    ------
    ModelError
        ``model.unknown``, ``model.unreadable``, ``model.broken`` (also a file of other software), ``model.no-card``.
    """
    spec = os.fspath(spec)
    if spec in builtin_names():
        with _builtin_file(spec) as path:
            return _load_file(path, spec)
    if (file := _model_file(spec)) is not None:
        return _load_file(file, str(file))
    raise _unknown(spec)


def placed_model(spec: str) -> str:
    """Return what `load_model` takes for the same model in another directory: of a file, its absolute path."""
    file = None if spec in builtin_names() else _model_file(spec)
    return spec if file is None else str(file)


def _model_file(spec: str) -> Path | None:
    path = absolute_path(spec)
    try:
        return path.resolve() if path.exists() and not path.is_dir() else None
    except PermissionError as error:
        raise ModelError(
            "model.unreadable",
            f"the model {path} cannot be reached: {error.strerror}",
            hint="a folder above it is closed to you: ask its owner, or give another path",
            where=str(path),
        ) from error


@cache
def builtin_names() -> tuple[str, ...]:
    """Return the names of the models that come with volumetool."""
    files = (Path(entry.name) for entry in resources.files(_BUILTIN).iterdir())
    return tuple(sorted(file.stem for file in files if file.suffix == ".safetensors"))


@cache
def list_models() -> tuple[ModelCard, ...]:
    """Return the cards of the models that come with volumetool, by name; no weights are read."""
    cards = []
    for name in builtin_names():
        with _builtin_file(name) as path, _opened(path, name) as file:
            cards.append(_card(file.metadata() or {}, name))
    return tuple(cards)


def _builtin_file(name: str) -> AbstractContextManager[Path]:
    return resources.as_file(resources.files(_BUILTIN) / f"{name}.safetensors")


def fitting_models(voxel_size_nm: Sequence[float]) -> tuple[ModelCard, ...]:
    """Return the cards of the built-in models that are meant for a voxel size.

    Parameters
    ----------
    voxel_size_nm : sequence of float
        Voxel size of the coarse volume in nm along z, y, x.

    Returns
    -------
    tuple of ModelCard
        First those that add no sections; of these the one that gains most voxels, of equals the simpler one: 2D, without
        context, narrow; then by name. Empty if none fits.
    """
    fitting = (card for card in list_models() if card.voxel_size is None or card.voxel_size.holds(voxel_size_nm))

    def rank(card: ModelCard) -> tuple[bool, int, int, int, int, str]:
        return card.scale[0] > 1, -prod(card.scale), card.dims, card.z_context, card.architecture.width, card.name

    return tuple(sorted(fitting, key=rank))


_BUILTIN = "volumetool.models.builtin"


@contextmanager
def _opened(path: Path, spec: str) -> Iterator[Any]:  # safetensors says no types
    """Open a model file of which nothing but its head was read."""
    try:
        if kind := foreign_kind(path):
            raise _foreign(spec, kind)
        if why := wrong_head(path):
            raise _broken(spec, why)
        if 2 * (size := path.stat().st_size) > usable_memory():  # the file, and the network made of it
            raise _broken(spec, f"it has {size} bytes, more than half of the memory that is free")
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _broken(spec, f"it is not a safetensors file ({error})") from error


def _load_file(path: Path, spec: str) -> Model:
    """Load a model file: its head, then its card, then the shapes of its tensors, and only then the tensors."""
    with _opened(path, spec) as file:
        card = _card(file.metadata() or {}, spec)
        names = file.keys()
        _check_shapes({name: tuple(file.get_slice(name).get_shape()) for name in names}, card, where=spec)
        state = {name: file.get_tensor(name) for name in names}
    _check_finite(state, where=spec)
    return Model(card, spec, state)


def _foreign(spec: str, kind: str) -> ModelError:
    return ModelError(
        "model.broken",
        f"{spec} is {kind}; volumetool runs its own networks, from safetensors files with a model card",
        hint="weights of a U-Net of `volumetool.models` become one in Python: load them into it, and save it with "
        "`volumetool.models.save_model`. Others run from files of ONNX, torch.export or TorchScript (.onnx, .pt2, .pt), and a "
        "ResUNet of PSSR2 from its weights (.pth), by `volumetool apply`, packages of the BioImage Model Zoo after `volumetool "
        "model import`; or train one with `volumetool train`, or take a built-in (`volumetool model list`)",
        where=spec,
    )


def _card(metadata: dict[str, str], spec: str) -> ModelCard:
    if CARD_KEY not in metadata:
        raise ModelError(
            "model.no-card",
            f"{spec} is a safetensors file without a model card",
            hint=f"volumetool writes the card under {CARD_KEY!r} in the metadata; save the model with save_model",
            where=spec,
        )
    try:
        card = ModelCard.model_validate_json(metadata[CARD_KEY])
    except ValidationError as error:
        raise _broken(spec, f"its card does not hold: {error}") from error
    return card


def _check_shapes(stored: dict[str, tuple[int, ...]], card: ModelCard, where: str) -> None:
    try:
        with torch.device("meta"):  # shapes alone: a card that promises a huge network costs no memory
            wanted = {name: tuple(t.shape) for name, t in UNet(card.architecture).state_dict().items()}
    except RuntimeError as error:
        raise _broken(where, f"its architecture cannot be built ({error})") from error
    if stored != wanted:
        odd = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
        name = odd[0]
        raise _broken(
            where,
            f"its weights are not those of its architecture: {len(odd)} tensors differ, first {name}: "
            f"stored {stored.get(name)}, wanted {wanted.get(name)}",
        )


def _check_finite(state: dict[str, Tensor], where: str) -> None:
    for name, tensor in state.items():
        # On one core: threads that wait for each other at the end of each small tensor take longer than the look itself.
        if tensor.dtype != torch.float32 or not np.isfinite(tensor.numpy()).all():
            raise _broken(where, f"the tensor {name} is not made of finite float32 values ({tensor.dtype})")


def _unknown(spec: str) -> ModelError:
    names = builtin_names()
    near = difflib.get_close_matches(spec, names, n=1, cutoff=0.0)
    meant = f"did you mean {near[0]}? " if near else ""
    return ModelError(
        "model.unknown",
        f"there is no model {spec!r}: neither a built-in name ({', '.join(names)}) nor a file",
        hint=f"{meant}`volumetool model list` shows the built-in models, `volumetool apply --list` the filters",
        where=spec,
    )


def _broken(where: str, why: str) -> ModelError:
    return ModelError(
        "model.broken", f"the model {where} cannot be used: {why}", hint="fetch or export the file again", where=where
    )
