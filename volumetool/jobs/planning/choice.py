"""The model of a job that names none: chosen by the voxel size, and by what the sample shows of neighbouring sections."""

from __future__ import annotations

from volumetool.errors import ModelError
from volumetool.geometry import Size
from volumetool.models import ModelCard, fitting_models
from volumetool.processing.survey import Evidence
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
