"""Fine-tuning without a file: from a model and a volume to the configuration of a training, and to what it gained.

The configuration is one that a YAML file could hold, so everything between is an ordinary training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from volumetool.degradation import RECIPES, Crappifier
from volumetool.errors import ConfigError
from volumetool.evaluation.results import Gain
from volumetool.evaluation.scores.bootstrap import Statistic, bootstrap
from volumetool.evaluation.scores.metrics import as_stored
from volumetool.evaluation.scores.resample import enlarge
from volumetool.events import Event, StepTrained
from volumetool.geometry import Triple, whole_ratio
from volumetool.models import Model, ModelCard, UNet, load_model, save_model
from volumetool.paths import absolute_path
from volumetool.scratch import scratch_folder
from volumetool.training.checkpoint import read_checkpoint
from volumetool.training.config import TrainConfig, change_config, make_config
from volumetool.training.data.held_out import HeldOut, held_out
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.recipe_fit import fit_recipe
from volumetool.training.data.sources import TrainingSource, open_sources
from volumetool.training.fit import fit
from volumetool.training.restore import restore_volume
from volumetool.training.train import NO_GAIN_DB

Doubles = NDArray[np.float64]

CUBIC: Final = "bicubic enlargement"
"""What a network has to beat, beside the model that it started from."""

_APART, _MOST_APART, _LEAST_APART = 0.15, 0.4, 24
"""Share of the longest axis that is kept apart, the largest such share, and its least width in coarse voxels."""

_SCORED = {2: (8, 256, 256), 3: (32, 64, 64)}
"""Coarse voxels of that part that are scored at most."""

_BLOCK, _LEAST_BLOCKS = 64, 16
"""Side of a block of the bootstrap, in fine voxels of all sections; halved until there are so many: few show no chance."""

_CROP = {2: (1, 60, 60), 3: (16, 40, 40)}
_NEAR = {"gamma": (0.9, 1.1), "contrast": (0.9, 1.1), "brightness": (-0.02, 0.02), "grain": (0.0, 0.0)}
"""Variation of the crops: little, because the model is for this tissue."""

_OPTIMISER = {"learning_rate": 1e-3, "ema": 0.995}
_FITTED_NOISE = (0.9, 1.1)
_CUBE = 1.05
"""Longest side of a voxel over its shortest up to which it counts as a cube."""

_RATIO = 0.05
"""Share by which voxel sizes may be off, as they are rounded where they are written."""

_WARM, _TIMED = 1, 3
"""Steps that warm up, and that are timed."""


def plan_fine_tuning(start: str, truth: str, low: str | None = None) -> TrainConfig:
    """Return the configuration of a training that adapts a model to one's own tissue and microscope.

    Parameters
    ----------
    start : str
        Model to start from: a built-in name or a file.
    truth : str
        Fine, clean volume: path or URL.
    low : str, optional
        Volume of such tissue from the fast microscope: the recipe is fitted to it. Without it the recipes are those that the
        model was trained on.

    Returns
    -------
    TrainConfig
        With the default number of steps.

    Raises
    ------
    ConfigError
        ``config.recipe``: the model does not say how its pairs were made. ``config.scale``: the voxel sizes of the volumes do
        not differ by the model's factors. ``config.too-small``: no part of the volume can be kept apart.
    InputError, ModelError
        A volume or the model cannot be opened.
    """
    model, truth = load_model(start), _place(truth)
    card, former, source = model.card, _former_training(model.card), _open(truth)
    if low is None:
        degradation: dict[str, Any] = {"recipes": _recipes(card, former)}
        if former is not None:
            degradation |= {"noise": former.degradation.noise, "blur": former.degradation.blur}
    else:
        _check_scale(_open(_place(low)), source, card)
        fitted = fit_recipe(_place(low), truth, scale=card.scale).crappifier
        degradation = {"recipes": [fitted.model_dump(mode="json")], "noise": _FITTED_NOISE}
    share = _share_apart(source, card)
    sampling = {} if former is None else former.sampling.model_dump()
    size = source.voxel_size
    content: dict[str, Any] = {
        "name": f"{card.name}-tuned",
        "architecture": card.architecture.model_dump(mode="json", exclude_defaults=True),
        "start": model.spec,
        "sources": [{"path": truth} | ({"planes": "all"} if size is not None and max(size) < min(size) * _CUBE else {})],
        "degradation": degradation,
        "augmentation": _NEAR,
        "sampling": sampling | {"crop": _crop(sampling.get("crop", _CROP[card.dims]), source, share, card)},
        "validation": {"share": share, "batches": 2},
        "normalisation": card.normalisation.model_dump(),
        "optimiser": _OPTIMISER,
        "precision": "bfloat16" if "bfloat16" in card.precision_safe else "float32",
        "card": {"polarity": card.polarity, "stride": card.stride},
    }
    if former is not None and card.z_context:
        content["neighbours"] = former.neighbours.model_dump()
    if size is None and card.voxel_size is not None:
        content["card"] |= card.voxel_size.model_dump()
    return make_config(content)


def begun_steps(folder: Path) -> int | None:
    """Return the steps of the training that a folder holds, None where it holds none."""
    facts, _ = read_checkpoint(folder)
    return None if facts is None else int(facts["config"]["steps"])


def time_step(config: TrainConfig) -> float:
    """Return the seconds that a step of a training takes on this machine, measured over a few of them."""
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepTrained):
            times.append(time.monotonic())

    few = change_config(config, steps=_WARM + _TIMED, devices=1, validation={"share": config.validation.share, "batches": 0})
    with scratch_folder("timing") as folder:
        fit(few, folder, note, lambda *_: None)
    return (times[-1] - times[_WARM - 1]) / _TIMED


def judge(config: TrainConfig, path: Path) -> tuple[Gain, ...]:
    """Measure what a fine-tuned model gains, and write that into its card.

    Parameters
    ----------
    config : TrainConfig
        Configuration of its training.
    path : Path
        The model file.

    Returns
    -------
    tuple of Gain
        In raw PSNR, the mean over the recipes: over the model that it started from, and over bicubic enlargement. The model is
        better only if both are certain.
    """
    model, start = load_model(path), load_model(str(config.start))
    sampler = Sampler(open_sources(config), config)
    box, scale = sampler.sources[0].parts["validation"][0], model.card.scale
    z, y, x = (min(n // f, most) for n, f, most in zip(box.shape, scale, _SCORED[model.card.dims], strict=True))
    errors = [_block_errors(volume, model, start) for volume in held_out(sampler, size=(z, y, x))]
    table = np.stack(errors, axis=1)  # (blocks, recipes, 3): tuned, start, bicubic
    gains = []
    for number, over in ((1, start.card.name), (2, CUBIC)):
        gained = _gain_over(number)
        flat = table.reshape(len(table), -1)
        value = float(gained(flat.sum(axis=0, keepdims=True))[0])
        gains.append(Gain("psnr", over, value, bootstrap(flat, statistic=gained)))
    name = config.sources[0].path.rstrip("/").rsplit("/", 1)[-1]
    told = f"on a part of {name} that was kept apart, {' and '.join(map(show_gain, gains))}"
    what = f"{start.card.name}, fine-tuned:" if all(map(is_certain, gains)) else "NOT BETTER than what was there before:"
    save_model(path, model.network(), model.card.model_copy(update={"description": f"{what} {told}."}))
    return tuple(gains)


def is_certain(gain: Gain) -> bool:
    """Return whether a gain is more than next to nothing, and not by chance."""
    return gain.interval[0] > 0 and gain.value >= NO_GAIN_DB


def show_gain(gain: Gain) -> str:
    """Write a gain in raw PSNR with its interval."""
    low, high = gain.interval
    return f"{gain.value:+.2f} dB ({low:+.2f} to {high:+.2f}) over {gain.rival}"


def _place(place: str) -> str:
    return place if "://" in place else str(absolute_path(place))


def _open(place: str) -> TrainingSource:
    (source,) = open_sources(make_config({"name": "volume", "sources": [{"path": place}]}))
    return source


def _former_training(card: ModelCard) -> TrainConfig | None:
    """Return how a model was trained, None where its card does not say it."""
    known = {name: value for name, value in card.provenance.training.items() if name in TrainConfig.model_fields}
    try:
        return TrainConfig.model_validate(known)
    except ValidationError:
        return None


def _recipes(card: ModelCard, former: TrainConfig | None) -> list[Any]:
    """Return the recipes that a model was trained on: names of built-in ones, and the others in full."""
    steps = card.provenance.training.get("recipes")
    stored: Mapping[str, Any] = steps if isinstance(steps, dict) else {}
    recipes = []
    crappified = former is not None and former.blind_spot is None and any(each.noisy is None for each in former.sources)
    for name in former.degradation.names if former is not None and crappified else ():
        recipe = RECIPES.get(name)
        try:
            named = recipe if name not in stored else Crappifier.model_validate({"name": name} | stored[name])
        except (ValidationError, TypeError):
            named = None
        if named is not None:
            recipes.append(name if recipe is not None and recipe.steps == named.steps else named.model_dump(mode="json"))
    if not recipes:
        raise ConfigError(
            "config.recipe",
            f"the card of {card.name} does not say by which recipe its pairs were made",
            hint="give a volume of the fast microscope with --low, or write a training file: `volumetool schema train`",
        )
    return recipes


def _check_scale(low: TrainingSource, truth: TrainingSource, card: ModelCard) -> None:
    if low.voxel_size is None or truth.voxel_size is None:
        return
    if whole_ratio(low.voxel_size, truth.voxel_size, _RATIO) != card.scale:
        raise ConfigError(
            "config.scale",
            f"{card.name} makes voxels {card.scale} times finer (z, y, x); "
            f"those of {low.config.path} have {low.voxel_size} nm, those of {truth.config.path} {truth.voxel_size}",
            hint="take a model with their ratio (`volumetool model list`), or other volumes",
        )


def _share_apart(truth: TrainingSource, card: ModelCard) -> float:
    """Return which share of the longest axis is kept apart: enough of it to be scored.

    Raises
    ------
    ConfigError
        ``config.too-small``.
    """
    least = [_LEAST_APART * factor for factor in card.scale]
    if card.dims == 2:
        least[0] = 1
    axis = int(np.argmax(truth.shape))
    share = max(_APART, least[axis] / truth.shape[axis])
    if share > _MOST_APART or any(n < wanted for n, wanted in zip(truth.shape, least, strict=True)):
        raise ConfigError(
            "config.too-small",
            f"{truth.config.path} has {truth.shape} voxels (z, y, x); to keep a part apart that can be scored, it needs "
            f"{tuple(least)}, and {round(least[-1] / _MOST_APART)} along its longest axis",
            hint="give a larger volume",
        )
    return round(share, 4)


def _crop(former: Triple, truth: TrainingSource, share: float, card: ModelCard) -> Triple:
    """Return the crop of the former training, or as much of it as the part to learn from holds."""
    left, axis = list(truth.shape), int(np.argmax(truth.shape))
    left[axis] = int(left[axis] * (1 - share)) - TrainConfig.model_fields["validation"].default.gap
    z, y, x = (
        max(grain, min(c, n // f // grain * grain))
        for c, n, f, grain in zip(former, left, card.scale, card.granularity, strict=True)
    )
    return z, y, x


def _block_errors(volume: HeldOut, tuned: Model, start: Model) -> Doubles:
    """Return sums of squared errors, float64 (blocks, 3), of both models and of bicubic enlargement."""
    restored = [restore_volume(cast("UNet", m.network()), volume.coarse, m.card.normalisation) for m in (tuned, start)]
    restored.append(enlarge(volume.coarse, tuned.card.scale, "cubic"))
    _, height, width = volume.fine.shape
    side = _BLOCK
    while -(-height // side) * -(-width // side) < _LEAST_BLOCKS and side > 1:
        side //= 2
    rows, columns = range(0, height, side), range(0, width, side)
    sums = []
    for image in restored:
        square = (as_stored(image, volume.fine.dtype).astype(np.float64) - volume.fine) ** 2  # (z, y, x)
        plane = square.sum(axis=0)  # (y, x)
        sums.append(np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1).ravel())  # (blocks,)
    return np.asarray(np.maximum(np.stack(sums, axis=1), 1e-9))  # where nothing differs there is no logarithm


def _gain_over(number: int) -> Statistic:
    """Return the statistic that makes of sums over blocks, (resamples, recipes * 3), the gain in dB over one method."""

    def gain(sums: Doubles) -> Doubles:
        errors = sums.reshape(len(sums), -1, 3)  # (resamples, recipes, 3)
        decibels: Doubles = 10 * np.log10(errors[..., number] / errors[..., 0])  # (resamples, recipes)
        return np.asarray(decibels.mean(axis=1))  # (resamples,)

    return gain
