"""Steps before and after a network of the BioImage Model Zoo, by the names of its specification.

Those that look at one voxel at a time are arithmetic on a patch. Those that look at a whole image, such as at its mean, are
not: a patch has another mean. One step before a network may be such a one, and becomes the normalisation that the plan fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from volumetool.models.card import Normalisation

Pointwise = Callable[[Tensor], Tensor]
"""A step on a patch of shape (1, c, [z,] y, x)."""

Axes = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, str) else value)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))]

NAMES = {"batch": "b", "channel": "c", **{letter: letter for letter in "bczyx"}}
"""Letters of axes, by what versions 0.4 and 0.5 of the specification call them."""

WHOLE = "it looks at the whole image, and no patch shows that"


class UnknownStepError(ValueError):
    """A step that cannot be done patch by patch; its text says why."""


class Settings(BaseModel):
    """Settings of a step; each kind of step reads those that it has."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    axis: str | None = None
    axes: Axes | None = None
    mode: Literal["fixed", "per_dataset", "per_sample"] | None = None
    gain: Numbers = (1.0,)
    offset: Numbers = (0.0,)
    mean: Numbers | None = None
    std: Numbers | None = None
    threshold: Numbers = (0.0,)
    min: float | None = None
    max: float | None = None
    min_percentile: float | None = Field(None, ge=0, le=100)
    max_percentile: float | None = Field(None, ge=0, le=100)
    reference_tensor: str | None = None
    dtype: str = "float32"


class Processing(BaseModel):
    """A step as a package writes it.

    Parameters
    ----------
    id : str
        Its kind; ``name`` in version 0.4.
    settings : Settings
        Its settings; ``kwargs`` in a package.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(validation_alias=AliasChoices("id", "name"))
    settings: Settings = Field(Settings(), validation_alias=AliasChoices("kwargs"))

    @property
    def whole(self) -> bool:
        """Whether it looks at the whole image."""
        settings = self.settings
        percentiles = settings.min_percentile is not None or settings.max_percentile is not None
        fixed = self.id != "zero_mean_unit_variance" or settings.mode == "fixed"
        return not fixed or self.id in ("scale_range", "scale_mean_variance") or (self.id == "clip" and percentiles)


def before_network(steps: Sequence[Processing], dims: int) -> tuple[Normalisation, list[Pointwise]]:
    """Return the normalisation that is fitted to the volume, and the steps on patches that follow it.

    Raises
    ------
    UnknownStepError
        A step cannot be done.
    """
    whole = [number for number, step in enumerate(steps) if step.whole]
    if not whole:
        return Normalisation(kind="none"), [pointwise(step, dims) for step in steps]
    first = whole[0]
    for step in steps[:first]:
        # The fitted normalisation undoes a scaling; what else stands before it would change what is fitted.
        gain, offset = step.settings.gain, step.settings.offset
        undone = step.id == "scale_linear" and len(gain) == len(offset) == 1 and gain[0] > 0
        if not undone and step.id != "ensure_dtype":
            raise UnknownStepError(f"{step.id} before {steps[first].id}: {WHOLE}")
    for number in whole[1:]:
        raise UnknownStepError(f"{steps[number].id} after {steps[first].id}: {WHOLE}")
    return _fitted(steps[first]), [pointwise(step, dims) for step in steps[first + 1 :]]


def after_network(steps: Sequence[Processing], dims: int, *, restored: bool) -> list[Pointwise]:
    """Return the steps on the patches of an output.

    Parameters
    ----------
    steps : sequence of Processing
        As the package has them.
    dims : {2, 3}
        Axes of the image.
    restored : bool
        Its values go back to grey values by the statistics of the volume, in place of ``scale_mean_variance`` at the end.

    Raises
    ------
    UnknownStepError
        A step cannot be done.
    """
    if restored and steps and steps[-1].id == "scale_mean_variance":
        steps = steps[:-1]
    for step in steps:
        if step.whole:
            more = ", and restore=yes brings the output back to grey values instead" if step is steps[-1] else ""
            raise UnknownStepError(f"{step.id} after the network: {WHOLE}{more if step.id == 'scale_mean_variance' else ''}")
    return [pointwise(step, dims) for step in steps]


def _fitted(step: Processing) -> Normalisation:
    settings = step.settings
    letters = {NAMES.get(axis, axis) for axis in settings.axes or NAMES}
    if step.id == "scale_mean_variance" or step.id == "clip" or not {"y", "x"} <= letters:
        raise UnknownStepError(f"{step.id} over {', '.join(settings.axes or ('all axes',))}: {WHOLE}")
    if settings.reference_tensor is not None:
        raise UnknownStepError(f"{step.id} by the values of {settings.reference_tensor}: {WHOLE}")
    if step.id == "scale_range":
        return Normalisation(kind="percentiles", low=settings.min_percentile or 0.0, high=settings.max_percentile or 100.0)
    return Normalisation(kind="standard")


def pointwise(step: Processing, dims: int) -> Pointwise:
    """Return a step that looks at one voxel at a time.

    Raises
    ------
    UnknownStepError
        It is no such step.
    """
    settings = step.settings

    def along(values: Sequence[float]) -> Tensor:
        """Return values along their axis, which is that of channels unless it is said."""
        if len(values) > 1 and NAMES.get(settings.axis or "channel") != "c":
            raise UnknownStepError(f"{step.id} along {settings.axis}: {WHOLE}")
        return torch.tensor(values, dtype=torch.float32).reshape(-1, *[1] * dims)  # (c, [z,] y, x)

    if step.id == "scale_linear":
        gain, offset = along(settings.gain), along(settings.offset)
        return lambda x: x * gain.to(x.device) + offset.to(x.device)
    if step.id == "sigmoid":
        return torch.sigmoid
    if step.id == "softmax" and NAMES.get(settings.axis or "channel") == "c":
        return lambda x: torch.softmax(x, 1)
    if step.id == "binarize":
        threshold = along(settings.threshold)
        return lambda x: (x > threshold.to(x.device)).float()
    if step.id == "clip" and not step.whole:
        return lambda x: x.clamp(settings.min, settings.max)
    if step.id in ("fixed_zero_mean_unit_variance", "zero_mean_unit_variance") and settings.mean and settings.std:
        mean, std = along(settings.mean), along(settings.std)
        return lambda x: (x - mean.to(x.device)) / std.to(x.device)
    if step.id == "ensure_dtype":
        return _cast(settings.dtype)
    raise UnknownStepError(f"{step.id}: it is not among the steps that are done here")


def _cast(name: str) -> Pointwise:
    if name not in ("float32", "float64", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        raise UnknownStepError(f"ensure_dtype to {name}: there is no such type")
    if name.startswith("float"):
        return lambda x: x
    if name == "bool":
        return lambda x: (x != 0).float()
    limits = np.iinfo(name)
    return lambda x: x.trunc().clamp(float(limits.min), float(limits.max))
