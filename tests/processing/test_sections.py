"""Bad sections: each kind is found by what its neighbours are like, and the table says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from volumetool.cli import view
from volumetool.cli.main import main

from tests.jobs.small_jobs import noise, write_input
from volumetool.errors import ConfigError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.processing.sections.judge import SectionJudge
from volumetool.processing.sections.look import FINE_MIDDLE, MIDDLE
from volumetool.processing.sections.measure import SectionMeter
from volumetool.processing.sections.quality import SectionQuality, show_sections
from volumetool.processing.statistics import Statistics
from volumetool.storage.voxels import read_voxels
from volumetool.training.data.phantom import phantom
from volumetool.viewer.layers import Layer
from volumetool.viewer.view import View

Voxels = NDArray[Any]
DEPTH, BAD = 16, 7
PLAIN = {"model": "clahe", "memory": "4GiB", "device": "cpu"}
"""Options of a job whose operation takes statistics."""


@pytest.fixture(scope="module")
def stack() -> Voxels:
    """Give sections 24 nm apart, with noise of their own."""
    drawn = phantom((3 * DEPTH, 128, 128))[::3]
    return np.clip(drawn + np.random.default_rng(0).normal(0, 6, drawn.shape), 0, 255).astype(np.uint8)


def torn(stack: Voxels) -> Voxels:
    harmed = stack[BAD].copy()
    harmed[30:70] = 235
    return harmed


HARMS: dict[str, tuple[str, Callable[[Voxels], Voxels]]] = {
    "lost": ("blank", lambda stack: np.zeros_like(stack[BAD])),
    "blank": ("blank", lambda stack: noise(stack[BAD].shape) // 16 + 120),
    "damaged": ("damaged", torn),
    "doubled": ("doubled", lambda stack: stack[BAD - 1]),
    "twice": ("doubled", lambda stack: stack[BAD + 1]),
    "shifted": ("shifted", lambda stack: np.roll(stack[BAD], (9, -12), axis=(0, 1))),
    "soft": ("soft", lambda stack: ndimage.gaussian_filter(stack[BAD], 2.0)),
}


def exits_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def verdicts(stack: Voxels) -> tuple[dict[int, str], SectionJudge]:
    meter = SectionMeter()
    for z, section in enumerate(stack):
        meter.add(z, section, np.ones(section.shape, bool), section)
    judge = SectionJudge(meter.found)
    return dict(judge.verdicts()), judge


@pytest.mark.parametrize("harm", HARMS)
def test_a_bad_section_is_found_and_named_and_its_neighbours_are_not(stack: Voxels, harm: str) -> None:
    verdict, make = HARMS[harm]
    harmed = stack.copy()
    harmed[BAD] = make(stack)
    found, judge = verdicts(harmed)
    assert found == {BAD: verdict}
    if verdict == "shifted":
        assert judge.displacement(BAD)[:2] == pytest.approx((9, -12), abs=1.0)


def test_good_sections_are_called_bad_in_no_stack_and_blank_ones_in_the_smallest(stack: Voxels) -> None:
    assert verdicts(stack)[0] == {}
    assert verdicts(noise((DEPTH, 64, 64)))[0] == {}
    assert verdicts(np.repeat(stack[:1], DEPTH, axis=0))[0] == {}
    few = stack[:3].copy()
    few[1] = 0
    assert verdicts(few)[0] == {1: "blank"}


def test_brightness_and_contrast_of_a_whole_section_make_it_no_bad_one(stack: Voxels) -> None:
    flickering = stack.copy()
    flickering[BAD] = stack[BAD] * 0.7 + 60
    assert verdicts(flickering)[0] == {}


def test_the_plan_and_the_view_list_bad_sections_and_the_table_says_what_was_measured(
    stack: Voxels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmed = stack.copy()
    harmed[BAD], harmed[12:14] = torn(stack), 0
    write_input(tmp_path / "in.zarr", harmed)
    decided = plan(make_job(**PLAIN, input=str(tmp_path / "in.zarr"), output=str(tmp_path / "out.zarr")))
    assert (
        dict(describe_plan(decided))["sections"] == f"3 of {DEPTH} unlike the others, whole looked at: blank 12-13; damaged 7"
    )
    view._tell_sections(View(None, [Layer("out", None, job=decided), Layer("out 2", None, job=decided)], (0,)))
    assert capsys.readouterr().err.count("damaged 7") == 1
    assert [note for note in decided.notes if "3 of 16 sections look unlike the others: 7, 12-13" in note]
    rows = [line.split(",") for line in decided.spec.statistics.to_csv().splitlines()]
    assert rows[0] == ["channel", "z", "low", "high", "noise", "sharpness", "shift_y", "shift_x", "correlation", "verdict"]
    assert [row[-1] for row in rows[1:]].count("ok") == DEPTH - 3
    assert 3 < float(rows[1][4]) < 9  # the noise of 6 grey levels
    again = Statistics.from_csv(decided.spec.statistics.to_csv(), 1, DEPTH)
    assert again == decided.spec.statistics
    assert again.quality is not None
    assert again.quality.bad(0) == {7: "damaged", 12: "blank", 13: "blank"}


def test_a_dry_run_writes_the_table_that_is_not_there_and_the_run_takes_it(stack: Voxels, tmp_path: Path) -> None:
    write_input(tmp_path / "in.zarr", stack)
    table = tmp_path / "sections.csv"
    arguments = [
        "enhance",
        str(tmp_path / "in.zarr"),
        str(tmp_path / "out.zarr"),
        "--statistics",
        str(table),
        "--device",
        "cpu",
    ]
    arguments += ["--model", "clahe", "--dry-run"]
    exits_well(arguments)
    table.write_text(table.read_text().replace("ok", "soft", 1))
    before = table.read_bytes()
    exits_well(arguments)
    assert table.read_bytes() == before
    assert not (tmp_path / "out.zarr").exists()
    decided = plan(make_job(**PLAIN, input=arguments[1], output=arguments[2], statistics=str(table)))
    assert "soft 0" in dict(describe_plan(decided))["sections"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("ok", "lost"), ("section 0", "'lost' is no verdict", "blank, damaged")),
        (("noise", "NOISE"), ()),
        (("0.5,ok", "nan,ok"), ("section 0", "correlation is 'nan'")),
        ((",ok", ""), ("section 0", "'' is no verdict")),
    ],
)
def test_a_table_with_a_wrong_verdict_is_refused_and_columns_of_figures_may_be_left_out(
    edit: tuple[str, str], words: tuple[str, ...]
) -> None:
    quality = SectionQuality.of((("ok", "blank"),), {"correlation": np.full((1, 2), 0.5)})
    text = Statistics(np.zeros((1, 2)), np.ones((1, 2)), quality=quality).to_csv().replace(*edit, 1)
    if not words:
        assert Statistics.from_csv(text, 1, 2).quality is not None
        return
    with pytest.raises(ConfigError) as caught:
        Statistics.from_csv(text, 1, 2)
    assert caught.value.code == "config.statistics"
    assert all(word in caught.value.message for word in words)


@pytest.mark.parametrize("levels", [1, 4])
def test_of_large_sections_a_coarse_level_or_the_middle_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int
) -> None:
    """The cost of looking is bounded, and the plan says what was looked at."""
    voxels = np.random.default_rng(0).integers(0, 255, (3, 1100, 1100), np.uint8)
    write_input(tmp_path / "in.zarr", voxels, chunk=(1, 256, 256), levels=levels, voxel_size=(32.0, 8.0, 8.0))
    read: list[int] = []

    def counting(store: Any, box: Any, what: str, *more: Any) -> Voxels:
        read.append(box.voxels)
        return read_voxels(store, box, what, *more)

    monkeypatch.setattr("volumetool.processing.sections.look.read_voxels", counting)
    decided = plan(make_job(**PLAIN, input=str(tmp_path / "in.zarr"), output=str(tmp_path / "out.zarr")))
    seen = dict(describe_plan(decided))["sections"]
    assert ("whole, on level" if levels > 1 else f"the middle {MIDDLE} x {MIDDLE} voxels of level 0") in seen
    assert sum(read) <= 3 * (MIDDLE**2 + FINE_MIDDLE**2)


def test_runs_of_sections_are_named_by_their_ends() -> None:
    assert show_sections([1, 2, 3, 7]) == "1-3, 7"
    assert show_sections(range(0, 60, 2), most=2) == "0, 2 and 28 more"
