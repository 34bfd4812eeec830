"""The report: one HTML file that holds everything it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from volumetool.evaluation.baselines import METHODS
from volumetool.evaluation.charts import Chart, Curve, draw
from volumetool.evaluation.evaluate import RESTORED, TRUTH, EvaluationRequest
from volumetool.evaluation.pictures import data_uri, encode_png, fill_template, grey_limits, to_grey
from volumetool.evaluation.results import Evaluation, NotAvailable, Pick, Row, protocol_words, verdict
from volumetool.evaluation.scores.align import Matched
from volumetool.evaluation.scores.block_sums import METRICS
from volumetool.evaluation.scores.frc import ONE_SEVENTH, Correlation
from volumetool.evaluation.scores.tiling import Restorer
from volumetool.geometry import Box
from volumetool.paths import replace_file

HEADINGS: Mapping[str, str] = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "psnr_affine": "PSNR, dB",
    "ssim_affine": "SSIM",
}
COLOURS: Mapping[str, str] = {
    RESTORED: "#e8590c",
    TRUTH: "",
    "nearest": "#9aa5b1",
    "bilinear": "#4a90d9",
    "bicubic": "#8e6fd1",
    "gauss+bicubic": "#2ba8a0",
    "unsharp+bicubic": "#d6409f",
    "nlm": "#7a9e1f",
    "tv": "#c99a06",
    "bm3d": "#8d6e63",
    "z-gauss+bicubic": "#1864ab",
    "nlm-3d": "#5c940d",
    "tv-3d": "#e0a800",
}
SHOWN = 192
"""Voxels along a side of a picture, at most."""


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes
    ----------
    label, alt : str
        Text below the picture, and text that is read out instead of it.
    data : str
        PNG as a data URI.
    """

    label: str
    alt: str
    data: str


