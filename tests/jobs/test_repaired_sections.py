"""Jobs on stacks with bad sections: no z context holds one, and what stands in for it is the same however the job is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.jobs.small_jobs import SMALL, SMALL_3D, noise, read_levels, write_input
from volumetool.geometry import Box
from volumetool.jobs.api import enhance
from volumetool.jobs.job import make_job
from volumetool.jobs.planning import resolve
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.processing.sections.look import SectionView
from volumetool.processing.sections.quality import VERDICTS, SectionQuality
from volumetool.processing.sections.repair import HALO, SectionRepair, interpolate
from volumetool.processing.statistics import Statistics, no_normalisation
from volumetool.storage.open import open_volume
from volumetool.training.data.phantom import phantom

Voxels = NDArray[Any]
BAD = (3, 4, 9)
SHAPE = (12, 32, 34)
CONTEXT = "fake:box?z_context=2&patch=1,16,16&overlap=0,4,4&trim=0,1,1"


@pytest.fixture(scope="module")
def stack() -> Voxels:
    return phantom(SHAPE)


def job(folder: Path, voxels: Voxels, bad: tuple[int, ...] | None = None, **more: Any) -> dict[str, Any]:
    """Give the options of a job, whose table names the bad sections."""
    folder.mkdir(exist_ok=True)
    write_input(folder / "in.zarr", voxels)
    options = SMALL | {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "model": CONTEXT}
    if bad is not None:
        verdicts = tuple("damaged" if z in bad else "ok" for z in range(len(voxels)))
        none = no_normalisation(1, len(voxels))
        table = Statistics(none.low, none.high, quality=SectionQuality.of((verdicts,), {}))
        (folder / "sections.csv").write_text(table.to_csv())
        options["statistics"] = str(folder / "sections.csv")
    return options | more


def made(options: dict[str, Any]) -> Voxels:
    assert enhance(**options).complete
    return read_levels(options["output"])[0]


@pytest.mark.parametrize("mode", ["leave", pytest.param("nearest", marks=pytest.mark.slow), "fill"])
def test_neighbours_are_what_they_are_without_the_bad_sections(stack: Voxels, tmp_path: Path, mode: str) -> None:
    """To the byte: with the same statistics, all good sections are those of the stack from which the bad ones were taken."""
    harmed = stack.copy()
    harmed[list(BAD)] = noise((len(BAD), *SHAPE[1:]))
    good = [z for z in range(len(stack)) if z not in BAD]
    own = made(job(tmp_path / "own", harmed, BAD, repair_sections=mode))
    without = made(job(tmp_path / "without", stack[good]))
    np.testing.assert_array_equal(own[good], without)
    with_bad = made(job(tmp_path / "with", harmed))
    assert not np.array_equal(with_bad[good], without)


def test_sections_that_stay_are_enhanced_and_replaced_ones_are_made_of_good_ones(stack: Voxels, tmp_path: Path) -> None:
    plain = {"model": "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"}
    harmed = stack.copy()
    harmed[list(BAD)] = noise((len(BAD), *SHAPE[1:]))
    nearest = made(job(tmp_path / "nearest", harmed, BAD, repair_sections="nearest", **plain))
    for z, source in ((3, 2), (4, 5), (9, 8)):
        np.testing.assert_array_equal(nearest[z], nearest[source])
    stays = made(job(tmp_path / "leave", harmed, BAD, repair_sections="leave", **plain))
    np.testing.assert_array_equal(stays, made(job(tmp_path / "none", harmed, **plain)))
    filled = made(job(tmp_path / "fill", harmed, BAD, repair_sections="fill", **plain)).astype(float)
    for z in BAD:
        truth, lost = stays[z - 1 if z != 4 else 5].astype(float), stays[z].astype(float)
        assert abs(filled[z] - truth).mean() < 0.3 * abs(lost - truth).mean()


def test_filled_sections_have_the_same_bytes_in_any_cut_and_after_going_on(tmp_path: Path) -> None:
    """The volume is wider than what a filled voxel depends on; what is read for it counts as read."""
    wide = phantom((8, 60, 250))
    options = SMALL_3D | {"model": "fake:box?dims=3&scale=2,2,2&patch=8,64,64&overlap=4,8,8&trim=1,1,1", "shard": "8,128,128"}
    options |= {"repair_sections": "fill", "memory": "4GiB"}
    assert wide.shape[2] > HALO + 128
    whole = made(job(tmp_path / "one", wide, (3, 4), **options | {"region": "2,1,4"}))
    cut = job(tmp_path / "cut", wide, (3, 4), **options)
    assert enhance(**cut | {"roi": "0:8,0:60,0:40"}).done
    np.testing.assert_array_equal(made(cut | {"input_check": "strict"}), whole)


def test_statistics_are_those_of_the_stack_without_the_bad_sections(tmp_path: Path) -> None:
    """Sections flicker, so that each section that is left out moves those beside it."""
    flickering = phantom((12, 64, 64)).astype(float) * np.random.default_rng(0).uniform(0.6, 1.0, (12, 1, 1))
    harmed = flickering.astype(np.uint8)
    harmed[6] = 0
    good = [z for z in range(12) if z != 6]
    options = {"model": "clahe", "memory": "4GiB"}
    own, without = (
        plan(make_job(**job(tmp_path / name, voxels, **options, repair_sections="fill"))).spec.statistics
        for name, voxels in (("own", harmed), ("without", harmed[good]))
    )
    np.testing.assert_array_equal(own.low[:, good], without.low)
    np.testing.assert_array_equal(own.high[:, good], without.high)


def test_the_mask_shows_the_verdicts_over_the_whole_output(stack: Voxels, tmp_path: Path) -> None:
    options = job(tmp_path, stack, BAD, repair_sections="fill")
    assert enhance(**options).complete
    mask, output = open_volume(f"{options['output']}.job/sections.zarr"), open_volume(options["output"])
    shown = np.asarray(mask)[:, 0, 0]
    assert np.flatnonzero(shown).tolist() == list(BAD)
    assert set(shown[list(BAD)].tolist()) == {VERDICTS.index("damaged")}
    for axis in range(3):
        low, high = (each.translation[axis] - each.voxel_size[axis] / 2 for each in (mask, output))
        assert low == pytest.approx(high)
        assert mask.shape[axis] * mask.voxel_size[axis] == pytest.approx(output.shape[axis] * output.voxel_size[axis])


def test_what_a_filled_voxel_is_depends_on_no_window() -> None:
    first, second = phantom((2, 300, 300))
    whole = interpolate(first, second, (1, 2), (0, 0), (40.0, 200.0))
    box = Box((0, 97, 140), (1, 150, 201))
    around = Box((0, 97 - HALO, 140 - HALO), (1, 150 + HALO, 201 + HALO)).intersection(Box.whole((1, 300, 300)))
    part = interpolate(first[around.slices[1:]], second[around.slices[1:]], (1, 2), around.start[1:], (40.0, 200.0))
    np.testing.assert_array_equal(part[box.shifted((0, -around.start[1], -around.start[2])).slices[1:]], whole[box.slices[1:]])


def test_a_moving_structure_is_filled_better_than_by_the_mean_or_the_nearest_section() -> None:
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (160, 160)), 3, mode="wrap")
    truth = np.clip(128 + 40 * blobs / blobs.std(), 0, 255)
    before, after = np.roll(truth, (3, -2), (0, 1)), np.roll(truth, (-3, 2), (0, 1))
    filled = interpolate(before, after, (1, 1), (0, 0), (0.0, 255.0))
    inner = slice(32, -32), slice(32, -32)
    errors = [abs(each - truth)[inner].mean() for each in (filled, (before + after) / 2, before)]
    assert errors[0] < 0.3 * min(errors[1:])


def test_good_sections_beyond_a_long_gap_are_not_looked_for() -> None:
    repair = SectionRepair(mode="fill", bad=((*range(2, 30), 40),))
    assert repair.replacements(0, 5, 60) == (1,)
    assert repair.replacements(0, 15, 60) == (15,)
    assert repair.replacements(0, 40, 60) == (39, 41)
    assert repair.seen_from(0, 39, 2, 60) == [37, 38, 39, 41, 42]
    assert repair.seen_from(0, 1, 2, 60) == [1, 0, 1, 0, 1]


def test_asking_for_repair_measures_sections_of_an_operation_without_statistics(stack: Voxels, tmp_path: Path) -> None:
    harmed = stack.copy()
    harmed[5] = 0
    decided = plan(make_job(**job(tmp_path, harmed, repair_sections="leave")))
    (line,) = [text for name, text in describe_plan(decided) if name == "sections"]
    assert "blank 5" in line
    assert "no z context holds bad ones" in line
    assert decided.spec.repair is not None
    assert 5 in decided.spec.repair.bad[0]
    plain = plan(make_job(**job(tmp_path / "plain", harmed)))
    assert plain.spec.repair is None
    assert "repair" not in plain.spec.plain()


def test_histograms_are_matched_of_what_stands_in_for_a_bad_section(stack: Voxels, tmp_path: Path) -> None:
    harmed = stack.copy()
    harmed[5] = 255 - harmed[5] // 3
    source = write_input(tmp_path / "in.zarr", harmed)
    repaired = job(tmp_path / "repaired", harmed, (5,), repair_sections="fill", model="median:radius=0,0,0")
    mended = write_input(tmp_path / "mended.zarr", made(repaired))
    without = made(job(tmp_path / "without", np.asarray(open_volume(mended)), model="match"))
    options = job(tmp_path / "own", np.asarray(open_volume(source)), (5,), repair_sections="fill", model="match")
    np.testing.assert_array_equal(made(options), without)


def test_an_operation_that_takes_grey_values_as_they_are_gets_structures_that_were_displaced(tmp_path: Path) -> None:
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (120, 120)), 3, mode="wrap")
    image = np.clip(128 + 40 * blobs / blobs.std(), 1, 255)
    truth = np.stack([np.roll(image, 3 * z, 0) for z in range(5)])
    for dtype, factor in (("uint8", 1), ("uint16", 12)):
        voxels = (factor * truth).astype(dtype)
        harmed = voxels.copy()
        harmed[2] = 1
        filled = made(job(tmp_path / dtype, harmed, (2,), repair_sections="fill", model="median:radius=0,0,0"))[2].astype(float)
        mean = (voxels[1].astype(float) + voxels[3]) / 2
        inner = slice(32, -32)
        assert abs(filled - voxels[2])[inner].mean() < 0.3 * abs(mean - voxels[2])[inner].mean()


def test_a_job_that_goes_on_looks_at_no_section_again(stack: Voxels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sections are bad is frozen: one that cannot be read any more changes no other."""
    harmed = np.where(np.arange(len(stack))[:, None, None] == 5, 0, stack).astype(np.uint16)
    options = job(tmp_path, harmed, repair_sections="fill", model="median:radius=0,0,0")
    assert enhance(**options | {"roi": "0:4,0:8,0:8"}).done
    monkeypatch.setattr(SectionView, "read", lambda *_: pytest.fail("sections are read again"))
    monkeypatch.setattr(resolve, "grey_limits", lambda *_: pytest.fail("grey values are measured again"))
    assert made(options)[5].any()


def test_a_filled_voxel_never_takes_the_value_that_means_no_data(tmp_path: Path) -> None:
    voxels = np.multiply.outer([-9, -3, 7, 3, 9], np.ones((20, 20))).astype(np.int16)
    filled = made(job(tmp_path, voxels, (2,), repair_sections="fill", model="median:radius=0,0,0", nodata=0))[2]
    assert (filled == 1).all()  # the mean of -3 and 3 is 0
