"""Fine-tuning without a file is an ordinary training, and says whether it was worth it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from small import small_training
from volumetool.cli.main import main

from volumetool.degradation import RECIPES, Crappifier
from volumetool.errors import ConfigError
from volumetool.models import Provenance, UNet, load_model, save_model
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.training.config import TrainConfig, change_config, make_config
from volumetool.training.data.phantom import phantom
from volumetool.training.data.sources import open_sources
from volumetool.training.fine_tune import CUBIC, is_certain, judge, plan_fine_tuning


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a fine volume that says nothing of its voxels' size."""
    place = tmp_path_factory.mktemp("truth") / "truth.tif"
    tifffile.imwrite(place, phantom((5, 128, 280), seed=3))
    return str(place)


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a small model that has learnt nothing, and says by which recipe it would have."""
    folder = tmp_path_factory.mktemp("beginner")
    config = small_training(folder, degradation={"recipes": ["pssr2-poisson"]})
    card = load_model("em-x4").card.model_copy(
        update={
            "name": "beginner",
            "architecture": config.architecture,
            "z_context": config.architecture.z_context,
            "granularity": config.architecture.granularity,
            "precision_safe": ("float32",),
            "provenance": Provenance(training=config.semantic()),
        }
    )
    save_model(folder / "beginner.safetensors", UNet(config.architecture), card)
    return str(folder / "beginner.safetensors")


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the overlap: that takes longer than the training."""
    monkeypatch.setattr("volumetool.training.train.measure_overlap", lambda *_: ((0, 48, 48), (0, 22, 22)))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Run a command; return its exit code and what it said on stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_plan_has_the_models_own_recipes_and_keeps_a_part_apart(truth: str) -> None:
    config = plan_fine_tuning("em-x4", truth)
    assert (config.name, config.start) == ("em-x4-tuned", "em-x4")
    assert config.degradation.recipes == ("pssr-em", "pssr2-poisson", "sem-fast")
    assert config.degradation.blur == (1.0, 1.5)  # as the card says, not the default
    (source,) = open_sources(config)
    (learnt,), (apart,) = source.parts["training"], source.parts["validation"]
    assert apart.shape == (5, 128, 96)
    assert learnt.stop[2] <= apart.start[2] - config.validation.gap
    assert config.sampling.crop == (1, 32, 40)  # what the part to learn from holds


def test_recipes_of_a_file_are_taken_from_the_card(truth: str) -> None:
    recipes = plan_fine_tuning("em-denoise", truth).degradation.recipes
    stored = load_model("em-denoise").card.provenance.training["recipes"]["recipe-slow-detector.yaml"]
    assert recipes[0] == "pssr-em"
    assert recipes[3] == Crappifier.model_validate({"name": "recipe-slow-detector.yaml", **stored})


def test_the_recipe_is_fitted_to_the_microscopes_volume(tmp_path: Path) -> None:
    fine = phantom((5, 256, 640), seed=4)
    low = RECIPES["pssr2-poisson"].apply(fine.astype(np.float32) / 255, scale=(1, 4, 4), seed=1)
    tifffile.imwrite(tmp_path / "truth.tif", fine)
    tifffile.imwrite(tmp_path / "low.tif", np.rint(low * 255).astype(np.uint8))
    (fitted,) = plan_fine_tuning("em-x4", str(tmp_path / "truth.tif"), str(tmp_path / "low.tif")).degradation.recipes
    assert isinstance(fitted, Crappifier)
    made = fitted.apply(fine.astype(np.float32) / 255, scale=(1, 4, 4), seed=2)
    assert np.std(made - low) == pytest.approx(
        np.sqrt(2) * np.std(low - fine.reshape(5, 64, 4, 160, 4).mean((2, 4)) / 255), rel=0.15
    )


def test_the_printed_file_says_the_same_training(truth: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "--from", "em-denoise", "--on", truth, "--steps", "7", "--dry-run", "-o", str(tmp_path / "run")
    )
    assert code == 0, err
    assert make_config(yaml.safe_load(out)) == change_config(plan_fine_tuning("em-denoise", truth), steps=7)
    assert "kept apart" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_unmeasured")
