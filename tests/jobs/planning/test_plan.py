"""Planning decides everything, writes nothing, and refuses what cannot be by a stable code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from small_jobs import SMALL, attributes, empty_input, noise, run, states, tree, write_input

from volumetool.errors import VolumetoolError
from volumetool.events import Event, Progressed
from volumetool.jobs.choices import BatchingChoice
from volumetool.jobs.job import make_job, read_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.planning.resources import Resources
from volumetool.jobs.records.ledger import DONE
from volumetool.jobs.records.plan_file import open_ledger

BLOCKS = "fake:position?dims=3&scale=2,2,2&patch=8,16,16&overlap=2,4,4&trim=0,1,1"


def counted_patches(decided: Plan) -> int:
    """Count the patches of every region by trying every patch of the lattice."""
    lattice, origin = decided.spec.lattice, decided.spec.box.start
    total = 0
    for index in decided.grid.touching(decided.roi):
        box = decided.grid.region(index).box.shifted(origin)
        number = 1
        for line, low, high in zip(lattice.axes, box.start, box.stop, strict=True):
            weights = [(line.weight_start(i), line.weight_stop(i)) for i in range(line.count)]
            number *= sum(start < high and low < stop for start, stop in weights)
        total += number
    return total


def test_planning_writes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    before = tree(tmp_path)
    plan(make_job(**options))
    plan(make_job(**options | {"workers": 2, "overwrite": True}))
    assert tree(tmp_path) == before


def test_a_worker_gets_what_the_batch_system_gave_and_no_more(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = 2048 + psutil.Process().memory_info().rss // 2**20  # MiB; the tests before this one hold some of it
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(given))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    decided = plan(make_job(**options | {"memory": None, "workers": None}))
    assert 0 < decided.estimates.allowed_bytes <= 0.7 * given * 2**20
    assert decided.threads == 1
    assert dict(describe_plan(decided))["memory"].endswith(" allowed")


def test_planning_a_begun_job_writes_nothing_and_gives_its_plan(options: dict[str, Any], tmp_path: Path) -> None:
    first = run(**options | {"roi": "0:2,:,:"}).plan
    before = tree(tmp_path)
    again = plan(make_job(**options | {"region": "2,2,2"}))
    assert tree(tmp_path) == before
    assert (again.fingerprint, again.grid) == (first.fingerprint, first.grid)
    assert again.job.roi is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"region": "1,2,2"}, marks=pytest.mark.slow),
        {"region": "2,5,6"},
        {"model": BLOCKS, "region": "1,2,1"},
        {"roi": "3:7,5:18,20:40", "crop": True},
    ],
    ids=["rows", "blocks", "one", "3d", "crop"],
)
def test_the_estimates_are_what_the_ledger_counts(options: dict[str, Any], more: dict[str, Any]) -> None:
    """Patches and recomputed patches of the plan equal a count by hand and the sums over all records, exactly."""
    outcome = run(**options | more)
    totals = open_ledger(outcome.plan).totals()
    estimates = outcome.plan.estimates
    assert estimates.patches == counted_patches(outcome.plan) == totals.patches
    assert estimates.recomputed == totals.recomputed
    if "crop" not in more:
        assert totals.patches - totals.recomputed == outcome.plan.spec.lattice.count


def test_the_estimates_of_a_region_of_interest_are_those_of_its_regions(options: dict[str, Any]) -> None:
    outcome = run(**options | {"roi": "0:6,8:20,:"})
    totals = open_ledger(outcome.plan).totals()
    assert 0 < totals.done < outcome.regions
    assert outcome.plan.estimates.patches == counted_patches(outcome.plan) == totals.patches


def test_the_plan_says_which_box_is_computed_for_a_region_of_interest(options: dict[str, Any]) -> None:
    """Regions are whole: the ledger has done the box that the plan names, so many times the one asked for."""
    outcome = run(**options | {"roi": "0:2,8:20,:"})
    decided = outcome.plan
    done = [decided.grid.region(index).box for index, state in enumerate(states(outcome)) if state == DONE]
    computed = decided.computed_box
    assert computed is not None
    assert computed.voxels == sum(box.voxels for box in done)
    assert all(computed.contains(box) for box in done)
    assert decided.roi is not None
    text = dict(describe_plan(decided))["box"]
    assert "0:2,8:20,0:45" in text
    assert str(computed.coarsened(decided.spec.lattice.scale)) in text
    assert f"{computed.voxels / decided.roi.voxels:.3g} times" in text


@pytest.mark.parametrize("more", [{}, pytest.param({"crop": True}, marks=pytest.mark.slow)])
def test_a_box_beyond_the_volume_is_said_each_time(options: dict[str, Any], more: dict[str, Any]) -> None:
    beyond = options | more | {"roi": "4:12,:,:"}
    for decided in (run(**beyond).plan, plan(make_job(**beyond))):
        (note,) = decided.notes
        for words in ("4:12,0:,0:", "4:10,0:37,0:45", "10 x 37 x 45", "level 0 of"):
            assert words in note
    if not more:
        assert plan(make_job(**options)).notes == ()


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ("10:12,:,:", "along z it begins at 10, and the last voxel is 9"),
        ("5:5,:,:", "along z it is empty, 5:5"),
        ("0:1,-2:3,:", "before voxel 0"),
    ],
)
def test_a_box_that_holds_nothing_is_refused_with_its_coordinates_and_why(options: dict[str, Any], box: str, why: str) -> None:
    with pytest.raises(VolumetoolError, match=r"z,y,x") as caught:
        plan(make_job(**options | {"roi": box}))
    assert why in caught.value.message


def test_read_and_written_objects_are_estimated(options: dict[str, Any]) -> None:
    outcome = run(**options)
    files = [file for file in Path(options["output"]).rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert outcome.plan.estimates.objects == len(files)
    size = sum(file.stat().st_size for file in files)
    assert 0.5 * size < outcome.plan.estimates.written_bytes < 2 * size


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_default_plan_computes_little_twice_and_leaves_no_worker_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """With the lattice of em-x4 at 0.1 s a patch: at most a tenth twice for one worker, work for each of several."""
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=0.1, compression=0.8))
    source = empty_input(tmp_path / "in.zarr", (200, 340, 520), (8.0, 32.0, 32.0))
    model = "fake:identity?patch=1,144,144&overlap=0,16,16&trim=0,4,4"
    options = {"input": source, "output": str(tmp_path / "out.zarr"), "model": model, "device": "cpu", "memory": "16GiB"}
    decided = plan(make_job(**options, workers=workers, patch_cache="never"))
    assert decided.estimates.patches == counted_patches(decided)
    distinct = decided.estimates.patches - decided.estimates.recomputed
    assert distinct == decided.spec.lattice.count
    assert decided.estimates.recomputed <= (0.1 if workers == 1 else 0.6) * distinct
    assert decided.grid.count >= workers


def test_the_time_is_that_of_all_workers_each_at_its_own_rate(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them the sample was timed on."""
    measured = {"fast": 1.0, "slow": 10.0}
    seconds = []
    for name, patch_seconds in measured.items():
        sample = Sample(patch_seconds=patch_seconds, compression=0.8)
        monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_, sample=sample: sample)
        resources = Resources(2, 1, 2**33, "its memory", rates={"fast": 5e9, "slow": 5e8}, planner=name)
        decided = plan(make_job(**options), resources=resources)
        seconds.append(decided.estimates.seconds / decided.estimates.patches)
    assert seconds == pytest.approx([1 / 1.1, 1 / 1.1])


