"""`--store-error`: stored voxels lie on steps that follow the expected error, and are at most half a step off."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, Interrupting, assert_means, attributes, digest, noise, read_levels, run, shard_files, write_input
from small_networks import small_network

from volumetool.errors import ConfigError, FingerprintError
from volumetool.geometry import Box
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.planning.resolve import resolve
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.adopt import adopt
from volumetool.jobs.verification.verify import Extent, verify
from volumetool.processing.quantize import _round_to_steps

F = 2.0
NODATA = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a network, an input, and a job on steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("steps")
    small_network(folder / "tiny.safetensors", dims=3)
    voxels = noise((12, 38, 41))
    voxels[2:5, 3:19, 7:25] = NODATA
    write_input(folder / "in.zarr", voxels, voxel_size=(8.0, 8.0, 8.0), chunk=(8, 16, 16))
    assert run(**options(folder)).complete
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the options of such a job; `more` wins, and None takes an option away."""
    given = SMALL | {"model": str(folder / "tiny.safetensors"), "shard": "8,32,32", "region": "1,1,1", "nodata": NODATA}
    given |= {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "store_error": F}
    return {name: value for name, value in (given | more).items() if value is not None}


@pytest.fixture(scope="module")
def exact(folder: Path) -> Any:
    """Give image and expected error of every voxel before anything is rounded, float32 (2, z, y, x)."""
    named = str(folder / "tiny.safetensors") + ";expected_error=true"
    run(**options(folder, output=str(folder / "exact.zarr"), model=named, store_error=None))
    return read_levels(folder / "exact.zarr")[0]


@pytest.mark.parametrize("dtype", ["uint8", pytest.param("uint16", marks=pytest.mark.slow), "float32"])
def test_voxels_are_multiples_of_a_power_of_two_and_at_most_half_of_f_times_the_error_off(
    folder: Path, tmp_path: Path, exact: Any, dtype: str
) -> None:
    """Integers beside: half a grey level is what they are off anyway; one more where they would mean no data."""
    more = {} if dtype == "uint8" else {"output": str(tmp_path / "out.zarr"), "dtype": dtype}
    place = options(folder, **more)["output"]
    assert run(**options(folder, **more)).complete
    (image, error), stored = exact, read_levels(place)[0].astype(np.float64)
    valid = image != NODATA
    whole = dtype != "float32"
    steps = 2.0 ** np.floor(np.log2(F * error.astype(np.float64), where=error > 0, out=np.zeros(error.shape)))
    steps = np.maximum(steps, 1) if whole else steps
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    off = abs(stored - np.clip(image, limits.min, limits.max))[valid]
    moved = (stored == 1)[valid] if whole else np.zeros(off.shape, bool)
    assert (off <= steps[valid] / 2 + moved + 1e-3).all()
    assert (off <= np.maximum(F * error[valid] / 2, 0.5) + moved + 1e-3).all()
    on_step = (stored % steps == 0) | (np.isin(stored, [1, limits.max]) if whole else stored == image)
    assert (stored[valid] != NODATA).all()
    assert on_step[valid].all()
    assert (stored[~valid] == NODATA).all()
    assert len(np.unique(steps[valid])) > 3  # they follow the place
    if whole:
        assert_means(place, NODATA)


@pytest.mark.parametrize(
    "more",
    [{"region": "1,2,1"}, {"patch_cache": "always"}, pytest.param({"workers": 2}, marks=pytest.mark.slow)],
    ids=["other regions", "kept patches", "workers"],
)
def test_the_bytes_are_the_same_for_any_cut_after_an_interruption(folder: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    own = options(folder, input=str(tmp_path / "in.zarr"), output=str(tmp_path / "out.zarr"), **more)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(2), **own)
    assert run(**own).complete
    assert digest(tmp_path / "out.zarr") == digest(folder / "out.zarr")
    assert verify(stored_plan(str(tmp_path / "out.zarr")), Extent("full")).ok


