"""The page of an attestation: one HTML file that holds everything it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from volumetool.errors import DataError
from volumetool.evaluation.attestation.content import BINS, OutputVoxels
from volumetool.evaluation.charts import Chart, Curve, draw
from volumetool.evaluation.pictures import data_uri, encode_png, fill_template, grey_limits, to_grey
from volumetool.geometry import Box
from volumetool.storage.voxels import read_voxels

if TYPE_CHECKING:
    from volumetool.evaluation.attestation.api import Attestation

SIDE = 256
"""Voxels of the output along a side of a picture, at most."""

COLOURS = {"output": "#e8590c", "input": "#4a90d9"}
SEAMS = {"z": "#2ba8a0", "y": "#8e6fd1", "x": "#c99a06"}


def render(found: Attestation) -> str:
    """Return an attestation as HTML."""
    failed = [check.name for check in found.checks if check.state == "failed"]
    headline = f"Failed: {', '.join(failed)}" if failed else "All checks passed"
    facts = [(name, value) for name, value in found.as_dict().items() if name not in ("ok", "checks")]
    content = found.content
    looked = content is not None and content.alike
    return fill_template(
        "volumetool.evaluation.attestation",
        "page.html",
        headline=headline,
        found=found,
        facts=facts,
        fields=_fields(found, content) if content is not None and looked else [],
        charts=_charts(content) if content is not None and looked else [],
    )


def _fields(found: Attestation, content: OutputVoxels) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return captions with pictures of input and output: the middle, and where checks failed."""
    places = [("the middle", Box.whole(content.plan.spec.box.shape))]
    places += [(check.name, check.places[0]) for check in found.checks if check.state == "failed" and check.places]
    fields = []
    for name, place in places:
        box = _around(place, content.plan.spec.box.shape)
        try:
            fields.append((f"{name}: voxels {box}", _pictures(box, content)))
        except DataError:
            continue  # which check failed there, and why, is said in the table
    return fields


def _pictures(box: Box, content: OutputVoxels) -> list[tuple[str, str]]:
    under = content.in_input(box)
    given = read_voxels(content.source.open(content.plan.job.level), under, "input")[0]
    made = read_voxels(content.written[0].open(), box, "output")[0]
    limits = grey_limits(np.nan_to_num(given))
    sections = (("input", given), ("output", made))
    return [(label, data_uri(encode_png(to_grey(np.nan_to_num(section), limits)))) for label, section in sections]


def _around(place: Box, shape: tuple[int, int, int]) -> Box:
    """Return one section around the middle of a place, of at most `SIDE` voxels a side."""
    start, stop = [], []
    for low, high, size, side in zip(place.start, place.stop, shape, (1, SIDE, SIDE), strict=True):
        first = max(0, min((low + high) // 2 - side // 2, size - side))
        start.append(first)
        stop.append(min(first + side, size))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _charts(content: OutputVoxels) -> list[tuple[str, str, str]]:
    centres = (np.arange(BINS) + 0.5) / BINS * 3 * content.span + content.window[0] - content.span
    shares = [each / max(1, each.sum()) for each in content.histograms]
    used = np.flatnonzero(sum(shares))
    part = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
    histograms = [
        Curve(name, centres[part].tolist(), each[part].tolist(), COLOURS[name])
        for name, each in zip(COLOURS, shares, strict=True)
    ]
    sections = []
    scale = content.plan.voxel_size[0] / content.plan.spec.levels[0].voxel_size[0]
    for (name, colour), each, step in zip(COLOURS.items(), content.sections, (1.0, scale), strict=True):
        there = np.flatnonzero(each[1])
        sections.append(Curve(name, (there * step).tolist(), (each[0][there] / each[1][there]).tolist(), colour))
    ratios = []
    for axis, seams in zip("zyx", content.seams, strict=True):
        for style, values in (("-", seams.ratios.borders), ("--", seams.ratios.inside)):
            label = f"{axis}, {'borders' if style == '-' else 'inside'}"
            order = sorted(values)
            ratios.append(Curve(label, order, (np.arange(len(order)) / max(1, len(order))).tolist(), SEAMS[axis], style))
    found = [
        (
            "Grey values",
            "Means of 8 x 8 voxels of the input, and of the output's voxels at the same places.",
            draw(Chart("Distributions of local means", "grey value", "share", histograms)),
        ),
        (
            "Sections",
            "Mean grey value of each section: a step of the output alone is its own.",
            draw(Chart("Mean of each section", "section z of the output", "grey value", sections, whole_x=True)),
        ),
    ]
    if any(curve.x for curve in ratios):
        words = "Step across a plane over the steps beside it: borders of regions must not lie to the right of planes inside."
        chart = Chart("Steps across borders and inside", "ratio", "share of planes below", [c for c in ratios if c.x])
        found.append(("Seams", words, draw(chart)))
    return found
