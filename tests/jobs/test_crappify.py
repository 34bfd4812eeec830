"""A crappified volume is the crappified array, whatever the parts, with its levels, geometry and origin written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.benchmark.demo import write_volume
from volumetool.degradation import RECIPES, Crappifier, load_recipe, save_recipe
from volumetool.degradation.compression import Jpeg
from volumetool.errors import ConfigError, InputError, OutputError, ResourceError
from volumetool.events import Event
from volumetool.geometry import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.training.data import crappification as job
from volumetool.training.data.crappification import Crappification, crappify_volume, plan_crappification

SHAPE = (6, 83, 122)
SCALE = (1, 4, 4)


def grey(dtype: str) -> NDArray[Any]:
    smooth = np.random.default_rng(0).random((6, 12, 16)).repeat(8, 1).repeat(8, 2)[:, : SHAPE[1], : SHAPE[2]]
    span = {"uint8": 255, "uint16": 40000, "float32": 3.5}[dtype]
    return (smooth * span).astype(dtype)


def stored(folder: Path, dtype: str) -> Path:
    write_volume(folder / "fine.zarr", grey(dtype), (8.0, 2.0, 2.0))
    return folder / "fine.zarr"


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    return stored(tmp_path, "uint8")


def asked(fine: Path, recipe: str | Crappifier = "pssr-em", **options: Any) -> Crappification:
    crappifier = load_recipe(recipe) if isinstance(recipe, str) else recipe
    return Crappification(
        **{"input": fine, "output": fine.parent / "low.zarr", "recipe": crappifier, "scale": SCALE, "seed": 4, **options}
    )


def voxels(path: Path | str, level: int = 0) -> NDArray[Any]:
    return np.asarray(open_volume(str(path)).open(level).read().result())


def check(fine: Path, crappifier: Crappifier) -> None:
    plan = plan_crappification(asked(fine, crappifier))
    made = crappify_volume(plan)
    source = voxels(fine)
    low, high = (np.float32(limit) for limit in plan.limits)
    whole = crappifier.apply((source.astype(np.float32) - low) / (high - low), scale=SCALE, seed=4)
    expected = whole * (high - low) + low
    expected = expected if source.dtype.kind == "f" else np.rint(expected)
    assert made.dtype == source.dtype
    assert made.shape == (6, 20, 30)
    assert np.array_equal(voxels(made.url), expected.astype(source.dtype))


@pytest.mark.parametrize("recipe", [*sorted(RECIPES), "jpeg"])
@pytest.mark.parametrize("part", [600, 6000])
def test_the_volume_is_the_array_crappified_at_once(
    fine: Path, recipe: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PART_VOXELS", part)
    check(fine, RECIPES.get(recipe) or Crappifier(name="jpeg", steps=(*RECIPES["sem-fast"].steps, Jpeg(quality=50))))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_dtypes_stay_what_they_are(dtype: str, tmp_path: Path) -> None:
    check(stored(tmp_path, dtype), RECIPES["pssr2-mix"])


def test_geometry_is_pixel_centred_and_every_level_is_there(fine: Path) -> None:
    made = crappify_volume(plan_crappification(asked(fine, scale=(2, 4, 4))))
    assert made.voxel_size == (16.0, 8.0, 8.0)
    assert made.translation == (4.0, 3.0, 3.0)
    assert [level.shape for level in made.levels] == [grid.shape for grid in plan_levels((3, 20, 30), (16, 8, 8), (4, 3, 3))]
    assert voxels(made.url, len(made.levels) - 1).any()
    assert validate_volume(made.url) == []


def test_a_coarser_level_can_be_degraded(tmp_path: Path) -> None:
    write_volume(tmp_path / "fine.zarr", np.tile(grey("uint8"), (1, 2, 3)), (8.0, 2.0, 2.0))
    source = open_volume(str(tmp_path / "fine.zarr"))
    made = crappify_volume(plan_crappification(asked(tmp_path / "fine.zarr", level=1, scale=(1, 2, 2))))
    assert made.shape[1:] == tuple(n // 2 for n in source.levels[1].shape[1:])
    assert made.voxel_size == (8.0, 8.0, 8.0)
    assert made.translation == (0.0, 3.0, 3.0)


def test_the_volume_says_where_it_comes_from(fine: Path) -> None:
    made = crappify_volume(plan_crappification(asked(fine, "sem-fast")))
    facts = made.attributes["crappification"]
    assert Crappifier.model_validate(facts["recipe"]) == RECIPES["sem-fast"]
    assert (facts["scale"], facts["seed"], facts["level"]) == ([1, 4, 4], 4, 0)
    assert facts["source_identity"] == open_volume(str(fine)).identity
    assert made.attributes["status"] == "complete"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_limits_come_from_percentiles_unless_given(dtype: str, tmp_path: Path) -> None:
    fine = stored(tmp_path, dtype)
    low, high = plan_crappification(asked(fine)).limits
    if dtype == "uint8":
        assert (low, high) == (0, 255)
    else:
        assert low < np.percentile(voxels(fine), 1)
        assert high > np.percentile(voxels(fine), 99)
    assert plan_crappification(asked(fine, limits=(1.0, 3.0))).limits == (1.0, 3.0)
    with pytest.raises(ConfigError, match="black"):
        plan_crappification(asked(fine, limits=(3.0, 3.0)))


def test_a_fine_volume_that_is_written_to_meanwhile_is_told(fine: Path) -> None:
    plan = plan_crappification(asked(fine))
    chunk = next(file for file in fine.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr")))

    def meddle(_: Event) -> None:
        os.utime(chunk, ns=(7, 7))

    with pytest.raises(InputError) as caught:
        crappify_volume(plan, observer=meddle)
    assert caught.value.code == "input.changed"
    assert open_volume(plan.request.output).attributes["status"] == "unfinished"


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(fine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_crappification(asked(fine))

    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crappify_volume(plan, observer=stop)
    assert open_volume(plan.request.output).attributes["status"] == "unfinished"
    first = voxels(crappify_volume(plan).url)
    assert np.array_equal(voxels(crappify_volume(plan).url), first)
    other = plan_crappification(asked(fine, seed=5))
    with pytest.raises(OutputError, match="already"):
        crappify_volume(other)
    deleted = job.delete_prefix

    def delete_and_die(url: str, _last: str) -> None:
        deleted(f"{url}/0")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "delete_prefix", delete_and_die)
        with pytest.raises(KeyboardInterrupt):
            crappify_volume(other, overwrite=True)
    assert (
        json.loads((fine.parent / "low.zarr" / "zarr.json").read_text())["attributes"]["volumetool"]["status"] == "unfinished"
    )
    assert not np.array_equal(voxels(crappify_volume(other, overwrite=True).url), first)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_run_that_was_killed_before_its_first_metadata_blocks_no_other_settings(
    fine: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volumetool.storage.create.write_key", die)
        with pytest.raises(KeyboardInterrupt):
            crappify_volume(plan_crappification(asked(fine)))
    other = plan_crappification(asked(fine, scale=(2, 2, 2)))
    assert crappify_volume(other, **options).attributes["status"] == "complete"


@pytest.mark.parametrize(("free", "threads"), [(2**40, job.MOST_THREADS), (6 * 10**6, 1)])
def test_there_are_as_many_threads_as_memory_holds(
    fine: Path, monkeypatch: pytest.MonkeyPatch, free: int, threads: int
) -> None:
    monkeypatch.setattr(job, "usable_cores", lambda: 64)
    monkeypatch.setattr(job, "usable_memory", lambda: free)
    plan = plan_crappification(asked(fine))
    assert plan.threads == threads
    assert plan.memory <= free
    monkeypatch.setattr(job, "usable_memory", lambda: plan.memory // threads // 2)
    with pytest.raises(ResourceError) as caught:
        plan_crappification(asked(fine))
    assert caught.value.code == "resource.memory"


def test_overwriting_leaves_alone_what_is_no_crappification(fine: Path) -> None:
    write_volume(fine.parent / "low.zarr", grey("uint8"), (8.0, 2.0, 2.0))
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            crappify_volume(plan_crappification(asked(fine)), overwrite=overwrite)
    assert np.array_equal(voxels(fine.parent / "low.zarr"), grey("uint8"))


def test_what_cannot_be_is_refused_before_anything_is_written(fine: Path) -> None:
    for scale, words in (((1, 84, 4), "reduced"), ((0, 4, 4), "scale = ")):
        with pytest.raises(ConfigError, match=words):
            plan_crappification(asked(fine, scale=scale))
    with pytest.raises(InputError, match="level"):
        plan_crappification(asked(fine, level=9))
    for inside in (fine / "low.zarr", fine.parent):
        with pytest.raises(OutputError, match="inside"):
            plan_crappification(Crappification(input=fine, output=inside, scale=SCALE))
    assert [path.name for path in fine.parent.iterdir()] == ["fine.zarr"]


def test_every_channel_has_noise_of_its_own(tmp_path: Path) -> None:
    layout = VolumeLayout("uint8", plan_levels((2, 40, 40), (8, 2, 2), (0, 0, 0)), channels=2)
    create_volume(str(tmp_path / "fine.zarr"), layout, {})
    for channel in range(2):
        open_for_writing(str(tmp_path / "fine.zarr"), layout, 0, channel).write(np.full((2, 40, 40), 128, np.uint8)).result()
    made = crappify_volume(plan_crappification(asked(tmp_path / "fine.zarr")))
    first, second = (np.asarray(made.open(0, channel).read().result()) for channel in range(2))
    assert first.std() > 10
    assert second.std() > 10
    assert not np.array_equal(first, second)


def test_the_command_line_makes_the_same_volume(tmp_path: Path) -> None:
    fine = tmp_path / "fine.zarr"
    write_volume(fine, grey("uint8"), (8.0, 2.0, 2.0))
    recipe = Crappifier(name="own", steps=(*RECIPES["pssr2-poisson"].steps, Jpeg(quality=70)))
    save_recipe(tmp_path / "own.yaml", recipe)
    command = [sys.executable, "-m", "volumetool.cli.main", "crappify", str(fine), str(tmp_path / "cli.zarr")]
    options = ["--recipe", str(tmp_path / "own.yaml"), "--scale", "1,4,4", "--seed", "4", "--json"]
    dry = subprocess.run([*command, *options, "--dry-run"], capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "cli.zarr").exists()
    assert "left out      0 x 3 x 2" in dry.stderr
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    made = open_volume(facts["url"]).attributes["crappification"]
    assert (facts["levels"][0]["shape"], made["limits"], made["recipe"]["name"]) == ([6, 20, 30], [0.0, 255.0], "own")
    assert np.array_equal(voxels(tmp_path / "cli.zarr"), voxels(crappify_volume(plan_crappification(asked(fine, recipe))).url))
