"""The function that users call to evaluate, with options by name."""

from __future__ import annotations

import os
from typing import Any

from volumetool.configuration import Options, Place, Positive, with_options
from volumetool.evaluation.evaluate import EvaluationRequest
from volumetool.evaluation.evaluate import evaluate as evaluate_request
from volumetool.evaluation.report import write_report
from volumetool.evaluation.results import Evaluation
from volumetool.evaluation.scores.align import Volumes
from volumetool.events import Noted, Observer, ignore
from volumetool.geometry import AskedBox, part_inside
from volumetool.models import load_model
from volumetool.paths import AnyPlace, absolute_path
from volumetool.storage.io.roles import Role, name_roles
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume


class EvaluationOptions(Options):
    """An evaluation, as a user asks for it: the options of ``volumetool evaluate`` and of `volumetool.evaluate`.

    Parameters
    ----------
    restored, truth : str or path
        Paths or URLs of the restored volume, and of the fine volume of the same field.
    low : str or path, optional
        The volume that was restored: classical methods start from it.
    second : str or path, optional
        A second acquisition of the field, restored separately: for FRC and FSC.
    model : str or path, optional
        The model that restored `low`: scored after a filter along z, and for expected errors.
    roi : Box or str, optional
        Only this box, ``"z0:z1,y0:y1,x0:x1"``, in voxels of the truth.
    data_range : float, optional
        Largest minus smallest possible value; 255 for 8-bit data.
    sections : int
        Sections to score at most, evenly spread.
    tune : bool
        Give each classical method its best strength for these data.
    same_corner : bool
        All volumes begin at the same corner, whatever their translations say.
    seed : int
        Seed of the bootstrap.
    """

    told_by = "`volumetool evaluate --help`"

    restored: Place
    truth: Place
    low: Place | None = None
    second: Place | None = None
    model: Place | None = None
    roi: AskedBox | None = None
    data_range: float | None = None
    sections: Positive = 32
    tune: bool = False
    same_corner: bool = False
    seed: int = 0


@with_options(EvaluationOptions)
def evaluate(
    restored: AnyPlace,
    truth: AnyPlace,
    *,
    report: str | os.PathLike[str] | None = None,
    observer: Observer = ignore,
    **options: Any,
) -> Evaluation:
    """Score a restored volume against the truth, beside every classical method that it has to beat.

    Parameters
    ----------
    restored, truth : str or path
        Paths or URLs of the restored volume, and of the fine volume of the same field.
    report : str or path, optional
        HTML file to write: one page that holds everything.
    observer : Observer, optional
        Told by `Progressed` how many tiles are done, and by `Noted` of a box that reaches beyond the truth.
    **options
        Any field of :class:`volumetool.evaluation.api.EvaluationOptions`, such as ``low="low.zarr"`` or ``sections=8``.

    Raises
    ------
    InputError, ModelError
        A volume or the model cannot be opened, or the volumes do not match.
    ConfigError
        ``config.option``, ``config.data-range``, ``config.tune``.
    DataError
        ``data.unreadable``.
    """
    request = open_request(EvaluationOptions(restored=restored, truth=truth, **options), observer)
    found = evaluate_request(request, observer)
    if report is not None:
        write_report(found, request, absolute_path(report))
    return found


def open_request(asked: EvaluationOptions, observer: Observer = ignore) -> EvaluationRequest:
    """Open the volumes and the model of an evaluation.

    Raises
    ------
    InputError, ModelError
        One of them cannot be opened.
    """
    truth, roi = _open(asked.truth, "the truth"), asked.roi
    if roi is not None:
        roi, note = part_inside(roi, truth.shape, asked.truth)
        if note is not None:
            observer(Noted(f"warning: {note}"))
    return EvaluationRequest(
        volumes=Volumes(
            _open(asked.restored, "the restored volume"),
            truth,
            None if asked.low is None else _open(asked.low, "--low"),
            None if asked.second is None else _open(asked.second, "--second"),
        ),
        roi=roi,
        data_range=asked.data_range,
        sections=asked.sections,
        tune=asked.tune,
        seed=asked.seed,
        same_corner=asked.same_corner,
        model=None if asked.model is None else load_model(asked.model),
    )


def _open(place: str, noun: str) -> Volume:
    with name_roles(Role(place, noun)):
        return open_volume(place)
