"""Sections that land one by one make the volume of the batch job, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from arriving import (
    CONTEXT,
    COUNT,
    DEEP,
    FLAT,
    QUICK,
    Told,
    assert_batch,
    drop,
    finish,
    job_of,
    refusal,
    sections,
    ticking,
    write_section,
)
from small_jobs import attributes, read_levels, write_input

from volumetool.acquisition import session
from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.session import LATE
from volumetool.acquisition.watch import default_output, raw_place, watch
from volumetool.errors import ConfigError
from volumetool.events import Event, Noted, SectionRefused, SectionsReached, Waiting, WatchStarted
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.verify import verify


def growing(output: str) -> zarr.Array[Any]:
    """Open what is there so far, as any reader of OME-Zarr does."""
    group = zarr.open_group(output, mode="r")
    (image,) = group.attrs["ome"]["multiscales"]  # type: ignore[index,call-overload,misc,union-attr]
    array = group[image["datasets"][0]["path"]]  # type: ignore[index,call-overload]
    assert isinstance(array, zarr.Array)
    return array


@pytest.mark.thin(4)
@pytest.mark.parametrize("order", [range(1, 8), (4, 2, 1, 3, 7, 6, 5)], ids=["in order", "in disorder"])
@pytest.mark.parametrize("options", [FLAT, CONTEXT, DEEP], ids=["2D", "2.5D", "3D"])
def test_the_finished_volume_is_the_batch_jobs_byte_for_byte(folder: Path, options: dict[str, Any], order: Any) -> None:
    job = job_of(folder, **options)
    drops = [lambda number=number: drop(folder, number) for number in order]
    watched = finish(job, None, WatchConfig(count=COUNT, settle=0.0, first=1), *drops)
    assert watched.complete
    assert watched.enhanced == COUNT
    assert_batch(job, **options)
    assert verify(stored_plan(job.output)).ok
    np.testing.assert_array_equal(read_levels(raw_place(job.input, job.output))[0], sections(COUNT))
    assert not Path(job.output, "growing").exists()
    assert not Path(f"{job.output}.job", "watch").exists()


def test_with_a_trained_model_statistics_are_the_median_of_the_first_sections(folder: Path, tiny_model: Path) -> None:
    job = job_of(folder, model=str(tiny_model), nodata=0)
    told = Told()
    drop(folder, 1, 2)
    first = lambda: drop(folder, *range(3, COUNT + 1))  # noqa: E731
    assert finish(job, told, WatchConfig(count=COUNT, settle=0.0, fit_on=3), lambda: None, first).complete
    rows = Path(f"{job.output}.job", "sections.csv").read_text().split()[1:]
    assert len(rows) == COUNT
    assert len({row.partition(",")[2].partition(",")[2] for row in rows}) == 1
    assert_batch(job, model=str(tiny_model), nodata=0)


@pytest.mark.parametrize("rows", [1, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_statistics_can_be_given(folder: Path, tiny_model: Path, rows: int) -> None:
    """A table with a row for each section says how many there are, too."""
    table = folder.parent / "given.csv"
    table.write_text("channel,z,low,high\n" + "".join(f"0,{z},{20 + z},{200 + z}\n" for z in range(rows)))
    job = job_of(folder, model=str(tiny_model), statistics=str(table))
    drop(folder, *range(1, COUNT + 1))
    assert finish(job, None, WatchConfig(count=COUNT if rows == 1 else None, settle=0.0, fit_on=1)).complete
    kept = Path(f"{job.output}.job", "sections.csv").read_text()
    assert f"0,{COUNT - 1},{20.0 + rows - 1},{200.0 + rows - 1}" in kept
    assert_batch(job, model=str(tiny_model))


def test_the_volume_can_be_read_as_it_grows(folder: Path) -> None:
    """Whenever a section is told to be enhanced, its final voxels can be read by zarr; so can the raw ones."""
    job, told = job_of(folder), Told()
    seen: dict[int, Any] = {}

    def look(event: Event) -> None:
        told(event)
        if isinstance(event, SectionsReached) and event.state == "enhanced":
            z = int(event.z or 0)
            seen[z] = np.asarray(growing(job.output)[z])
            np.testing.assert_array_equal(np.asarray(growing(raw_place(job.input, job.output))[z]), sections(COUNT)[z])

    drops = [lambda number=number: drop(folder, number) for number in range(1, COUNT + 1)]
    assert watch(job, WatchConfig(count=COUNT, settle=0.0, fit_on=2), look, ticking(*drops)).complete
    final = read_levels(job.output)[0]
    assert sorted(seen) == list(range(COUNT))
    for z, voxels in seen.items():
        np.testing.assert_array_equal(voxels, final[z])


def test_the_volume_has_no_more_sections_than_have_landed(folder: Path) -> None:
    job, depths = job_of(folder), list[int]()

    def look(event: Event) -> None:
        if isinstance(event, SectionsReached) and event.state == "enhanced":
            depths.append(growing(job.output).shape[0])

    drops = [lambda number=number: drop(folder, number) for number in range(1, COUNT + 1)]
    assert watch(job, WatchConfig(idle=1.0, settle=0.0, fit_on=1), look, ticking(*drops)).complete
    assert depths == sorted(depths)
    assert depths[0] < depths[-1] == COUNT


def test_a_section_waits_for_its_context_and_the_last_for_the_end(folder: Path) -> None:
    job, told = job_of(folder, **CONTEXT), Told()
    before: list[list[int]] = []

    def count_so_far() -> None:
        before.append(told.numbers("enhanced"))

    steps = [lambda number=number: (count_so_far(), drop(folder, number)) for number in range(1, COUNT + 1)]
    assert finish(job, told, WatchConfig(idle=1.0, settle=0.0, fit_on=1), *steps, count_so_far).complete
    for landed, enhanced in enumerate(before[1:], start=1):
        assert enhanced == list(range(1, max(1, landed - 1)))  # two sections behind
    assert told.numbers("enhanced") == list(range(1, COUNT + 1))
    assert_batch(job, **CONTEXT)


def test_a_missing_number_is_told_and_waits_at_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GAP_SECONDS", 0.05)
    job, told = job_of(folder), Told()
    drop(folder, 1, 2, 4, 7)
    first = finish(job, told, WatchConfig(idle=1.0, settle=0.0))
    assert not first.complete
    assert first.missing == (3, 5, 6)
    assert told.numbers("missing") == [3, 5, 6]
    assert "sections 3, 5, 6 have not come yet; their places are kept" in told.texts(SectionsReached)
    assert told.numbers("enhanced") == [1, 2, 4, 7]
    assert attributes(job.output)["steps"]["missing"] == [2, 4, 5]
    assert not np.asarray(growing(job.output)[2]).any()
    drop(folder, 5, 3, 6)
    told = Told()
    assert finish(job, told, WatchConfig(idle=1.0, settle=0.0)).complete
    assert told.numbers("enhanced") == [3, 5, 6]
    assert_batch(job)


def test_a_watch_that_falls_behind_says_so_and_when_it_has_caught_up(folder: Path) -> None:
    count = 3 * LATE
    told = Told()
    finish(job_of(folder), told, WatchConfig(count=count, settle=0.0), lambda: drop(folder, *range(1, count + 1), count=count))
    late = [text for text in told.texts(Noted) if "late" in text]
    assert late[0].startswith(f"late: {count - 1} sections have landed and wait")
    assert late[1:] == ["no longer late: every section that can be is enhanced"]  # not once for every section
    told = Told()
    few = folder / "few"
    few.mkdir()
    finish(job_of(few), told, WatchConfig(count=4, settle=0.0), lambda: drop(few, 1, 2, 3, 4))
    assert [text for text in told.texts(Noted) if "late" in text] == []


def test_what_is_unlike_the_others_is_refused_by_name(folder: Path) -> None:
    """Another size or dtype, another name, a number that is there already, one before the first or after the last."""
    job, told = job_of(folder), Told()
    drop(folder, *range(2, 5), first=2)
    wrong = {
        "scan_5.tif": sections(1, (37, 44))[0],
        "scan_6.tif": sections(1)[0].astype(np.uint16),
        "other_7.tif": sections(1)[0],
        "scan_02.tif": sections(1)[0],
        "scan_1.tif": sections(1)[0],
        "scan_9.tif": sections(1)[0],
    }

    def add() -> None:
        for name, voxels in wrong.items():
            write_section(folder, 0, voxels, name)

    def mend() -> None:
        (folder / "scan_5.tif").unlink()
        drop(folder, 5, 6, 7, 8, first=2)

    finished = finish(job, told, WatchConfig(count=7, settle=0.0), lambda: None, add, mend)
    assert finished.complete
    refused = [event.name for event in told.events if isinstance(event, SectionRefused)]
    assert sorted(refused) == sorted(wrong)
    assert any("37 x 44" in text and "37 x 45" in text for text in told.texts(SectionRefused))
    assert [text for text in told.texts(SectionRefused) if "uint16" in text and "uint8" in text]


def test_a_volume_that_grows_is_watched_like_a_folder(tmp_path: Path) -> None:
    """Chunks one section thick, in an array of full or growing length; half a section is not taken."""
    source = tmp_path / "scope.zarr"
    write_input(source, np.zeros((COUNT, 37, 45), np.uint8), chunk=(1, 32, 32))
    array = zarr.open_array(str(source / "0"), mode="r+", config={"write_empty_chunks": True})

    def half(z: int) -> None:
        array[z, :32] = sections(COUNT)[z, :32]

    def whole(z: int) -> None:
        half(z)
        array[z, 32:] = sections(COUNT)[z, 32:]

    def look_at(z: int) -> None:
        assert z not in told.numbers("enhanced")
        whole(z)

    job, told = job_of(source), Told()
    steps = [step for z in range(COUNT) for step in (lambda z=z: half(z), lambda z=z: look_at(z))]
    assert finish(job, told, WatchConfig(count=COUNT, settle=0.0, fit_on=1), *steps).complete
    assert told.numbers("enhanced") == list(range(COUNT))
    assert_batch(job)
    np.testing.assert_array_equal(read_levels(raw_place(job.input, job.output))[0], sections(COUNT))


def test_a_volume_of_thick_chunks_is_refused(tmp_path: Path) -> None:
    write_input(tmp_path / "scope.zarr", sections(4), chunk=(4, 32, 32))
    assert refusal(lambda: finish(job_of(tmp_path / "scope.zarr"))) == "input.thick-chunks"


def test_sections_that_are_waited_with_are_told(folder: Path) -> None:
    job, told = job_of(folder), Told()
    steps = [lambda number=number: drop(folder, number) for number in range(1, COUNT + 1)]
    assert finish(job, told, WatchConfig(count=COUNT, settle=0.0), *steps).complete
    assert told.texts(Waiting) == ["enhancing begins once there are 3 sections, for the statistics (--fit-on)"] * 2
    assert [type(event) for event in told.events[:6]] == [SectionsReached, Waiting] * 2 + [SectionsReached, WatchStarted]
    assert told.numbers("landed") == list(range(1, COUNT + 1))


def test_places_where_something_else_is_are_left_alone(folder: Path) -> None:
    drop(folder, 1, 2, 3)
    job = job_of(folder)
    write_input(Path(job.output), sections(2))
    assert refusal(lambda: finish(job)) == "output.exists"
    assert not Path(f"{job.output}.job").exists()
    assert refusal(lambda: finish(job_of(folder.parent / "nowhere"))) == "input.not-found"


def test_what_cannot_be_is_told_before_anything_is_enhanced(folder: Path) -> None:
    drop(folder, 1, 2, 3)
    without = job_of(folder).model_copy(update={"voxel_size": None})
    assert refusal(lambda: finish(without)) == "input.no-voxel-size"
    assert refusal(lambda: finish(job_of(folder, **DEEP))) == "config.option"
    assert refusal(lambda: finish(job_of(folder, model="match"))) == "config.option"
    assert refusal(lambda: finish(job_of(folder, repair_sections="fill"))) == "config.option"


def test_a_section_that_cannot_be_enhanced_does_not_stop_the_others(folder: Path) -> None:
    """NaN that nobody declared: it is told, and the volume is not called whole."""
    voxels = sections(5).astype(np.float32)
    voxels[2, 3, 3] = np.nan
    for number, section in enumerate(voxels, start=1):
        write_section(folder, number, section)
    told = Told()
    watched = finish(job_of(folder), told, WatchConfig(count=5, settle=0.0, fit_on=1))
    assert not watched.complete
    assert watched.failed == (3,)
    assert told.numbers("enhanced") == [1, 2, 4, 5]
    assert any(text.startswith("section 3 cannot be enhanced") and "NaN" in text for text in told.texts(SectionsReached))


def test_outputs_stand_beside_the_folder() -> None:
    assert default_output("/data/incoming/") == "/data/incoming-enhanced.zarr"
    assert raw_place("/scope/incoming", "/data/enhanced.zarr") == "/data/incoming-raw.zarr"


@pytest.mark.parametrize(
    "options",
    [{"level": 1}, {"mask": "mask.zarr"}, {"roi": "0:2,:,:"}, {"roi": "0:2,:,:", "crop": True}, {"format": "ome-zarr-0.4"}],
    ids=lambda given: str([*given]),
)
def test_options_about_a_whole_volume_are_refused_by_name_before_anything_is_written(
    folder: Path, options: dict[str, Any]
) -> None:
    drop(folder, 1)
    job = job_of(folder, **options)
    with pytest.raises(ConfigError, match=f"--{next(iter(options))} "):
        watch(job, QUICK, lambda _: None)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
