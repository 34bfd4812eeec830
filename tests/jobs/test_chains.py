"""Chains of operations: one job, no volume between, and the bytes of jobs one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import read_levels

import volumetool as vt
from volumetool.errors import ConfigError, FingerprintError
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.verification.adopt import adopt
from volumetool.processing.operation import operation_name
from volumetool.storage.open import open_volume
from volumetool.testing.operation_suite import OperationSuite

FILTERS = ("gaussian:sigma=0.5,1,1.5", "median:radius=0,1,1", "unsharp:sigma=0,1,1;amount=1.5")
"""One that looks across sections, and two that do not."""


class TestFilters(OperationSuite):
    operation = " -> ".join(FILTERS)
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    def check_whole(self, voxels: NDArray[Any], decided: Plan, made: NDArray[Any]) -> None:
        """Compare with three jobs, one after the other."""
        folder = Path(decided.output).parent
        source = self.write(folder / f"{voxels.shape}.zarr", voxels)
        np.testing.assert_array_equal(made, _one_after_the_other(source, folder, FILTERS), strict=True)


def _one_after_the_other(place: Path, folder: Path, operations: tuple[str, ...], **options: Any) -> NDArray[Any]:
    """Return the finest level of the last of several jobs, each of which reads the output of the one before."""
    for number, operation in enumerate(operations):
        output = folder / f"job-{number}.zarr"
        assert vt.apply(operation, place, output, device="cpu", workers=1, **options).complete
        place = output
    return read_levels(place)[0]


def test_a_network_in_the_middle_gets_the_statistics_of_what_is_never_stored(tmp_path: Path) -> None:
    """Statistics of the second and third, and a grid that the second makes finer."""
    chain = ("destripe:length=4;width=1", "em-x2", "nlm:size=3;distance=2")
    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((3, 40, 72)))
    expected = _one_after_the_other(source, tmp_path, chain)
    assert vt.apply(chain, source, tmp_path / "out.zarr", device="cpu", workers=1, shard="4,32,64", chunk="4,32,64").complete
    made = read_levels(tmp_path / "out.zarr")[0]
    assert made.shape == (3, 80, 144)
    np.testing.assert_array_equal(made, expected, strict=True)


def test_each_channel_that_an_operation_makes_is_a_volume_of_its_own_to_the_next(tmp_path: Path) -> None:
    def two(block: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([block, 255 - block])

    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((2, 40, 50)))
    both = {"channels": ("same", "turned"), "halo": (0, 0, 0)}
    assert vt.apply(two, source, tmp_path / "two.zarr", device="cpu", **both).complete
    expected = _one_after_the_other(tmp_path / "two.zarr", tmp_path, ("unsharp", "median"))
    assert expected.shape == (2, 2, 40, 50)
    assert vt.apply([{two: both}, "unsharp", "median"], source, tmp_path / "out.zarr", device="cpu").complete
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], expected, strict=True)


@pytest.mark.parametrize(("middle", "scale"), [("nlm:size=3;distance=2", 1), pytest.param("em-x2", 2, marks=pytest.mark.slow)])
def test_boxes_masks_and_missing_voxels_are_those_of_the_jobs(tmp_path: Path, middle: str, scale: int) -> None:
    """The mask is for each operation, missing voxels stay so, and the box counts voxels of the input."""
    chain = ("median:radius=1,1,1", middle, "gaussian:sigma=0,1,1")
    voxels = _shapes((2, 32, 48))
    voxels[:, :9, :20] = 0
    source = OperationSuite.write(tmp_path / "in.zarr", voxels)
    wanted = np.ones_like(voxels)
    wanted[:, :, 40:] = 0
    mask = OperationSuite.write(tmp_path / "mask.zarr", wanted)
    both: dict[str, Any] = {"mask": str(mask), "nodata": 0}
    expected = _one_after_the_other(source, tmp_path, chain, **both)
    assert vt.apply(chain, source, tmp_path / "whole.zarr", device="cpu", **both).complete
    np.testing.assert_array_equal(read_levels(tmp_path / "whole.zarr")[0], expected, strict=True)
    box: dict[str, Any] = {"roi": "1:2,10:30,8:40", "crop": True}
    assert vt.apply(chain, source, tmp_path / "box.zarr", device="cpu", **both, **box).complete
    np.testing.assert_array_equal(
        read_levels(tmp_path / "box.zarr")[0], expected[1:2, 10 * scale : 30 * scale, 8 * scale : 40 * scale], strict=True
    )


def test_the_output_names_its_steps_and_goes_on_with_no_other_chain(tmp_path: Path) -> None:
    """An operation that is another one, first or last, is another job."""
    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((2, 40, 50)))
    vt.apply(["median", "gaussian:sigma=1"], source, tmp_path / "out.zarr", device="cpu")
    made = open_volume(tmp_path / "out.zarr").attributes
    assert [step["operation"] for step in made["chain"]] == ["median:radius=0,1,1", "gaussian:sigma=1.0,1.0,1.0"]
    assert made["chain"][1]["fingerprint"] == made["fingerprint"]
    assert made["model"]["name"] == "median -> gaussian"
    vt.apply("median -> gaussian:sigma=1", source, tmp_path / "out.zarr", device="cpu")
    with pytest.raises(FingerprintError, match=r"median:radius=0,1,1 -> gaussian.* then, unsharp"):
        vt.apply(["unsharp", "gaussian:sigma=1"], source, tmp_path / "out.zarr", device="cpu")
    shutil.rmtree(tmp_path / "out.zarr.job")
    assert adopt(str(tmp_path / "out.zarr")).ok


def test_a_file_of_a_chain_may_hold_lists_and_files_of_chains(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text("- gaussian: {sigma: [0, 1, 1]}\n- unsharp:\n")
    (tmp_path / "chain.yaml").write_text(f"- median\n- [destripe, {tmp_path}/inner.yaml]\n- em-denoise -> em-x4\n")
    assert [name.partition(":")[0] for name in operation_name(str(tmp_path / "chain.yaml")).split(" -> ")] == [
        "median",
        "destripe",
        "gaussian",
        "unsharp",
        "em-denoise",
        "em-x4",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- median\n\n- median: {radios: 1}\n", r"entry 2 \(line 3 of .*radios = '1'"),
        ("- median: {radius: {z: 1}}\n", r"entry 1 \(line 1 of .*is no value of an option"),
        ("- median: [1, 1, 1]\n", "no mapping"),
        ("- median\n- 7\n", r"entry 2 \(line 2 of .*is 7, no operation"),
        ("- median\n- [unsharp, {}]\n", r"entry 2 \(line 2 of .*, its entry 2 is \{\}, no operation"),
        ("- em-x4: {clip: 3}\n", r"entry 1 \(line 1 of "),
        ("[]\n", "names no operation"),
        ("median: {}\n", "holds dict, not a list"),
        ("- {own}\n", "more than 8 chains inside each other"),
        ("- median\n- nothing.yaml\n", "nothing.yaml cannot be read"),
        ("- [median\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_entry_and_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "chain.yaml").write_text(text.replace("{own}", str(tmp_path / "chain.yaml")))
    with pytest.raises(ConfigError, match=told):
        operation_name(str(tmp_path / "chain.yaml"))


@pytest.mark.parametrize("option", [{"patch": "1,64,64"}, {"overlap": "0,4,4"}, {"statistics": "table.csv"}])
def test_options_that_fit_one_operation_are_refused(tmp_path: Path, option: dict[str, str]) -> None:
    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((2, 40, 50)))
    with pytest.raises(ConfigError, match="is for one operation, and the chain has 2") as refused:
        vt.apply(["median", "unsharp"], source, tmp_path / "out.zarr", **option)
    assert refused.value.code == "config.chain"


def test_planning_counts_the_patches_that_regions_compute_twice(tmp_path: Path) -> None:
    """Each region of 32 x 32 voxels needs the whole patches of the first filter around it."""
    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((4, 70, 90)))
    options: dict[str, Any] = {"chunk": "2,16,16", "shard": "4,32,32", "region": "1,1,1", "device": "cpu", "workers": 1}
    decided = vt.plan(
        vt.Job(input=str(source), output=str(tmp_path / "out.zarr"), model="gaussian:sigma=0,1,1 -> median", **options)
    )
    (first,) = decided.earlier
    assert first.patches - first.recomputed == first.spec.lattice.count
    boxes = (decided.spec.lattice.needed(decided.grid.region(index).box) for index in range(decided.grid.count))
    touching = [
        [line.touching(*ends) for line, *ends in zip(first.spec.lattice.axes, box.start, box.stop, strict=True)]
        for box in boxes
    ]
    assert first.patches == sum(len(z) * len(y) * len(x) for z, y, x in touching)
    (line,) = (text for name, text in describe_plan(decided) if name == "step 1")
    assert f"{first.recomputed / (first.patches - first.recomputed):.1%} of that is done twice" in line


def _shapes(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return smooth blobs with noise, which networks and statistics find something in."""
    random = np.random.default_rng(1)
    blobs = ndimage.gaussian_filter(random.normal(size=shape), (0.5, 2, 2))
    return np.clip(128 + 300 * blobs + random.normal(0, 8, shape), 1, 255).astype(np.uint8)
