"""Networks run anywhere in a volume as over the whole of it, and what they say of their errors is held against these."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from volumetool.cli.main import main

from volumetool.evaluation.baselines import Z_REACH, z_gauss
from volumetool.evaluation.evaluate import EvaluationRequest, evaluate
from volumetool.evaluation.network import Network
from volumetool.evaluation.report import render
from volumetool.evaluation.scores.align import Matched, Volumes
from volumetool.evaluation.scores.expected_error import HALF_WIDTH, ErrorTally, covering_factor
from volumetool.geometry import Box
from volumetool.models import Model, ModelCard, Normalisation, UNet, UNetConfig, save_model
from volumetool.storage.volume import Volume
from volumetool.training.restore import restore_volume, safe_margin

PLAIN = Normalisation(kind="none")


def _model(config: UNetConfig, change: Callable[[UNet], None] | None = None, error_factor: float | None = None) -> Model:
    torch.manual_seed(0)
    network = UNet(config).eval().requires_grad_(requires_grad=False)
    if change is not None:
        change(network)
    card = ModelCard(
        name="made-by-hand",
        description="test",
        licence="MIT",
        dims=config.dims,
        scale=config.scale,
        z_context=config.z_context,
        patch=(16, 32, 32) if config.dims == 3 else (1, 32, 32),
        overlap=(0, 0, 0),
        trim=(0, 0, 0),
        granularity=config.granularity,
        receptive_field=safe_margin(config),
        normalisation=PLAIN,
        error_factor=error_factor,
        architecture=config,
    )
    return Model(card, "made-by-hand", network.state_dict())


@pytest.mark.parametrize("sigma", [0.0, 0.8])
@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(width=4, pools=((1, 2, 2),)),
        UNetConfig(width=4, pools=((1, 2, 2),), z_context=2, gate=True),
        UNetConfig(width=4, pools=((2, 2, 2),), dims=3, scale=(2, 4, 4)),
    ],
    ids=["2D", "2.5D", "3D"],
)
def test_a_network_gives_at_any_place_what_it_gives_over_the_whole_volume(
    field: Any, deep: Any, config: UNetConfig, sigma: float
) -> None:
    data = deep if config.dims == 3 else field
    model = _model(config)
    padded = np.pad(data.low.astype(np.float32), ((Z_REACH, Z_REACH), (0, 0), (0, 0)), mode="reflect")
    smoothed = np.stack([z_gauss(padded[z : z + 2 * Z_REACH + 1], sigma) for z in range(len(data.low))])
    whole = restore_volume(model.network(), smoothed, PLAIN)  # type: ignore[arg-type]
    depth, height, width = data.truth.shape
    for box in (Box((0, 0, 0), (1, height, width)), Box((depth - 1, 13, 6), (depth, 41, 59))):
        there = Network(model, Matched(data.volumes)).restore(box, sigma)
        np.testing.assert_allclose(there, whole[box.slices], atol=1e-2)


def _say_error(network: UNet) -> None:
    """Make a network that changes nothing and expects an error that grows with the grey value x: exp(x - 1)."""
    for parameter in network.parameters():
        parameter.zero_()
    assert network.error_head is not None
    for layer in (network.stem, network.error_head[1], network.error_head[3]):
        layer.weight[0, 0, 1, 1] = 1.0
    network.error_head[3].bias.fill_(-1.0)


@pytest.fixture
def wrong_by_two(tmp_path: Path, write_volume: Callable[..., Volume]) -> Volumes:
    """Give volumes whose errors follow Laplace distributions twice as wide as `_say_error` expects."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*map(np.arange, (3, 128, 160)), indexing="ij")
    low = (1 + np.sin(y / 30) * np.cos(x / 40 + z)).astype(np.float32)
    truth = low + rng.laplace(0, 2 * np.exp(low - 1)).astype(np.float32)
    size = (8.0, 4.0, 4.0)
    return Volumes(*(write_volume(tmp_path / name, voxels, size) for name, voxels in (("r", low), ("t", truth), ("l", low))))