def test_a_model_that_gained_nothing_is_written_marked_and_told_by_code_4(
    truth: str, beginner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--from", beginner, "--on", truth, "--device", "cpu", "-o", str(tmp_path / "run"), "--json"
    code, out, err = run(capsys, *words, "--minutes", "0")
    assert code == 4, err
    told = json.loads(out)
    assert (told["kind"], told["better"]) == ("training", False)
    assert [gain["rival"] for gain in told["gains"]] == ["beginner", CUBIC]
    assert told["card"]["description"].startswith("NOT BETTER")
    assert "NO BETTER than bicubic enlargement" in err
    first = load_model(told["model"])
    assert first.card == load_model(tmp_path / "run" / "beginner-tuned.safetensors").card
    code, out, err = run(capsys, *words, "--minutes", "30")  # goes on, which here is nothing: it was at its end
    assert code == 4
    assert "begun with 1 steps" in err
    assert load_model(json.loads(out)["model"]).weights_sha256 == first.weights_sha256


def test_a_gain_over_both_is_told_and_one_over_the_start_alone_is_not_enough(truth: str, beginner: str, tmp_path: Path) -> None:
    config = change_config(plan_fine_tuning("em-x4", truth), start=beginner, degradation={"recipes": ["pssr2-poisson"]})
    path, trained = tmp_path / "tuned.safetensors", load_model("em-x4")
    save_model(path, trained.network(), trained.card)
    gains = judge(config, path)
    assert [gain.rival for gain in gains] == ["beginner", CUBIC]
    assert all(is_certain(gain) and gain.interval[0] < gain.value < gain.interval[1] for gain in gains)
    card = load_model(path).card
    assert card.description.startswith("beginner, fine-tuned")
    assert "truth.tif" in card.description
    assert load_model(path).weights_sha256 == trained.weights_sha256
    none, _ = judge(change_config(config, start="em-x4"), path)
    assert (none.value, none.interval, is_certain(none)) == (0, (0, 0), False)


def test_a_part_apart_of_less_than_a_block_still_shows_chance(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", phantom((5, 64, 140), seed=3))
    config = change_config(plan_fine_tuning("em-x2", str(tmp_path / "small.tif")), degradation={"recipes": ["pssr2-poisson"]})
    save_model(tmp_path / "m.safetensors", load_model("em-x2").network(), load_model("em-x2").card)
    _, over_cubic = judge(config, tmp_path / "m.safetensors")
    assert over_cubic.interval[1] - over_cubic.interval[0] > 0.02


@pytest.mark.parametrize("size", ["8,16,16", "8,8,4"])
def test_volumes_whose_voxels_do_not_differ_by_the_models_factors_are_refused(size: str, truth: str, tmp_path: Path) -> None:
    for name, nm in (("truth", "8,8,8"), ("low", size)):
        z, y, x = (float(part) for part in nm.split(","))
        convert_volume(plan_conversion(truth, str(tmp_path / f"{name}.zarr"), voxel_size=(z, y, x)))
    with pytest.raises(ConfigError, match="makes voxels") as refused:
        plan_fine_tuning("em-x4", str(tmp_path / "truth.zarr"), str(tmp_path / "low.zarr"))
    assert refused.value.code == "config.scale"


def test_what_is_too_small_to_keep_a_part_apart_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", phantom((8, 90, 300), seed=3))
    with pytest.raises(ConfigError, match="keep a part apart") as refused:
        plan_fine_tuning("em-x4", str(tmp_path / "small.tif"))
    assert refused.value.code == "config.too-small"


@pytest.mark.parametrize(
    "training", [{}, {"sources": 3}, {"degradation": {"recipes": ["lost.yaml"]}, "recipes": {"lost.yaml": 1}}]
)
def test_a_model_that_does_not_say_its_recipe_is_refused_without_low(
    training: dict[str, object], truth: str, beginner: str, tmp_path: Path
) -> None:
    model = load_model(beginner)
    if "recipes" in training:
        training = model.card.provenance.training | training
    card = model.card.model_copy(update={"provenance": Provenance(training=training)})
    save_model(tmp_path / "m.safetensors", model.network(), card)
    with pytest.raises(ConfigError, match="does not say by which recipe") as refused:
        plan_fine_tuning(str(tmp_path / "m.safetensors"), truth)
    assert refused.value.code == "config.recipe"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a training file is needed"),
        (("--from", "em-x4"), "--from alone"),
        (("file.yaml", "--on", "truth.tif"), "--on: of no effect"),
        (("--from", "em-x4", "--on", "truth.tif", "--steps", "3", "--minutes", "2"), "both say how long"),
    ],
)
def test_options_that_say_no_task_or_two_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert said in err


def test_a_recipe_in_the_file_is_one_of_a_file_of_its_own(tmp_path: Path) -> None:
    config: TrainConfig = small_training(tmp_path, degradation={"recipes": [RECIPES["sem-fast"].model_dump(mode="json")]})
    named = small_training(tmp_path, degradation={"recipes": ["sem-fast"]})
    assert config.semantic() == named.semantic()
