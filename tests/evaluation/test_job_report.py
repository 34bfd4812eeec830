"""The report of a job stands on its own, shows what was done by whom, and obeys no name that it shows."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_jobs import SMALL, noise, run, write_input
from volumetool.cli.main import main

from volumetool.errors import OutputError
from volumetool.evaluation import job_report
from volumetool.evaluation.job_report import render_job, write_job_report
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.timeline import PAUSE, Timeline

HOSTILE = "o\"'><script>alert(1)<\n{{ 7 * 7 }}.zarr"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Run a job whose places and one failure have hostile names; a region that failed is done since."""
    folder = tmp_path_factory.mktemp("report")
    source = write_input(folder / f"in{HOSTILE}", noise((8, 64, 96)), chunk=(8, 64, 64))
    broken = source / "0/c/0/0/1"
    whole = broken.read_bytes()
    broken.write_bytes(b"no chunk")
    options = SMALL | {"model": "fake:identity?scale=1,2,2&patch=1,16,16&overlap=0,4,4", "shard": "8,32,32", "region": "1,1,1"}
    outcome = run(input=str(source), output=str(folder / HOSTILE), **options)
    assert outcome.failed > 1
    broken.write_bytes(whole)
    box = {
        "region": 0,
        "state": "failed",
        "error": {"code": "data.<b>", "message": "https://user:s3cret@h.example/<img src=x>"},
    }
    outcome = run(input=str(source), output=str(folder / HOSTILE), **options)
    assert outcome.complete
    ledger = open_ledger(outcome.plan)
    ledger.begin()
    ledger.append(Record(**box))
    ledger.flush()
    return stored_plan(outcome.plan.output)


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_job_of_hostile_names_fetches_nothing_and_runs_its_one_script_alone(job: Plan) -> None:
    text = render_job(job)
    page = Elements(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text)
    policy = next(found["content"] or "" for tag, found in page.found if found.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert sum(tag == "script" for tag, _ in page.found) == 1
    for tag, attributes in page.found:
        assert tag not in ("link", "iframe", "object", "b")
        assert not [name for name in attributes if name.startswith("on")]
        assert all((attributes.get(name) or "#").startswith(("data:image/png;base64,", "#")) for name in ("src", "href"))
    assert "alert(1)" in "".join(page.texts)
    assert "{{ 7 * 7 }}" in "".join(page.texts)
    assert "s3cret" not in text


def test_sections_are_shown_raw_beside_enhanced_with_the_same_field_in_both(job: Plan) -> None:
    pictures = [found for tag, found in Elements(render_job(job)).found if tag == "img"]
    assert len(pictures) in (2, 4)
    for raw, enhanced in zip(pictures[::2], pictures[1::2], strict=True):
        assert (raw["alt"] or "").startswith("input, ")
        assert (enhanced["alt"] or "").startswith("output, ")
        small, large = (
            Image.open(io.BytesIO(base64.b64decode((each["src"] or "").split(",", 1)[1]))) for each in (raw, enhanced)
        )
        assert large.size == (2 * small.width, 2 * small.height)
        # The fake model repeats voxels: what is shown of both is the same.
        assert np.abs(np.asarray(large, int)[::2, ::2] - np.asarray(small, int)).max() <= 1


def test_failures_are_counted_by_code_as_they_are_now_and_as_far_as_they_were_mended(job: Plan) -> None:
    now, mended = sorted(job_report._failures(open_ledger(job)), key=lambda each: each.code)
    assert (now.code, now.now, now.mended) == ("data.<b>", 1, 0)
    assert (mended.code, mended.now) == ("data.unreadable", 0)
    assert mended.mended > 1


def test_an_input_that_is_gone_is_said_and_the_output_shown_alone(job: Plan) -> None:
    moved = job.model_copy(update={"job": job.job.model_copy(update={"input": "/nowhere.zarr"})})
    text = render_job(moved)
    assert "The input cannot be read" in text
    assert all((found["alt"] or "").startswith("output") for tag, found in Elements(text).found if tag == "img")


def test_a_stored_job_whose_input_leads_into_a_private_network_is_not_followed(job: Plan) -> None:
    moved = job.model_copy(update={"job": job.job.model_copy(update={"input": "http://127.0.0.1:9/in.zarr"})})
    assert "The input cannot be read" in render_job(moved)


def test_the_commands_write_the_page(job: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filtered = ["apply", "median:radius=0,1,1", job.job.input, str(tmp_path / "out.zarr"), "--workers=1"]
    for name, words in (("job", ["status", job.output]), ("filtered", filtered)):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--report", str(tmp_path / f"{name}.html")])
        assert ended.value.code in (0, None)
        assert f"report: {tmp_path / name}.html" in capsys.readouterr().err
    assert "median" in (tmp_path / "filtered.html").read_text()
    with pytest.raises(OutputError):
        write_job_report(job.output, tmp_path / "nowhere" / "page.html")


def test_throughput_adds_up_to_all_voxels_and_leaves_pauses_out() -> None:
    timeline = Timeline()
    for finished, seconds in ((10.0, 10.0), (20.0, 20.0), (20.0 + 100 * PAUSE, 10.0)):
        timeline.add(Record(0, "done", worker="a:1", finished=finished, seconds=seconds), 6_000_000)
    hours, rates = timeline.throughput(3)
    assert hours.tolist() == pytest.approx([0, 10 / 3600, 20 / 3600, 30 / 3600])
    assert rates.tolist() == pytest.approx([0.9, 0.3, 0.6])


def test_a_job_of_which_nothing_is_done_has_a_report(job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = job_report.open_ledger

    def nothing(plan: Plan) -> Any:
        ledger = real(plan)
        ledger.states[:] = 0
        return ledger

    monkeypatch.setattr(job_report, "open_ledger", nothing)
    assert "No region is done yet" in render_job(job)