def test_a_volume_whose_sample_is_blank_is_not_planned_as_if_it_took_no_space(tmp_path: Path) -> None:
    source = empty_input(tmp_path / "in.zarr", (16, 64, 64), (8.0, 32.0, 32.0))
    decided = plan(make_job(input=source, output=str(tmp_path / "out.zarr"), **SMALL))
    assert decided.estimates.written_bytes > 16 * 256 * 256


def test_less_memory_gives_narrower_regions_of_the_same_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine so fast that no region is cut for the time it takes.
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=1e-6, compression=0.8))
    source = empty_input(tmp_path / "in.zarr", (64, 2000, 2000), (8.0, 32.0, 32.0))
    job = {"input": source, "output": str(tmp_path / "o"), **SMALL, "chunk": "16,64,64", "shard": "64,512,512", "region": None}
    wide = plan(make_job(**job | {"memory": "8GiB"}))
    narrow = plan(make_job(**job | {"memory": "1400MiB"}))
    assert narrow.fingerprint == wide.fingerprint
    assert narrow.grid.span[1] < wide.grid.span[1] == 16
    for decided in (wide, narrow):
        assert decided.estimates.worker_bytes <= decided.estimates.allowed_bytes


def test_a_plan_survives_json(options: dict[str, Any], tmp_path: Path) -> None:
    source = str(write_input(tmp_path / "float.zarr", noise((10, 37, 45), "float32")))
    for more in ({}, {"input": source, "nodata": float("nan"), "roi": "1:5,:,3:9"}):
        decided = plan(make_job(**options | more))
        again = Plan.model_validate_json(decided.model_dump_json())
        assert again.model_dump_json() == decided.model_dump_json()
        assert again.fingerprint == again.spec.fingerprint == decided.fingerprint
        assert repr(again.job) == repr(decided.job)


