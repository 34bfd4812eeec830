"""The model of a job: which one suits the volume, where the job names none, and whether it was trained on such images."""

from __future__ import annotations

from typing import Literal

from volumetool.errors import ModelError
from volumetool.geometry import Size
from volumetool.jobs.choices import Familiarity
from volumetool.models import ModelCard, OperationCard, fitting_models
from volumetool.processing.survey import CERTAIN, FIGURES, LIKELY, Evidence, Survey
from volumetool.units import show_size

ALIKE = 0.8
"""Correlation of neighbouring sections from which a model gains by them that has not learnt to leave out those that differ.

`tests/benchmarks/README.md` has the figures: above it such a model gains up to 2.2 dB over one without neighbours, or loses 0.2
at most where sections are displaced by a voxel; below it loses up to 0.7 dB.
"""


def rank_models(size: Size, evidence: Evidence | None) -> tuple[ModelCard, ...]:
    """Return the built-in models that suit a volume and add no sections, best first.

    Of those that make most voxels, models that use neighbouring sections come first where these are alike, and last where they
    differ or nothing is known of them. A model with a gate leaves out sections that differ, so it suits all. Of equals the
    simpler one comes first.

    Parameters
    ----------
    size : tuple of float
        Voxel size of the input in nm, z, y, x.
    evidence : Evidence or None
        What the sample of the volume shows.

    Raises
    ------
    ModelError
        ``model.none-fits``.
    """
    fitting = fitting_models(size)
    kept = [card for card in fitting if card.scale[0] == 1]
    if not kept:
        others = ", ".join(card.name for card in fitting)
        but = f", except such as add sections ({others}), which auto never takes" if others else ""
        raise ModelError(
            "model.none-fits",
            f"no built-in model was trained on voxels of {show_size(size)}{but}",
            hint="choose one with --model NAME (see `volumetool model list`), take another --level, "
            "or correct the metadata with --voxel-size",
        )

    def rank(card: ModelCard) -> tuple[int, int, int, int, int]:
        voxels, suits = card.scale[1] * card.scale[2], _suits(card, evidence)
        context = card.z_context if suits else -card.z_context
        return -voxels, card.dims, not suits, -context, card.architecture.width

    return tuple(sorted(kept, key=rank))


def _suits(card: ModelCard, evidence: Evidence | None) -> bool:
    """Return whether a model is not hurt by the neighbouring sections of a volume."""
    if not card.z_context or card.architecture.gate:
        return True
    return evidence is not None and evidence.neighbours is not None and evidence.neighbours >= ALIKE


MARGIN = 0.1
"""A figure this share of the common range beyond all that a model has seen is at the edge; one farther off is out."""


def judge(card: OperationCard, survey: Survey, *, invert: bool = False) -> Familiarity | None:
    """Compare what a sample shows of a volume with the images that a model was trained on.

    Parameters
    ----------
    card : OperationCard
        Card of the model.
    survey : Survey
        What the sample shows.
    invert : bool
        The model sees the volume inverted.

    Returns
    -------
    Familiarity or None
        None where the card says nothing of those images, or the sample is too small or without structure.
    """
    figures = survey.figures
    if not isinstance(card, ModelCard) or not card.seen or not figures:
        return None
    if invert:
        figures = figures | {"skewness": -figures["skewness"]}
    places, reasons = {"in"}, []
    for name, (least, low, high, greatest) in card.seen.items():
        value, margin = figures[name], MARGIN * (high - low)
        if not low <= value <= high:
            places.add("edge" if least - margin <= value <= greatest + margin else "out")
            reasons.append(f"{name} {value:.3g}, trained on {low:.3g} to {high:.3g} ({FIGURES[name]})")
    shown = -survey.polarity if invert else survey.polarity
    if "dark membranes" in card.polarity and shown < -LIKELY:
        places.add("out" if shown < -CERTAIN else "edge")
        reasons.append("bright membranes, trained on dark ones")
    verdict: Literal["in", "edge", "out"] = "out" if "out" in places else "edge" if "edge" in places else "in"
    return Familiarity(verdict=verdict, reasons=tuple(reasons), figures=figures)


def check_gate(how: Literal["warn", "strict", "off"], card: OperationCard, gate: Familiarity | None) -> tuple[str, ...]:
    """Warn of a volume that is unlike what its model was trained on, or refuse it.

    Parameters
    ----------
    how : {"warn", "strict", "off"}
        What to do about it.
    card : OperationCard
        Card of the model.
    gate : Familiarity or None
        What `judge` found.

    Raises
    ------
    ModelError
        ``model.unfamiliar``: `how` is ``strict``, and the verdict is ``out``.
    """
    if gate is None or gate.verdict != "out" or how == "off":
        return ()
    clash = f"the volume is unlike what {card.name} was trained on: {'; '.join(gate.reasons)}"
    if how == "strict":
        raise ModelError(
            "model.unfamiliar", clash, hint="see `volumetool model list`, train one on such images, or --gate warn goes on"
        )
    return (f"{clash}. What it draws may not be there",)
