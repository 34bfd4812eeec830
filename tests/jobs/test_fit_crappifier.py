"""From two volumes on disk to a recipe file that the next command takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from volumetool.cli.main import main

from volumetool.benchmark.demo import write_volume
from volumetool.degradation import Crappifier, load_recipe
from volumetool.degradation.noise import Gaussian, Shot
from volumetool.degradation.optics import Reduce
from volumetool.errors import ConfigError
from volumetool.training.data.crappification import Crappification, crappify_volume, plan_crappification
from volumetool.training.data.recipe_fit import fit_recipe

NOISE = Crappifier(name="noise", steps=(Reduce(mode="centre"), Shot(dose=60), Gaussian(sd=9)))


def blobs(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).standard_normal((6, 200, 200), dtype=np.float32)
    return (128 + 60 * np.sign(ndimage.gaussian_filter(noise, (0, 6, 6)))).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in (("truth", 1), ("other", 2)):
        write_volume(tmp_path / f"{name}.zarr", blobs(seed), (8.0, 4.0, 4.0))
    asked = Crappification(input=tmp_path / "other.zarr", output=tmp_path / "low.zarr", recipe=NOISE, scale=(1, 2, 2))
    crappify_volume(plan_crappification(asked))
    return tmp_path


def test_the_command_writes_a_recipe_and_its_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "mine.yaml"
    low, truth = (str(folder / name) for name in ("low.zarr", "truth.zarr"))
    with pytest.raises(SystemExit) as ended:
        main(["crappify", "--fit", low, "--from", truth, "-o", str(recipe), "--json"])
    assert ended.value.code in (0, None)
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["kind"] == "recipe"
    found = told["parameters"]
    assert found["shot dose"]["value"] == pytest.approx(60, rel=0.2)
    assert found["read noise"]["value"] == pytest.approx(9, rel=0.3)
    assert found["blur sigma"]["value"] < 0.7
    assert "electrons" in printed.err
    assert load_recipe(recipe).name == "mine"


def test_voxel_sizes_that_are_no_multiples_are_refused(folder: Path) -> None:
    write_volume(folder / "odd.zarr", blobs(3), (8.0, 10.0, 10.0))
    with pytest.raises(ConfigError, match="multiples"):
        fit_recipe(str(folder / "odd.zarr"), str(folder / "truth.zarr"))


def test_fit_needs_its_two_companions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["crappify", "--fit", str(folder / "low.zarr")])
    assert ended.value.code == 2
    assert "--from TRUTH -o" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--fit", "low.zarr", "--from", "truth.zarr", "-o", "r.yaml", "--noise", "2"], "--noise: of no effect beside --fit"),
        (["fine.zarr", "low.zarr", "-o", "r.yaml"], "--recipe-out: of no effect without --fit"),
    ],
)
def test_options_of_the_other_task_are_refused(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["crappify", *words])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