class Refused(NamedTuple):
    """Options that are refused: what is changed, and the code."""

    code: str
    options: dict[str, Any]


REFUSED = {
    "memory": Refused("resource.memory", {"memory": "64MiB"}),
    "memory of many workers": Refused("resource.memory", {"workers": 100}),
    "output is the input": Refused("output.inside-input", {"output": "in.zarr"}),
    "output inside the input": Refused("output.inside-input", {"output": "in.zarr/enhanced"}),
    "input inside the output": Refused("output.inside-input", {"input": "in.zarr/0", "output": "in.zarr"}),
    "output exists": Refused("output.exists", {"output": "finished"}),
    "output is a file": Refused("output.exists", {"output": "file"}),
    "overwriting what is no job's": Refused("output.foreign", {"output": "finished", "overwrite": True}),
    "overwriting a volume that is no job's": Refused("output.foreign", {"output": "mask3.zarr", "overwrite": True}),
    "overwriting a file": Refused("output.foreign", {"output": "file", "overwrite": True}),
    "voxel size": Refused("model.voxel-size", {"model": "tiny", "voxel_size": "8,4,4"}),
    "no model fits": Refused("model.none-fits", {"model": "auto", "voxel_size": "8,1,1"}),
    "unknown model": Refused("model.unknown", {"model": "em-x5"}),
    "fake of nonsense": Refused("model.fake", {"model": "fake:identity?mood=good"}),
    "model that is no model": Refused("model.broken", {"model": "file"}),
    "box outside": Refused("config.roi", {"roi": "10:12,:,:"}),
    "crop without box": Refused("config.roi", {"crop": True}),
    "box that is none": Refused("config.option", {"roi": "1:2,3"}),
    "empty box": Refused("config.option", {"roi": "5:5,:,:"}),
    "box before the volume": Refused("config.option", {"roi": "-1:5,:,:"}),
    "patch below the overlap": Refused("config.patch", {"patch": "1,4,4"}),
    "patch off the grain": Refused("config.patch", {"model": "tiny", "patch": "1,49,48"}),
    "overlap above the patch": Refused("config.patch", {"overlap": "0,16,16", "patch": "1,16,16"}),
    "deep patch of a flat model": Refused("config.patch", {"overlap": "1,4,4", "patch": "1,16,16"}),
    "dtype too small": Refused("config.dtype", {"input": "wide.zarr", "model": "tiny", "dtype": "uint8"}),
    "dtype unknown": Refused("config.option", {"dtype": "uint32"}),
    "nodata that the dtype lacks": Refused("config.nodata", {"nodata": float("nan")}),
    "fill that the dtype lacks": Refused("config.nodata", {"nodata": 0, "fill": 256}),
    "mask of another shape": Refused("config.mask", {"mask": "wide.zarr"}),
    "mask that is missing": Refused("input.not-found", {"mask": "nothing.zarr"}),
    "level": Refused("config.level", {"level": 1}),
    "negative level": Refused("config.option", {"level": -1}),
    "sections that are missing": Refused("config.statistics", {"statistics": "nothing.csv"}),
    "sections that are no table": Refused("config.statistics", {"statistics": "file"}),
    "shard that is no chunks": Refused("config.shard", {"shard": "8,64,36"}),
    "cluster": Refused("config.option", {"cluster": "slurm"}),
    "workers": Refused("config.option", {"workers": 0}),
    "unknown option": Refused("config.option", {"mood": "good"}),
    "input missing": Refused("input.not-found", {"input": "nothing.zarr"}),
    "input that is no volume": Refused("input.not-a-volume", {"input": "finished"}),
    "input without voxel size": Refused("input.no-voxel-size", {"input": "in.zarr/0", "output": "o"}),
    "input of another scheme": Refused("input.url", {"input": "ftp://host/volume"}),
    "gpu": Refused("resource.no-gpu", {"device": "cuda"}),
}