def test_a_lost_folder_of_the_job_is_made_again(folder: Path, tmp_path: Path) -> None:
    """What the options ask of the network is not said twice."""
    own = options(folder, output=str(tmp_path / "out.zarr"), trust=str(tmp_path / "trust.zarr"))
    assert run(**own).complete
    shutil.rmtree(tmp_path / "out.zarr.job")
    report = adopt(own["output"], source=own["input"])
    assert report.regions == report.of
    assert run(**own).complete


def test_what_is_rounded_to_nothing_is_0_and_not_minus_0() -> None:
    values = np.array([-0.3, 0.3, -5.0], np.float32)
    _round_to_steps(values, np.full(3, 4, np.float32), np.dtype(np.float32), None)
    np.testing.assert_array_equal(values, [0, 0, -4])
    assert np.signbit(values).tolist() == [False, False, True]


def test_a_box_that_is_looked_at_has_the_bytes_of_the_job(folder: Path) -> None:
    box = Box((3, 17, 21), (20, 60, 70))
    seen = resolve(make_job(**options(folder, output=None))).compute(0, box)
    np.testing.assert_array_equal(seen, read_levels(folder / "out.zarr")[0][box.slices], strict=True)


def test_image_and_trust_volume_are_those_of_the_jobs_with_one_of_the_options(folder: Path, tmp_path: Path) -> None:
    both = {"output": str(tmp_path / "out.zarr"), "trust": str(tmp_path / "trust.zarr")}
    run(**options(folder, **both))
    assert digest(tmp_path / "out.zarr") == digest(folder / "out.zarr")
    other = {name: place.replace(".zarr", "-2.zarr") for name, place in both.items()}
    run(**options(folder, **other, store_error=None))
    assert digest(tmp_path / "trust.zarr") == digest(tmp_path / "trust-2.zarr")


def test_what_is_written_without_steps_is_told_from_the_same_channels(folder: Path, tmp_path: Path) -> None:
    """Of a job with a trust volume: the sample of one without steps, and not the error that only steps go by."""
    both = {"output": str(tmp_path / "out.zarr"), "trust": str(tmp_path / "trust.zarr")}
    rounded, plain = (plan(make_job(**options(folder, **both, store_error=each))).estimates for each in (F, None))
    assert rounded.unrounded == plain.compression


def test_it_is_said_counted_and_smaller(folder: Path, tmp_path: Path) -> None:
    decided = plan(make_job(**options(folder)))
    told = dict(describe_plan(decided))
    assert told["rounded"] == attributes(folder / "out.zarr")["rounded"]
    assert "at most half of 2 times the error" in told["rounded"]
    assert "without --store-error to" in told["write"]
    assert decided.estimates.unrounded is not None
    assert decided.estimates.compression < decided.estimates.unrounded
    run(**options(folder, output=str(tmp_path / "plain.zarr"), store_error=None))
    assert "rounded" not in attributes(tmp_path / "plain.zarr")
    stored, plain = (
        sum(file.stat().st_size for file in shard_files(each)) for each in (folder / "out.zarr", tmp_path / "plain.zarr")
    )
    assert stored / plain == pytest.approx(decided.estimates.compression / decided.estimates.unrounded, abs=0.1)


@pytest.mark.parametrize("value", [None, 1.0])
def test_other_steps_are_another_job(folder: Path, value: float | None) -> None:
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**options(folder, store_error=value)))
    now = "not given" if value is None else value
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == [f"--store-error: {F} then, {now} now"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"model": "median:radius=0,1,1"}, "median says no error that it expects"),
        ({"model": "em-iso2"}, "em-iso2 says no error that it expects"),
        ({"model": "tiny;consistency=true"}, "several channels"),
        ({"store_error": 0}, "store_error"),
        ({"store_error": math.nan}, "store_error"),
        ({"store_error": 9}, "store_error"),
    ],
    ids=["a filter", "a network without the second output", "several channels", "0", "nan", "too large"],
)
def test_what_cannot_be_is_refused_with_the_reason(folder: Path, tmp_path: Path, more: dict[str, Any], word: str) -> None:
    if "model" in more:
        more = {"model": more["model"].replace("tiny", str(folder / "tiny.safetensors"))}
    with pytest.raises(ConfigError, match=word):
        plan(make_job(**options(folder, **more, output=str(tmp_path / "new.zarr"))))
