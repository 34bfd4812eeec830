"""A training ends with a model that enhances, a card that is complete, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from small import ARCHITECTURE, Told, small_options, small_training, write_source
from volumetool.cli.main import main

from volumetool.errors import ConfigError
from volumetool.jobs.api import enhance
from volumetool.models import Metric, Provenance, UNet, load_model
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.open import open_volume
from volumetool.training.config import TrainConfig
from volumetool.training.data.held_out import held_out
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import open_sources
from volumetool.training.restore import grey_limits, restore_volume
from volumetool.training.train import find_no_gain, make_card, train

pytestmark = pytest.mark.xdist_group("train")  # tests of one training in one process

KINDS: dict[str, dict[str, Any]] = {
    "2.5d": {"architecture": ARCHITECTURE | {"z_context": 1}},
    "3d": {
        "architecture": {"dims": 3, "scale": [2, 2, 2], "width": 4, "pools": [[2, 2, 2]]},
        "sampling": {"crop": [8, 16, 16], "acquisitions": 1, "crops": 1},
        "card": {"stride": [16, 16, 16]},
    },
    "thick": {
        "architecture": {"dims": 3, "scale": [4, 1, 1], "width": 4, "pools": [[1, 2, 2]]},
        "sampling": {"crop": [4, 16, 16], "acquisitions": 1, "crops": 1},
        "card": {"stride": [16, 16, 16]},
    },
    "denoise": {"architecture": ARCHITECTURE | {"scale": [1, 1, 1]}},
}

SHAPE = (8, 20, 24)
"""Voxels of the stack that is enhanced."""


def enhanced_shape(model: Path, folder: Path) -> tuple[int, int, int]:
    """Enhance a small stack and return the shape of what was made of it."""
    stack = tifffile.imread(write_source(folder))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    tifffile.imwrite(folder / "coarse.tif", stack)
    convert_volume(plan_conversion(str(folder / "coarse.tif"), str(folder / "coarse.zarr"), voxel_size=(16, 16, 16)))
    enhance(str(folder / "coarse.zarr"), str(folder / "fine.zarr"), model=str(model), force_voxel_size=True)
    return open_volume(str(folder / "fine.zarr")).shape


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind != "thick" else kind for kind in KINDS])
def test_what_is_trained_enhances(kind: str, tmp_path: Path) -> None:
    write_source(tmp_path, (32, 48, 48) if kind == "thick" else (64, 64, 64))  # 3D convolutions take long
    config = small_training(tmp_path, **KINDS[kind], steps=2)
    path = train(config, tmp_path / "run", Told())
    scale = load_model(path).card.scale
    assert scale == config.architecture.scale
    assert enhanced_shape(path, tmp_path) == tuple(np.multiply(SHAPE, scale))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """Train once; return what was asked for, and the folder of the training."""
    folder = tmp_path_factory.mktemp("trained")
    source = small_options(folder)["sources"][0] | {"cite": "A phantom", "licence": "CC0"}
    card_options = {"description": "For tests.", "licence": "CC0-1.0", "stride": [1, 32, 32]}
    config = small_training(folder, sources=[source], card=card_options)
    train(config, folder / "run", Told())
    return config, folder / "run"


def test_what_is_trained_on_sections_enhances(trained: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    assert enhanced_shape(trained[1] / "small.safetensors", tmp_path) == tuple(np.multiply(SHAPE, (1, 4, 4)))


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the overlap: that takes several times as long as the training."""
    monkeypatch.setattr("volumetool.training.train.measure_overlap", lambda *_: ((0, 8, 8), (0, 2, 2)))


