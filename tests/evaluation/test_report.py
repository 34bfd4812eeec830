"""The report stands on its own, says what was done, and can be read without seeing it."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from volumetool.errors import OutputError
from volumetool.evaluation.charts import Chart, Curve, draw
from volumetool.evaluation.evaluate import EvaluationRequest, evaluate
from volumetool.evaluation.report import render, write_report
from volumetool.evaluation.results import protocol_words, verdict

pytestmark = pytest.mark.xdist_group("report")  # one report for all tests, in one process


@pytest.fixture(scope="module")
def page(field: Any) -> tuple[Any, str]:
    request = EvaluationRequest(field.volumes, tune=True, sections=2)
    found = evaluate(request)
    return found, render(found, request)


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_is_fetched(page: tuple[Any, str]) -> None:
    assert not re.search(r"https?://|//[a-z]|@import|url\((?!#)", re.sub(r"data:image/png;base64,[^\"]*", "", page[1]))
    for tag, attributes in _Elements(page[1]).found:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))


def test_every_picture_decodes_and_is_described(page: tuple[Any, str]) -> None:
    pictures = [attributes for tag, attributes in _Elements(page[1]).found if tag == "img"]
    assert len(pictures) == 15
    for attributes in pictures:
        with Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").split(",", 1)[1]))) as picture:
            assert min(picture.size) > 50
            assert np.ptp(np.asarray(picture)) > 0
        assert "block" in (attributes["alt"] or "")
    charts = [attributes for tag, attributes in _Elements(page[1]).found if tag == "svg"]
    assert len(charts) == 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_the_page_says_the_verdict_the_protocol_and_what_there_is_not(page: tuple[Any, str]) -> None:
    found, text = page
    for words in (*verdict(found), *protocol_words(found)):
        assert words.replace("'", "&#39;") in text
    assert "n/a: FSC needs 16 voxels" in text
    for row in found.rows:
        assert f"{row.scores.psnr:.2f}" in text


def test_a_report_without_a_low_volume_claims_no_gain(field: Any) -> None:
    request = EvaluationRequest(dataclasses.replace(field.volumes, low=None, second=None), sections=1)
    text = render(evaluate(request), request)
    assert "do not say whether restoring helped" in text
    assert "n/a: FRC needs two independent acquisitions" in text
    assert "better than the best classical" not in text


def test_names_in_the_page_are_escaped(page: tuple[Any, str], field: Any) -> None:
    found = page[0]
    hostile = dataclasses.replace(found, protocol=dataclasses.replace(found.protocol, restored="<script>alert(1)</script>"))
    text = render(hostile, EvaluationRequest(field.volumes))
    assert "<script>" not in text


def test_charts_take_the_colour_of_the_page() -> None:
    chart = draw(
        Chart("A title", "x", "y", [Curve("one", [1, 2], [1, 10]), Curve("two", [1, 2], [3, 4], "#e8590c")], log_y=True)
    )
    assert "currentColor" in chart
    assert "#e8590c" in chart
    assert "#000000" not in chart
    ET.fromstring(chart.replace("xlink:href", "href"))  # noqa: S314  (our own drawing)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(field: Any, page: tuple[Any, str], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(page[0], EvaluationRequest(field.volumes), tmp_path / "no" / "such" / "folder.html")
