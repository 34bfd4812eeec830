"""Curves of this machine: what is measured, and what is said of it. Never a speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from volumetool.cli.main import main

from volumetool.benchmark import profile as module
from volumetool.benchmark.profile import Curves, NetworkRate, measure_curves
from volumetool.processing.operation import open_operation

MODEL = "fake:identity?patch=1,40,40&overlap=0,8,8&trim=0,1,1&scale=1,2,2"


@pytest.fixture(autouse=True)
def few_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIDE", 64)


def test_a_rate_counts_the_voxels_that_are_new(tmp_path: Path) -> None:
    """A patch adds its stride to the output: overlap is no gain."""
    found = measure_curves(open_operation(MODEL), "cpu", 1, tmp_path)
    for rate in found.network:
        new = (rate.patch[1] - 8) * (rate.patch[2] - 8) * 4
        assert rate.mvox_per_s == pytest.approx(rate.patches_per_s * new / 1e6)
    assert {rate.patch for rate in found.network} == {(1, 20, 20), (1, 30, 30), (1, 40, 40), (1, 50, 50), (1, 60, 60)}
    assert [codec.name for codec in found.codecs] == ["zstd 1", "zstd 3", "zstd 6", "zstd 9"]
    assert all(0 < codec.stored < 1 for codec in found.codecs)
    assert not list(tmp_path.iterdir())


def test_the_liked_patch_is_the_one_with_most_new_voxels() -> None:
    card = NetworkRate("float32", 1, 1, (1, 40, 40), 10.0, 5.0)
    faster = NetworkRate("float32", 2, 1, (1, 40, 40), 12.0, 6.0)
    large = NetworkRate("float32", 2, 1, (1, 60, 60), 6.0, 7.5)
    assert Curves("m", (card, faster, large), (), 1.0, 1.0).liked == (faster, large)
    assert Curves("m", (card, faster), (), 1.0, 1.0).liked == (faster, faster)


def test_the_command_prints_data_alone_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--curves", "--model", MODEL, "--device", "cpu", "--scratch", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "curves"
    assert set(found["liked"]) == {"patch", "gain"}
    assert found["liked"]["gain"] >= 0