def test_expected_errors_are_held_against_those_that_are_known(wrong_by_two: Volumes) -> None:
    config = UNetConfig(width=1, pools=(), scale=(1, 1, 1), expected_error=True)
    found = evaluate(
        EvaluationRequest(wrong_by_two, data_range=4, model=_model(config, _say_error, error_factor=2.0))
    ).expected_error
    assert found is not None
    assert found.coverage == pytest.approx(1 - math.exp(-HALF_WIDTH / 2), abs=0.005)  # 68.4 %
    assert found.calibrated_coverage == pytest.approx(0.9, abs=0.005)
    assert found.made == pytest.approx(2 * found.expected, rel=0.01)
    assert found.correlation > 0.95
    assert found.blocks == 3 * (128 // 32) * (160 // 32)


def test_the_calibration_is_the_factor_that_was_missing_and_makes_intervals_right_whatever_the_distribution() -> None:
    rng = np.random.default_rng(0)
    expected = rng.uniform(1, 9, (512, 512)).astype(np.float32)
    assert covering_factor(expected, rng.laplace(0, 1.7 * expected).astype(np.float32)) == pytest.approx(1.7, rel=0.01)
    made = np.abs(rng.normal(0, expected * math.sqrt(math.pi / 2))).astype(np.float32)
    tally = ErrorTally(covering_factor(expected, made), 10**6)
    tally.add(expected, made)
    assert tally.result().coverage == pytest.approx(0.934, abs=0.003)
    assert tally.result().calibrated_coverage == pytest.approx(0.9, abs=1e-4)


def test_errors_that_have_nothing_to_do_with_the_expected_ones_do_not_correlate_and_few_blocks_are_kept() -> None:
    rng = np.random.default_rng(0)
    tally = ErrorTally(1.0, 100)
    for _ in range(4):
        tally.add(*rng.uniform(1, 2, (2, 640, 640)).astype(np.float32))
    assert tally.result().blocks == 400
    assert abs(tally.result().correlation) < 0.2
    flat = ErrorTally(None, 100)
    flat.add(np.ones((20, 20), np.float32), np.ones((20, 20), np.float32))
    assert math.isnan(flat.result().correlation)


def test_a_row_tells_what_the_model_makes_of_sections_that_were_filtered_along_z(field: Any) -> None:
    model = _model(UNetConfig(width=4, pools=((1, 2, 2),)))
    request = EvaluationRequest(field.volumes, sections=2, tune=True, model=model)
    found = evaluate(request)
    row = found.rows[-1]
    assert row.name == "z-gauss, then made-by-hand"
    assert row.tuned
    assert all(gain.rival != row.name for gain in found.gains)
    assert found.expected_error is None
    network = Network(model, Matched(field.volumes))
    sections = [np.rint(np.clip(network.restore(Box((z, 0, 0), (z + 1, 200, 236)), *row.strength), 0, 255)) for z in (1, 3)]
    error = np.mean((np.concatenate(sections) - field.truth[[1, 3]]) ** 2)
    assert row.scores.psnr == pytest.approx(10 * math.log10(255**2 / error), abs=1e-6)
    assert row.name in render(found, request)


def test_the_command_takes_the_model_and_says_what_it_expects(
    wrong_by_two: Volumes, field: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes = wrong_by_two
    config = UNetConfig(width=1, pools=(), scale=(1, 1, 1), expected_error=True)
    model = _model(config, _say_error, error_factor=2.0)
    save_model(tmp_path / "m.safetensors", model.network(), model.card)

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *map(str, arguments), "--model", str(tmp_path / "m.safetensors")])
        return int(ended.value.code or 0)

    where = (volumes.restored.url, volumes.truth.url, "--data-range", 4, "--sections", 1)
    report = tmp_path / "r.html"
    assert run(*where, "--low", volumes.low.url, "--json", "--report", report) == 0
    found = json.loads(capsys.readouterr().out)["expected_error"]
    assert found["factor"] == 2
    assert f"{found['calibrated_coverage']:.1%} with the card&#39;s factor 2" in report.read_text()
    assert run(*where, "--low", volumes.low.url) == 0
    assert "rank correlation over 20 blocks" in " ".join(capsys.readouterr().out.split())
    assert run(*where) == 2
    assert "config.model" in capsys.readouterr().err
    v: Volumes = field.volumes
    assert isinstance(v.low, Volume)
    assert run(v.restored.url, v.truth.url, "--low", v.low.url) == 2
    assert "(1, 4, 4) times coarser" in " ".join(capsys.readouterr().err.split())
