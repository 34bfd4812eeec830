"""Checkpoints: everything that a training needs to go on as if it had never been interrupted.

One safetensors file: the weights, their running mean and the optimiser's moments as tensors, the rest as JSON in its
metadata. It is replaced as a whole, so that a training killed while writing finds the one before.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from volumetool.degradation import load_recipe
from volumetool.errors import DataError, FingerprintError
from volumetool.events import CurvePoint
from volumetool.models import UNet, load_model
from volumetool.paths import check_regular, replace_file
from volumetool.training.config import TrainConfig

NAME = "checkpoint.safetensors"
_KEY = "volumetool.training"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """A training under way.

    Attributes
    ----------
    network : UNet
        The network with the weights of the last step.
    mean : UNet
        The network with the running mean of the weights; it becomes the model.
    optimizer : torch.optim.AdamW
        Optimiser of the network's parameters.
    step : int
        Optimiser steps done.
    history : list of CurvePoint
        Points of the training curve, oldest first.
    losses : list of float
        Losses of the steps since the last point.
    seconds : float
        Time spent on the training before this process began, in seconds.
    """

    network: UNet
    mean: UNet
    optimizer: torch.optim.AdamW
    step: int = 0
    history: list[CurvePoint] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def save_checkpoint(folder: Path, state: TrainingState, config: TrainConfig, threads: int) -> None:
    """Replace the checkpoint of a training.

    Parameters
    ----------
    folder : Path
        Folder of the training.
    state : TrainingState
        The state to keep.
    config : TrainConfig
        Configuration of the training, kept with the state: a training with other settings cannot go on from here.
    threads : int
        CPU threads of the training, at least 1. Sums are split over them, so their number decides the last bits.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``: the checkpoint before it stays.
    """
    tensors = {f"network/{name}": t for name, t in state.network.state_dict().items()}
    tensors |= {f"mean/{name}": t for name, t in state.mean.state_dict().items()}
    for name, parameter in state.network.named_parameters():
        moments = state.optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment] for moment in _MOMENTS if moment in moments}
    facts = {
        "step": state.step,
        "seconds": state.seconds,
        "losses": state.losses,
        "history": [vars(point) for point in state.history],
        "threads": threads,
        "config": config.semantic(),
        "inputs": read_inputs(config),
    }
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {_KEY: json.dumps(facts)})
    replace_file(folder / NAME, content)


def load_checkpoint(folder: Path, state: TrainingState, config: TrainConfig) -> bool:
    """Bring a fresh state to where the checkpoint of its training stood.

    Parameters
    ----------
    folder : Path
        Folder of the training.
    state : TrainingState
        The state to fill, in place; its networks have the architecture of the configuration.
    config : TrainConfig
        Configuration of the training; settings that decide the result must be those of the checkpoint.

    Returns
    -------
    bool
        True if the state was filled, False if the folder holds no checkpoint yet.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: the checkpoint belongs to a training with other settings; they are listed.
    DataError
        ``data.checkpoint``: the file is damaged.
    """
    facts, tensors = read_checkpoint(folder)
    if facts is None:
        return False
    _require_same(folder, facts["config"], config.semantic())
    inputs = read_inputs(config)
    _require_same(folder, facts.get("inputs", inputs), inputs)
    state.network.load_state_dict(_below("network", tensors))
    state.mean.load_state_dict(_below("mean", tensors))
    state.step, state.seconds, state.losses = facts["step"], facts["seconds"], facts["losses"]
    state.history = [CurvePoint(**point) for point in facts["history"]]
    for name, parameter in state.network.named_parameters():
        moments = {moment: tensors[f"{moment}/{name}"].to(parameter.device) for moment in _MOMENTS}
        state.optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **moments}
    return True


def read_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Read the facts and the tensors of a checkpoint.

    Returns
    -------
    facts : dict or None
        Step, history, configuration and inputs, as :func:`save_checkpoint` writes them; None if there is no checkpoint.
    tensors : dict of str to Tensor
        Weights, their running mean and the optimiser's moments, by name; empty if there is no checkpoint.

    Raises
    ------
    DataError
        ``data.checkpoint``: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None, {}
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_KEY])
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "data.checkpoint",
            f"{path} cannot be read: {error}",
            hint="remove it to begin the training again",
            where=str(path),
        ) from error


def read_inputs(config: TrainConfig) -> dict[str, Any]:
    """Return what a training reads beside its sources: the recipes' steps, and the hash of the model it goes on from."""
    named = zip(config.degradation.names, config.degradation.recipes, strict=True)
    recipes = {name: load_recipe(recipe).model_dump(mode="json", include={"steps"}) for name, recipe in named}
    return {"recipes": recipes, "start": load_model(config.start).weights_sha256 if config.start else None}


def mean_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the running mean of the weights, by name, from the tensors of a checkpoint."""
    return _below("mean", tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "/"): t for name, t in tensors.items() if name.startswith(prefix + "/")}


def _require_same(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    with suppress(ValidationError):  # of the configuration: options that were added since have the value that they had then
        stored = TrainConfig.model_validate(stored).semantic()
    if stored == asked:
        return
    names = sorted(name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name))
    lines = [f"{name}: was {stored.get(name)}, is {asked.get(name)}" for name in names]
    raise FingerprintError(
        "job.fingerprint",
        f"{folder} holds a training with other settings:\n  " + "\n  ".join(lines),
        hint="go on with the same settings, choose another output, or start over with --overwrite",
        where=str(folder),
    )
