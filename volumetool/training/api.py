"""The function that users call to train or to fine-tune, with options by name."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from volumetool.configuration import Options, Place, Positive, with_options
from volumetool.errors import ConfigError
from volumetool.evaluation.results import Gain
from volumetool.events import Noted, Observer, ignore
from volumetool.models import ModelCard, load_model
from volumetool.paths import absolute_path
from volumetool.training.config import TrainConfig, change_config, read_config
from volumetool.training.data.sources import find_shortcomings
from volumetool.training.fine_tune import begun_steps, is_certain, judge, plan_fine_tuning, time_step
from volumetool.training.train import find_no_gain
from volumetool.training.train import train as train_config

MINUTES = 10.0
"""How long a fine-tuning learns, where neither minutes nor steps are said."""


class TrainingOptions(Options):
    """A training, as a user asks for it: the options of ``volumetool train`` and of `volumetool.train`.

    Parameters
    ----------
    config : str or path, optional
        YAML file; ``volumetool schema train`` describes it.
    start : str or path, optional
        Model to fine-tune, without a file: a built-in name or a model file. ``--from`` of the command.
    truth : str or path, optional
        Fine, clean volume to learn from. ``--on`` of the command.
    low : str or path, optional
        Volume of such tissue from the fast microscope, to fit a recipe to; else the model's recipes are taken.
    minutes : float, optional
        How long to learn, instead of `steps`; 10 by default.
    output : str or path, optional
        Folder of the training; by default the model's name, here.
    allow_host : tuple of str
        Hosts that the file may name although they are not public.
    steps : int, optional
        Optimiser steps, instead of the file's.
    device : {"auto", "cpu", "cuda"}, optional
        Instead of the file's.
    devices : int, optional
        How many GPUs, instead of the file's.
    overwrite : bool
        Start over instead of going on.
    """

    told_by = "`volumetool train --help`"

    config: Place | None = None
    start: Place | None = None
    truth: Place | None = None
    low: Place | None = None
    minutes: Annotated[float, Field(ge=0)] | None = None
    output: Place | None = None
    allow_host: tuple[str, ...] = ()
    steps: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] | None = None
    devices: Positive | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Training:
    """What came of a training.

    Attributes
    ----------
    model : Path
        The model file.
    card : ModelCard
        Its card.
    better : bool, optional
        Whether a fine-tuned model is better than the one that it started from, and than enlargement; None of other trainings.
    gains : tuple of Gain
        By how much, on the part that was kept apart.
    """

    model: Path
    card: ModelCard
    better: bool | None = None
    gains: tuple[Gain, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the training as JSON values."""
        gains = {} if self.better is None else {"better": self.better, "gains": [asdict(gain) for gain in self.gains]}
        return {"model": str(self.model), **gains, "card": self.card.model_dump(mode="json")}


@with_options(TrainingOptions)
def train(config: str | os.PathLike[str] | None = None, *, observer: Observer = ignore, **options: Any) -> Training:
    """Train a model from a file, or fine-tune one on one's own volume; calling it again goes on where it stopped.

    Parameters
    ----------
    config : str or path, optional
        YAML file of a training; to fine-tune, give `start` and `truth` instead.
    observer : Observer, optional
        Told by `StepTrained` and `CurvePoint` how far it is, and by `Noted` of warnings.
    **options
        Any field of :class:`volumetool.training.api.TrainingOptions`, such as ``start="em-x4", truth="fine.zarr"``.

    Raises
    ------
    ConfigError, InputError, ModelError, ResourceError, FingerprintError
        As :func:`volumetool.training.fine_tune.plan_fine_tuning` and :func:`volumetool.training.train.train`.
    """
    asked = TrainingOptions(config=config, **options)
    planned, folder = plan_training(asked, observer)
    path = train_config(planned, folder, observer, overwrite=asked.overwrite)
    if asked.start is not None:
        gains = judge(planned, path)
        return Training(path, load_model(path).card, all(map(is_certain, gains)), gains)
    card = load_model(path).card
    if (no_gain := find_no_gain(card)) is not None:
        observer(Noted(f"warning: {no_gain}"))
    return Training(path, card)


def plan_training(asked: TrainingOptions, observer: Observer = ignore) -> tuple[TrainConfig, Path]:
    """Return the configuration of a training as a user asks for it, and its folder; nothing is written.

    Raises
    ------
    ConfigError
        ``config.option``: the options do not say one task; and as `read_config` and `plan_fine_tuning`.
    """
    _require_one_task(asked)
    if asked.config is not None:
        read = read_config(Path(asked.config), asked.allow_host)
        for note in find_shortcomings(read):
            observer(Noted(f"warning: {note}"))
    else:
        read = plan_fine_tuning(str(asked.start), str(asked.truth), asked.low)
    planned = change_config(read, steps=asked.steps, device=asked.device, devices=asked.devices)
    folder = absolute_path(asked.output or planned.name)
    if asked.start is None or asked.steps is not None:
        return planned, folder
    begun = None if asked.overwrite else begun_steps(folder)
    if begun is not None:
        observer(Noted(f"{folder} was begun with {begun} steps, and goes on; --overwrite starts over"))
        return change_config(planned, steps=begun), folder
    seconds, minutes = time_step(planned), MINUTES if asked.minutes is None else asked.minutes
    steps = max(1, round(60 * minutes / seconds))
    observer(Noted(f"{steps} steps: {minutes:g} min at {seconds:.2g} s a step on this machine"))
    return change_config(planned, steps=steps), folder


def _require_one_task(asked: TrainingOptions) -> None:
    """Refuse options that do not say one task: a file, or a model and a volume."""
    told = {"--from": asked.start, "--on": asked.truth, "--low": asked.low, "--minutes": asked.minutes}
    given = [name for name, value in told.items() if value is not None]
    clash = None
    if asked.config is not None and given:
        clash = f"{', '.join(given)}: of no effect with {asked.config}, which says what is learnt"
    elif asked.config is None and (asked.start is None or asked.truth is None):
        clash = f"{given[0]} alone is no training" if given else "a training file is needed, or a model and a volume"
    elif asked.steps is not None and asked.minutes is not None:
        clash = f"--steps {asked.steps} and --minutes {asked.minutes:g} both say how long"
    if clash is not None:
        raise ConfigError(
            "config.option",
            clash,
            hint="volumetool train CONFIG, or volumetool train --from MODEL --on TRUTH [--low LOW] [--minutes 10]",
        )
