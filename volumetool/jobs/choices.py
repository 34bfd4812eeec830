"""What was tried and found while a job was planned: ways to run the network, models, and what the volume looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from volumetool.processing.survey import Evidence


@dataclass(frozen=True)
class BatchingChoice:
    """A way to run the network, and how fast it is.

    Parameters
    ----------
    streams : int
        Batches computed side by side; they share the worker's threads.
    batch : int
        Patches per call.
    patch_seconds : float
        Measured time per patch, in seconds.
    """

    streams: int
    batch: int
    patch_seconds: float

    @property
    def patches(self) -> int:
        """Patches in the network at once."""
        return self.streams * self.batch


class ModelChoice(BaseModel):
    """How the model of a job was chosen that named none.

    Parameters
    ----------
    evidence : Evidence, optional
        What the sample showed; None where it was too small or without structure.
    next_best : str, optional
        Name of the built-in model that would have come next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    evidence: Evidence | None = None
    next_best: str | None = None


class Familiarity(BaseModel):
    """Whether a volume looks like the images that its model was trained on.

    Parameters
    ----------
    verdict : {"in", "edge", "out"}
        All figures lie where 98 % of the training's images lie; some lie farther out, but hardly farther than any image; or
        beyond all of them.
    reasons : tuple of str
        The figures that are not ``in``, each with what the model has seen.
    figures : dict
        The `volumetool.processing.survey.FIGURES` of the volume.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["in", "edge", "out"]
    reasons: tuple[str, ...] = ()
    figures: dict[str, float] = {}