def write_report(evaluation: Evaluation, request: EvaluationRequest, path: Path) -> None:
    """Write the report of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        Scores to report.
    request : EvaluationRequest
        What was evaluated; its volumes are read again for the pictures.
    path : pathlib.Path
        The HTML file; one that is there is replaced.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    text = render(evaluation, request)
    replace_file(path, text.encode())


def render(evaluation: Evaluation, request: EvaluationRequest) -> str:
    """Return the report as HTML."""
    matched = Matched(request.volumes, roi=request.roi, same_corner=request.same_corner)
    restorer = Restorer(matched, {row.name: row.strength for row in evaluation.rows})
    headline, *rest = verdict(evaluation)
    return fill_template(
        "volumetool.evaluation",
        "report.html",
        headline=headline,
        rest=rest,
        mood=_mood(evaluation),
        protocol=evaluation.protocol,
        words=protocol_words(evaluation),
        headings=[HEADINGS[metric] for metric in METRICS],
        raw=sum(not metric.endswith("_affine") for metric in METRICS),
        rows=[_cells(row, evaluation) for row in evaluation.rows],
        missing=evaluation.protocol.not_installed,
        fields=[(pick, _caption(pick), _pictures(pick, restorer, evaluation)) for pick in evaluation.picks],
        spectrum=_spectrum(evaluation),
        sections=_sections(evaluation),
        expected_error=evaluation.expected_error,
        frc=_correlation("Fourier ring correlation", evaluation.frc, _limit(evaluation, (1, 2))),
        fsc=_correlation("Fourier shell correlation", evaluation.fsc, _limit(evaluation, (0, 1, 2))),
    )


def _mood(evaluation: Evaluation) -> str:
    """Return the class of the headline: better, worse or open."""
    low, high = next((gain.interval for gain in evaluation.gains if gain.metric == "psnr"), (0.0, 0.0))
    return "better" if low > 0 else "worse" if high < 0 else "open"


def _cells(row: Row, evaluation: Evaluation) -> dict[str, Any]:
    best = {m: max(getattr(each.scores, m) for each in evaluation.rows) for m in METRICS}
    cells = []
    for metric in METRICS:
        digits = 2 if metric.startswith("psnr") else 4
        value, (low, high) = getattr(row.scores, metric), row.intervals[metric]
        cells.append(
            {
                "value": _number(value, digits),
                "interval": f"{_number(low, digits)} to {_number(high, digits)}",
                "best": round(value, digits) >= round(best[metric], digits) if math.isfinite(value) else True,
            }
        )
    note = f"{row.shown_strength} ({row.meaning}{', tuned here' if row.tuned else ''})" if row.strength else ""
    return {"name": row.name, "note": note, "ours": row.name == RESTORED, "colour": _colour(row.name), "cells": cells}


def _colour(name: str) -> str:
    return COLOURS.get(name, "#495057")  # of a network


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "n/a"


def _caption(pick: Pick) -> str:
    (z, y, x), (_, bottom, right) = pick.box.start, pick.box.stop
    where = f"z {z}, y {y} to {bottom}, x {x} to {right}"
    return (
        f"{pick.label.capitalize()} block (percentile {pick.percentile} of the raw error): {_number(pick.psnr, 2)} dB; {where}"
    )


def _pictures(pick: Pick, restorer: Restorer, evaluation: Evaluation) -> list[Picture]:
    box = _centre(pick.box)
    truth = restorer.section(TRUTH, box).astype(np.float32)
    restored = restorer.section(RESTORED, box).astype(np.float32)
    limits = grey_limits(truth)
    panels = [("restored", restored), ("truth", truth)]
    if evaluation.protocol.low:
        panels[:0] = [(name, restorer.grey(METHODS[key], box)) for name, key in (("low", "nearest"), ("bilinear", "bilinear"))]
    found = [
        Picture(name, f"{name}, {_caption(pick)}", data_uri(encode_png(to_grey(section, limits)))) for name, section in panels
    ]
    difference = restored - truth
    most = max(float(np.percentile(np.abs(difference), 99.5)), 1e-6)
    colours = (colormaps["RdBu_r"](np.clip(difference / most / 2 + 0.5, 0, 1))[..., :3] * 255).astype(np.uint8)
    label = f"restored - truth, blue -{most:.3g} to red +{most:.3g}"
    return [*found, _picture(label, pick, colours)]


def _picture(label: str, pick: Pick, pixels: NDArray[np.uint8]) -> Picture:
    return Picture(label, f"{label}, {_caption(pick)}", data_uri(encode_png(pixels)))


def _centre(box: Box) -> Box:
    start, stop = [box.start[0]], [box.stop[0]]
    for a, n in zip(box.start[1:], box.shape[1:], strict=True):
        side = min(n, SHOWN)
        start.append(a + (n - side) // 2)
        stop.append(start[-1] + side)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _spectrum(evaluation: Evaluation) -> str:
    found = evaluation.spectrum
    front = (TRUTH, RESTORED)
    order = sorted(found.power, key=lambda name: name in front)  # the two that matter are drawn last
    x = found.per_nm[1:]
    curves = [Curve(name, x, found.power[name][1:], _colour(name), width=2.2 if name in front else 1.1) for name in order]
    chart = Chart(
        title="Radial power spectra of the truth and of every method",
        x_label="spatial frequency, 1/nm",
        y_label="power, grey levels²",
        curves=curves,
        log_y=True,
        voxel_nm=max(evaluation.protocol.voxel_size[1:]),
        mark=_limit(evaluation, (1, 2)),
    )
    return draw(chart)


def _limit(evaluation: Evaluation, axes: tuple[int, ...]) -> tuple[str, float] | None:
    frequency = evaluation.protocol.input_limit(axes)
    return None if frequency is None else ("limit of the input", frequency)


def _sections(evaluation: Evaluation) -> str:
    z = evaluation.protocol.sections
    names = {RESTORED, "bilinear", *(gain.rival for gain in evaluation.gains)}
    curves = [
        Curve(row.name, z, [s.psnr for s in row.sections], COLOURS[row.name], width=2.2 if row.name == RESTORED else 1.2)
        for row in evaluation.rows
        if row.name in names and all(math.isfinite(s.psnr) for s in row.sections)
    ]
    return draw(Chart("Raw PSNR of every section", "section z, voxels", "raw PSNR, dB", curves, whole_x=True))


def _correlation(title: str, found: Correlation | NotAvailable, mark: tuple[str, float] | None) -> dict[str, Any]:
    if isinstance(found, NotAvailable):
        return {"title": title, "reason": found.reason, "chart": "", "crossings": (), "patches": 0, "shape": ""}
    curves = [
        Curve("correlation", found.per_nm[1:], found.correlation[1:], COLOURS[RESTORED], "-", 2.2),
        Curve("half-bit", found.per_nm[1:], found.half_bit[1:], "", "--", 1.1),
        Curve("1/7", found.per_nm[1:], [ONE_SEVENTH] * (len(found.per_nm) - 1), "", ":", 1.1),
    ]
    voxel = found.per_voxel[-1] / found.per_nm[-1]
    chart = Chart(title, "spatial frequency, 1/nm", "correlation", curves, y_limits=(-0.1, 1.05), voxel_nm=voxel, mark=mark)
    return {
        "title": title,
        "reason": "",
        "chart": draw(chart),
        "crossings": found.crossings,
        "patches": found.patches,
        "shape": " x ".join(map(str, found.shape)),
    }
