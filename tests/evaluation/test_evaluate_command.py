"""``volumetool evaluate`` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from volumetool.cli.main import main

from volumetool.evaluation.blind_rating import KEY


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_scores_report_and_json_say_the_same(field: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    v = field.volumes
    code = _run(
        v.restored.url, v.truth.url, "--low", v.low.url, "--second", v.second.url, "--sections", 2,
        "--roi", ":,0:192,:", "--report", tmp_path / "r.html", "--json",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["protocol"]["box"] == {"start": [0, 0, 0], "stop": [4, 192, 236]}
    assert found["protocol"]["data_range"] == 255
    text = (tmp_path / "r.html").read_text()
    assert f"{found['rows'][0]['scores']['psnr']:.2f}" in text
    assert found["frc"]["crossings"][0]["words"] in text


def test_without_json_people_read_a_table_and_the_verdict(field: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(field.volumes.restored.url, field.volumes.truth.url, "--sections", 1) == 0
    streams = capsys.readouterr()
    assert "do not say whether restoring helped" in streams.out
    assert "restored" in streams.out
    assert "n/a: FRC needs two independent acquisitions" in " ".join(streams.out.split())
    assert "Data range" in streams.err


def test_a_kit_is_written_and_counted(field: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "kit"
    assert _run(field.volumes.restored.url, field.volumes.truth.url, "--blind", kit) == 0
    rows = [line.split(",") for line in (kit / KEY).read_text().splitlines()[1:]]
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("kit,trial,choice,seconds\n" + "".join(f"{row[0]},{row[1]},left,2\n" for row in rows))
    assert _run("--unblind", kit, ratings) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_a_box_beyond_the_truth_is_said(field: Any, capsys: pytest.CaptureFixture[str]) -> None:
    restored, truth = field.volumes.restored, field.volumes.truth
    assert _run(restored.url, truth.url, "--roi", f"0:{truth.shape[0] + 3},:,:", "--sections", 1) == 0
    assert f"0:{truth.shape[0]},0:{truth.shape[1]},0:{truth.shape[2]} is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "config.option"),
        (("{restored}",), "config.option"),
        (("{restored}", "nowhere.zarr"), "input.not-found"),
        (("{restored}", "{low}"), "input.voxel-size-mismatch"),
        (("{restored}", "{truth}", "--second", "{restored}"), "config.second"),
        (("{restored}", "{truth}", "--roi", "0:1,2"), "config.option"),
        (("{restored}", "{truth}", "--roi", "9:12,:,:"), "config.roi"),
        (("{restored}", "{truth}", "--tune"), "config.tune"),
        (("{restored}", "{truth}", "--data-range", "0"), "config.data-range"),
        (("--unblind", "nowhere"), "config.option"),
        (("--unblind", "nowhere", "ratings.csv"), "input.not-found"),
    ],
)
def test_a_wrong_command_exits_2_with_a_code(
    field: Any, arguments: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = {name: getattr(field.volumes, name).url for name in ("restored", "truth", "low")}
    assert _run(*(argument.format(**urls) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert f"[{code}]" in error
    assert "bug" not in error
