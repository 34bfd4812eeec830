"""Advice says what settings give and cost, from the recipe, the models and the scores that users have themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_jobs import write_input
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ConfigError
from volumetool.evaluation.advice import Advice

SIZE = (30.0, 28.0, 28.0)  # of which only a denoiser makes pixels


def texture(shape: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), (0.5, 2, 2))
    return np.clip(128 + 350 * smooth, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a fine volume."""
    place = tmp_path_factory.mktemp("advice")
    write_input(place / "truth.zarr", texture((3, 96, 90)), voxel_size=SIZE)
    return place


@pytest.fixture(scope="module")
def advice(folder: Path) -> Advice:
    """Give advice on two dwell times."""
    return vt.advise(folder / "truth.zarr", dwell=(0.1, 1.6), tissue=2, current=3, report=folder / "advice.html")


def test_a_longer_dwell_costs_more_beam_and_gives_more(advice: Advice) -> None:
    short, long = advice.settings
    assert (short.dwell_us, long.dwell_us) == (0.1, 1.6)
    assert short.psnr < long.psnr
    assert short.ssim < long.ssim
    assert long.psnr > long.psnr_bilinear  # at this scale the noisy image itself
    assert short.worth
    assert long.worth
    assert long.beam_days == pytest.approx(2e18 / (30 * 28 * 28) * 1.6e-6 / 86400)
    assert long.dose == pytest.approx(3e-9 * 1.6e-6 / 1.602176634e-19 / 28**2)
    assert short.beam_days == pytest.approx(long.beam_days / 16)
    assert short.frc_nm is not None
    assert short.frc_nm >= 56
    assert {(each.pixel_nm, each.model) for each in advice.settings} == {(28, "em-denoise")}
    assert [reason.partition(":")[0] for reason in advice.left_out] == ["56 nm", "112 nm"]
    assert str(advice.box) == "0:3,0:96,1:89"


def test_the_page_shows_table_chart_and_pictures(advice: Advice, folder: Path) -> None:
    page = (folder / "advice.html").read_text()
    assert page.count("<img ") == 3
    assert page.count("<svg ") == 1
    assert f"{advice.settings[1].psnr:.2f}" in page
    assert page.count('class="best"') == 2
    assert advice.left_out[0] in page


def test_the_command_prints_what_the_function_returns(
    advice: Advice, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("volumetool.evaluation.advice.advise", lambda *_, **__: advice)
    with pytest.raises(SystemExit) as ended:
        main(["advise", str(folder / "truth.zarr"), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("kind") == "advice"
    assert printed == json.loads(json.dumps(advice.as_dict()))
    with pytest.raises(SystemExit):
        main(["advise", str(folder / "truth.zarr")])
    assert "em-denoise" in capsys.readouterr().out


def test_what_nothing_can_be_said_of_is_refused(folder: Path, tmp_path: Path) -> None:
    write_input(tmp_path / "small.zarr", texture((1, 40, 90)), voxel_size=SIZE)
    with pytest.raises(ConfigError, match="40 x 88 voxels") as small:
        vt.advise(tmp_path / "small.zarr")
    write_input(tmp_path / "coarse.zarr", texture((1, 90, 90)), voxel_size=(30, 900, 900))
    with pytest.raises(ConfigError, match="no built-in model") as coarse:
        vt.advise(tmp_path / "coarse.zarr")
    assert small.value.code == coarse.value.code == "config.advice"
    with pytest.raises(ConfigError, match="dwell"):
        vt.advise(folder / "truth.zarr", dwell="0.1,0")
    with pytest.raises(ConfigError) as unknown:
        vt.advise(folder / "truth.zarr", recipe="nonsense")
    assert unknown.value.code == "config.recipe"