PATHS = ("input", "output", "mask", "statistics")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of things that are right, and others that are not."""
    folder = tmp_path_factory.mktemp("places")
    write_input(folder / "in.zarr", noise((10, 37, 45)), chunk=(10, 37, 45))
    write_input(folder / "wide.zarr", noise((9, 50, 46), "uint16"), chunk=(9, 50, 46))
    write_input(folder / "mask3.zarr", noise((4, 13, 15)), chunk=(4, 13, 15))
    (folder / "finished").mkdir()
    (folder / "finished" / "thesis.txt").write_text("years of work")
    (folder / "file").write_text("a file")
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_its_code_and_nothing_is_touched(places: Path, tiny_model: Path, name: str) -> None:
    code, more = REFUSED[name]
    if code == "resource.no-gpu":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    asked = {"input": "in.zarr", "output": "out.zarr", **SMALL, **more}
    asked |= {key: str(places / asked[key]) for key in PATHS if key in asked and "://" not in asked[key]}
    asked["model"] = {"file": str(places / "file"), "tiny": str(tiny_model)}.get(asked["model"], asked["model"])
    if code == "input.no-voxel-size":
        asked["input"] = str(_bare_array(places))
    before = tree(places)
    with pytest.raises(VolumetoolError) as caught:
        run(**asked)
    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert tree(places) == before


def _bare_array(places: Path) -> Path:
    bare = places / "bare.zarr"
    if not bare.exists():
        shutil.copytree(places / "in.zarr" / "0", bare)
    return bare


def test_a_full_disk_is_refused_before_anything_is_written(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    before = tree(tmp_path)
    monkeypatch.setattr("volumetool.machine.shutil.disk_usage", lambda _place: Usage(1000))
    with pytest.raises(VolumetoolError) as caught:
        run(**options)
    assert caught.value.code == "resource.disk"
    assert "its file system leaves 1000 B" in caught.value.message
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("size", "forced", "noted"),
    [("8,32,32", False, False), ("8,12,12", False, True), ("8,100,100", False, True), ("8,4,4", True, True)],
)
def test_a_voxel_size_outside_the_models_range_is_noted_and_stamped(
    options: dict[str, Any], tiny_model: Path, size: str, *, forced: bool, noted: bool
) -> None:
    options |= {"model": str(tiny_model), "voxel_size": size, "force_voxel_size": forced, "roi": "0:2,0:8,0:8"}
    outcome = run(**options)
    assert bool(outcome.plan.notes) == noted
    assert outcome.plan.extrapolated == noted
    assert attributes(options["output"])["extrapolated"] == noted


def test_a_job_file_is_the_same_job_and_options_beside_it_win(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
    assert read_job(file) == make_job(**options)
    assert read_job(file, seed=3).seed == 3


@pytest.mark.parametrize(
    ("text", "code"), [("- 1\n", "config.file"), ("a: [", "config.file"), ("modle: em-x4\n", "config.option")]
)
def test_a_job_file_that_is_none_is_refused(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(VolumetoolError) as caught:
        read_job(file)
    assert caught.value.code == code
    if code == "config.option":
        assert "did you mean model?" in caught.value.message


def test_progress_of_the_statistics_is_told(options: dict[str, Any], tiny_model: Path) -> None:
    told: list[Event] = []
    plan(make_job(**options | {"model": str(tiny_model)}), told.append)
    assert isinstance(told[-1], Progressed)
    assert (told[-1].done, told[-1].total) == (10, 10)


def test_no_more_calls_run_side_by_side_than_there_are_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one patch covers the volume all threads work on it, however fast several would be side by side."""
    paces = (BatchingChoice(1, 1, 2.0), BatchingChoice(4, 1, 1.0))
    monkeypatch.setattr("volumetool.jobs.planning.resolve.autotune", lambda *_: paces)
    streams = []
    for sections in (1, 4):
        write_input(tmp_path / f"{sections}.zarr", noise((sections, 10, 10)))
        places = {"input": str(tmp_path / f"{sections}.zarr"), "output": str(tmp_path / f"out{sections}.zarr")}
        streams.append(plan(make_job(**places, **SMALL)).streams)
    assert streams == [1, 4]
