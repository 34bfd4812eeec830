"""A job from disk to disk: right voxels on every level, in conformant volumes."""

from __future__ import annotations

import gc
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import referencing
import yaozarrs
import zarr
from ome_zarr_models.v05 import Image
from referencing.jsonschema import DRAFT202012
from small_jobs import SMALL, Voxels, assert_means, attributes, digest, noise, read_levels, replicated, run, write_input

from volumetool.errors import FingerprintError, InputError
from volumetool.jobs.api import run as run_as_user
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.processing.engine import Engine
from volumetool.storage.validate import validate_volume

SCALE = (1, 4, 4)
CONSTANT = "fake:constant?value=100&patch=1,16,16&overlap=0,4,4&trim=0,1,1"


@pytest.mark.thin(8)
@pytest.mark.parametrize("voxel_size", [(8.0, 32.0, 32.0), (30.0, 32.0, 32.0), (4.0, 64.0, 32.0)], ids=str)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32", "uint16", "int16"])
def test_identity_repeats_every_voxel_and_every_level_is_the_mean_of_the_one_before(
    tmp_path: Path, dtype: str, voxel_size: tuple[float, float, float]
) -> None:
    voxels = noise((7, 37, 45), dtype)
    source = write_input(tmp_path / "in.zarr", voxels, voxel_size=voxel_size)
    output = str(tmp_path / "out.zarr")
    outcome = run(input=str(source), output=output, **SMALL)
    assert (outcome.complete, outcome.failed, outcome.exit_code) == (True, 0, 0)
    fused = [level.fused for level in outcome.plan.spec.levels]
    assert fused.count(True) >= 2
    assert fused.count(False) >= 2
    np.testing.assert_array_equal(read_levels(output)[0], replicated(voxels, SCALE), strict=True)
    assert_means(output)


@pytest.mark.parametrize(
    ("model", "voxels"),
    [
        ("fake:identity?dims=3&scale=2,2,2&patch=8,16,16&overlap=2,4,4&trim=0,1,1", noise((9, 21, 23))),
        ("fake:identity?scale=1,1,1&patch=1,16,16&overlap=0,4,4&trim=0,1,1", noise((5, 50, 64))),
        ("fake:identity?scale=1,3,2&patch=1,16,16&overlap=0,4,4&trim=0,1,1", noise((1, 1, 30))),
    ],
    ids=["3d", "1x", "a line"],
)
def test_identity_of_other_shapes_and_scales(tmp_path: Path, model: str, voxels: Voxels) -> None:
    source = write_input(tmp_path / "in.zarr", voxels)
    outcome = run(input=str(source), output=str(tmp_path / "out.zarr"), **SMALL | {"model": model})
    scale = outcome.plan.spec.lattice.scale
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], replicated(voxels, scale), strict=True)
    assert_means(str(tmp_path / "out.zarr"))


@pytest.mark.parametrize("channels", [None, 2])
def test_outputs_are_conformant_to_four_judges(
    tmp_path: Path, options: dict[str, Any], data: Path, channels: int | None
) -> None:
    shape = (channels, 5, 20, 20) if channels else (5, 20, 20)
    options["input"] = str(write_input(tmp_path / "small.zarr", noise(shape)))
    output = options["output"]
    assert run(**options).complete
    yaozarrs.validate_zarr_store(output)
    group = zarr.open_group(output, mode="r")
    Image.from_zarr(group)
    schemas = [json.loads(file.read_text()) for file in (data / "ngff-spec-suites" / "0.5" / "schemas").iterdir()]
    registry = referencing.Registry().with_resources(
        (schema["$id"], referencing.Resource.from_contents(schema, default_specification=DRAFT202012)) for schema in schemas
    )
    strict = next(schema for schema in schemas if schema["$id"].endswith("strict_image.schema"))
    stored = json.loads((Path(output) / "zarr.json").read_text())
    jsonschema.Draft202012Validator(strict, registry=registry).validate(stored["attributes"])
    assert validate_volume(output) == []
    for number, level in enumerate(read_levels(output)):
        np.testing.assert_array_equal(group[str(number)], level, strict=True)


def test_a_real_network_gives_levels_that_are_means_too(options: dict[str, Any], tiny_model: Path) -> None:
    assert run(**options | {"model": str(tiny_model)}).complete
    fine = read_levels(options["output"])[0]
    assert fine.std() > 10
    assert_means(options["output"])