def test_the_card_says_what_the_model_was_made_of(trained: tuple[TrainConfig, Path]) -> None:
    config, run = trained
    card = load_model(run / "small.safetensors").card
    assert (card.name, card.description, card.licence) == ("small", "For tests.", "CC0-1.0")
    assert card.provenance.data == ("A phantom (CC0), voxels of 8 x 8 x 8 nm",)
    assert card.voxel_size is not None
    assert card.voxel_size.smallest == (1, 16, 16)
    assert card.voxel_size.largest == (1000, 64, 64)
    assert "pssr-em" in card.provenance.recipe
    assert card.provenance.training.items() >= config.semantic().items()
    assert card.provenance.training["recipes"].keys() == set(config.degradation.recipes)
    methods = {(metric.protocol.split()[0], metric.method) for metric in card.provenance.metrics}
    assert methods == {(recipe, method) for recipe in config.degradation.recipes for method in ("linear", "net")}
    assert card.overlap[1] - 2 * card.trim[1] > 0


@pytest.mark.usefixtures("_unmeasured")
def test_the_card_keeps_the_factor_with_which_expected_errors_cover_those_held_out(
    trained: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config = small_training(tmp_path, architecture=ARCHITECTURE | {"expected_error": True})
    sampler = Sampler(open_sources(config), config)
    network = UNet(config.architecture).eval().requires_grad_(requires_grad=False)
    assert network.error_head is not None
    network.error_head[3].weight.zero_()
    network.error_head[3].bias.fill_(np.log(0.02))
    errors = []
    for volume in held_out(sampler):
        low, high = grey_limits(volume.coarse, config.normalisation)
        restored = restore_volume(network, volume.coarse, config.normalisation)
        errors.append(np.quantile(np.abs(restored - volume.fine), 0.9) / (0.02 * np.log(10) * (high - low)))
    assert make_card(network, sampler).error_factor == pytest.approx(np.mean(errors), rel=1e-4)
    _, run = trained
    assert load_model(run / "small.safetensors").card.error_factor is None


def test_curves_and_pictures_lie_beside_the_model(trained: tuple[TrainConfig, Path]) -> None:
    _, run = trained
    history = json.loads((run / "history.json").read_text())
    assert [point["step"] for point in history] == [1, 2, 3, 4]
    with Image.open(run / "preview.png") as picture:
        assert np.ptp(np.asarray(picture)) > 200
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 500


@pytest.mark.usefixtures("_unmeasured")
def test_a_finished_training_run_again_changes_nothing_and_overwrite_begins_anew(tmp_path: Path) -> None:
    config = small_training(tmp_path)
    first = load_model(train(config, tmp_path / "run", Told())).weights_sha256
    told = Told()
    assert load_model(train(config, tmp_path / "run", told)).weights_sha256 == first
    assert told.steps == []
    train(small_training(tmp_path, seed=3), tmp_path / "run", told, overwrite=True)
    assert told.steps == [1, 2, 3, 4]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        train(small_training(tmp_path), tmp_path / "run", Told())
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.usefixtures("_unmeasured")
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(small_options(tmp_path, steps=9)))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--dry-run", "--json"])
    assert ended.value.code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kind"] == "training-plan"
    assert plan["sources"][0]["validation"] > 0
    assert not (tmp_path / "small").exists()
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--output", str(tmp_path / "run"), "--steps", "2", "--json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "training"
    assert said["model"] == str(tmp_path / "run" / "small.safetensors")
    assert said["card"]["name"] == "small"


def test_a_wrong_option_ends_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("name: x\nsources: [{path: nowhere.tif}]\nstepz: 3\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file)])
    assert ended.value.code == 2
    assert "did you mean steps" in capsys.readouterr().err


@pytest.mark.parametrize(("net", "said"), [(30.02, True), (29.0, True), (30.5, False)])
def test_a_model_that_is_no_better_than_its_input_is_said(net: float, *, said: bool) -> None:
    metrics = tuple(Metric(dataset="d", protocol="p", method=m, psnr=v, ssim=0.9) for m, v in (("linear", 30.0), ("net", net)))
    card = load_model("em-denoise").card
    note = find_no_gain(card.model_copy(update={"provenance": Provenance(metrics=metrics)}))
    assert (note is not None) == said
    assert note is None or "changing nothing" in note
    assert find_no_gain(card.model_copy(update={"provenance": Provenance()})) is None
