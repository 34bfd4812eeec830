"""Crappifiers as operations: the bytes of `volumetool crappify`, by the promises of every operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_jobs import read_levels

import volumetool as vt
from volumetool.degradation import RECIPES, Crappifier, load_recipe, save_recipe
from volumetool.degradation.compression import Jpeg
from volumetool.degradation.scan import Charging
from volumetool.errors import ConfigError, ModelError
from volumetool.geometry import plan_levels
from volumetool.processing.operation import open_operation, operation_name, reopen_operation
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.testing.operation_suite import Floats, OperationSuite

BEFORE, AFTER = RECIPES["pssr-em"].steps, RECIPES["sem-fast"].steps[2:]
ALL_STEPS = Crappifier(name="all", steps=(*BEFORE, *AFTER, Charging(amount=40, length=3), Jpeg(quality=50)))
"""Noise before and after the reduction, steps that mirror noise at the faces, and JPEG's blocks."""


class TestCrappify(OperationSuite):
    """What is left of the volume at its far faces is left out."""

    operation = "crappify:recipe=sem-fast;scale=2,3,4;seed=4"
    shape = (13, 70, 91)
    shard = "2,16,16"
    other_patch = "2,36,96"
    recipe = "sem-fast"
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    def whole(self, values: Floats) -> Floats:
        made: Floats = load_recipe(self.recipe).apply(values, scale=(2, 3, 4), seed=4)
        return made


@pytest.mark.slow
class TestCrappifyBefore(TestCrappify):
    """Noise on the fine grid, of 16 bits whose black and white are percentiles of the volume."""

    operation = "crappify:recipe=pssr-em;scale=2,3,4;seed=4"
    dtype = "uint16"
    recipe = "pssr-em"


def _channels(place: Path, voxels: NDArray[Any]) -> Path:
    """Write a volume of several channels."""
    levels = plan_levels(voxels.shape[1:], (30.0, 8.0, 8.0), (0.0, 0.0, 0.0), (4, 16, 16), (4, 16, 16))
    layout = VolumeLayout(voxels.dtype.name, levels[:1], len(voxels))
    create_volume(str(place), layout, {})
    for number, each in enumerate(voxels):
        open_for_writing(str(place), layout, 0, number)[...].write(each).result()
    return place


@pytest.mark.parametrize("dtype", ["uint8", pytest.param("uint16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(RECIPES))])
def test_the_bytes_are_those_of_the_command_of_that_name(recipe: str, dtype: str, tmp_path: Path) -> None:
    """Of each channel, from a file of a recipe too, with other levels of noise and blur, in a chain too."""
    save_recipe(tmp_path / "all.yaml", ALL_STEPS)
    named = str(tmp_path / "all.yaml") if recipe == "all" else recipe
    voxels = np.random.default_rng(0).normal(120, 40, (2, 3, 90, 131)).clip(0, 255).astype(dtype)
    source = _channels(tmp_path / "in.zarr", voxels)
    how: dict[str, Any] = {"recipe": named, "scale": (1, 4, 4), "seed": 9, "noise": 1.5, "blur": 0.75}
    vt.crappify(source, tmp_path / "low.zarr", **how)
    expected = read_levels(tmp_path / "low.zarr")[0]
    operation = {"crappify": {**how, "scale": [1, 4, 4]}}
    small: dict[str, Any] = {"shard": "1,16,16", "chunk": "1,8,8", "region": "1,1,1", "device": "cpu"}
    assert vt.apply([operation], source, tmp_path / "out.zarr", **small).complete
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], expected, strict=True)
    assert vt.apply(["cast", operation, "cast"], source, tmp_path / "chain.zarr", **small).complete
    np.testing.assert_array_equal(read_levels(tmp_path / "chain.zarr")[0], expected, strict=True)


def test_a_recipe_is_known_by_its_steps_and_not_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_recipe("first.yaml", ALL_STEPS)
    save_recipe("second.yaml", ALL_STEPS)
    first, second = (open_operation(operation_name(f"crappify:recipe={name}.yaml")) for name in ("first", "second"))
    assert str(tmp_path / "first.yaml") in first.spec
    assert first.identity == second.identity
    assert first.identity != open_operation(operation_name("crappify", ["recipe=first.yaml", "seed=1"])).identity
    save_recipe("first.yaml", RECIPES["pssr-em"])
    with pytest.raises(ModelError) as caught:
        reopen_operation(first.spec, first.identity)
    assert caught.value.code == "model.changed"


@pytest.mark.parametrize(("option", "code"), [("recipe=pssr", "config.recipe"), ("scale=0,4,4", "config.option")])
def test_what_is_no_recipe_is_refused_before_a_voxel_is_read(option: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_operation(operation_name("crappify", [option]))
    assert caught.value.code == code