def test_each_channel_is_a_volume_of_its_own(tmp_path: Path, options: dict[str, Any], tiny_model: Path) -> None:
    voxels = np.stack([noise((4, 30, 33), seed=1), noise((4, 30, 33), seed=2) // 4])
    options |= {"model": str(tiny_model)}
    both = run(**options | {"input": str(write_input(tmp_path / "both.zarr", voxels)), "output": str(tmp_path / "out2.zarr")})
    assert both.complete
    for channel, alone in enumerate(voxels):
        source = write_input(tmp_path / f"{channel}.zarr", alone)
        run(**options | {"input": str(source), "output": str(tmp_path / f"out-{channel}.zarr")})
        pairs = zip(read_levels(tmp_path / "out2.zarr"), read_levels(tmp_path / f"out-{channel}.zarr"), strict=True)
        for together, single in pairs:
            np.testing.assert_array_equal(together[channel], single, strict=True)
    assert_means(str(tmp_path / "out2.zarr"))


def test_a_cropped_output_is_a_cut_out_of_the_whole_one(options: dict[str, Any], tmp_path: Path, tiny_model: Path) -> None:
    options |= {"model": str(tiny_model)}
    run(**options)
    cropped = str(tmp_path / "crop.zarr")
    outcome = run(**options | {"output": cropped, "roi": "2:7,5:31,9:41", "crop": True})
    assert (outcome.complete, outcome.exit_code) == (True, 0)
    whole = read_levels(options["output"])[0]
    np.testing.assert_array_equal(read_levels(cropped)[0], whole[2:7, 20:124, 36:164], strict=True)
    assert_means(cropped)
    moved = [
        json.loads((Path(path) / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        for path in (options["output"], cropped)
    ]
    shift = np.subtract(*(each["coordinateTransformations"][1]["translation"] for each in reversed(moved)))
    np.testing.assert_allclose(shift, (2 * 8.0, 20 * 8.0, 36 * 8.0))


def test_voxels_without_data_become_the_fill_value_and_weigh_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    voxels = noise((6, 37, 45))
    voxels[voxels == 7] = 8  # a valid voxel never comes out as the fill value
    voxels[:, :9, :] = 0
    voxels[2:4, 12:30, 7:40] = 0
    voxels[5] = 0
    options["input"] = str(write_input(tmp_path / "holes.zarr", voxels))
    assert run(**options | {"nodata": 0, "fill": 7}).complete
    expected = replicated(np.where(voxels == 0, 7, voxels), SCALE).astype(np.uint8)
    np.testing.assert_array_equal(read_levels(options["output"])[0], expected, strict=True)
    assert_means(options["output"], nodata=7)


def test_nan_stays_nan(tmp_path: Path, options: dict[str, Any]) -> None:
    voxels = noise((3, 37, 45), "float32")
    voxels[1, 3:20, 5:30] = np.nan
    options["input"] = str(write_input(tmp_path / "holes.zarr", voxels))
    assert run(**options | {"nodata": float("nan")}).complete
    np.testing.assert_array_equal(read_levels(options["output"])[0], replicated(voxels, SCALE), strict=True)


@pytest.mark.parametrize("coarser", [(1, 1, 1), (5, 2, 3)], ids=str)
def test_where_the_mask_is_zero_the_input_is_only_enlarged(
    tmp_path: Path, options: dict[str, Any], coarser: tuple[int, int, int]
) -> None:
    """A network that answers 100 everywhere shows which patches it was asked for: those of the first five sections."""
    voxels = noise((10, 37, 45))
    options["input"] = str(write_input(tmp_path / "v.zarr", voxels))
    mask = np.zeros(tuple(-(-n // f) for n, f in zip(voxels.shape, coarser, strict=True)), np.uint8)
    mask[: 5 // coarser[0]] = 1
    outcome = run(**options | {"model": CONSTANT, "mask": str(write_input(tmp_path / "mask.zarr", mask))})
    assert outcome.plan.mask_factor == coarser
    result = read_levels(options["output"])[0]
    assert (result[:5] == 100).all()
    np.testing.assert_array_equal(result[5:], replicated(voxels[5:], SCALE), strict=True)


def test_nodata_and_mask_together(tmp_path: Path, options: dict[str, Any]) -> None:
    voxels = noise((4, 37, 45))
    voxels[:, :, :11] = 0
    options["input"] = str(write_input(tmp_path / "v.zarr", voxels))
    mask = np.ones(voxels.shape, np.uint8)
    mask[2:] = 0
    run(**options | {"model": CONSTANT, "nodata": 0, "mask": str(write_input(tmp_path / "mask.zarr", mask))})
    expected = replicated(np.where(voxels == 0, 0, np.where(mask == 1, 100, voxels)).astype(np.uint8), SCALE)
    np.testing.assert_array_equal(read_levels(options["output"])[0], expected, strict=True)
    assert_means(options["output"], nodata=0)


def test_a_coarser_level_of_the_input_can_be_enhanced(tmp_path: Path, options: dict[str, Any]) -> None:
    voxels = noise((10, 37, 45))
    options["input"] = str(write_input(tmp_path / "levels.zarr", voxels, levels=2))
    assert run(**options | {"level": 1}).complete
    np.testing.assert_array_equal(
        read_levels(options["output"])[0], replicated(read_levels(options["input"])[1], SCALE), strict=True
    )


def test_another_dtype_keeps_the_intensities(options: dict[str, Any]) -> None:
    run(**options | {"dtype": "float32"})
    expected = replicated(read_levels(options["input"])[0], SCALE).astype(np.float32)
    np.testing.assert_array_equal(read_levels(options["output"])[0], expected, strict=True)


def test_the_output_says_how_it_was_made(options: dict[str, Any]) -> None:
    outcome = run(**options)
    own = attributes(options["output"])
    assert own["status"] == "complete"
    assert own["fingerprint"] == outcome.plan.fingerprint
    assert own["model"]["sha256"] == outcome.plan.spec.model
    assert own["numerics"] == [outcome.plan.probe]
    assert own["holes"] == []
    assert own["extrapolated"] is False


def test_a_finished_job_leaves_no_network_behind(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((4, 40, 40)))

    def engines() -> list[Engine]:
        return [each for each in gc.get_objects() if type(each) is Engine]

    def left() -> int:
        return sum(not any(each is other for other in before) for each in engines())

    gc.collect()
    before = engines()  # of other tests; their threads may let go of them meanwhile
    gc.disable()  # there is not even something to collect
    try:
        for number in range(3):
            run(input=str(source), output=str(tmp_path / f"{number}.zarr"), **SMALL)
        deadline = time.monotonic() + 60
        while left() and time.monotonic() < deadline:
            time.sleep(0.01)  # a thread that has just ended lets go of what it held
        assert left() == 0
    finally:
        gc.enable()


def test_the_plan_that_is_given_is_the_one_that_runs(options: dict[str, Any], tmp_path: Path) -> None:
    """Neither its regions nor anything else is decided again, also where it was written down meanwhile."""
    decided = plan(make_job(**options))
    edited = decided.model_copy(update={"grid": replace(decided.grid, span=(1, 1, 1))})
    assert edited.grid.count > decided.grid.count
    outcome = run_as_user(Plan.model_validate_json(edited.model_dump_json()))
    assert (outcome.complete, outcome.ran) == (True, edited.grid.count)
    assert digest(options["output"]) == digest(run(**options | {"output": str(tmp_path / "other.zarr")}).plan.output)


def test_a_plan_whose_specification_was_edited_is_refused(options: dict[str, Any]) -> None:
    """Its bytes would go by a fingerprint that is not theirs."""
    decided = plan(make_job(**options))
    edited = decided.model_copy(update={"spec": decided.spec.model_copy(update={"invert": True})})
    with pytest.raises(FingerprintError, match="specification was edited"):
        run_as_user(edited)
    assert not Path(options["output"]).exists()


def test_a_plan_whose_input_moved_on_is_refused(options: dict[str, Any], volume: Path) -> None:
    decided = plan(make_job(**options))
    shutil.rmtree(volume)
    write_input(volume, noise((10, 37, 44)))
    with pytest.raises(InputError) as caught:
        run_as_user(decided)
    assert caught.value.code == "input.changed"
    assert not Path(options["output"]).exists()
