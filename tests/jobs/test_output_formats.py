"""A job keeps its promises in every format that is written: the same voxels, resumed, verified, repaired and adopted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from bucket_server import BucketServer
from small_jobs import (
    ROOTS,
    SMALL,
    Interrupting,
    Recording,
    attributes,
    digest,
    noise,
    run,
    shard_files,
    voxels_of,
    write_input,
)

from volumetool.errors import ConfigError, FingerprintError, OutputError
from volumetool.jobs import preparation
from volumetool.jobs import run as module
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.adopt import adopt
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import Extent, verify, verify_output
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.writing.names import DEFAULT, WrittenName

Options = dict[str, Any]

OTHERS = [name for name in get_args(WrittenName) if name != DEFAULT]
ENDINGS = {"n5": ".n5", "precomputed": ".precomputed"}
"""Those whose format the name of the output says."""

CHUNK = {"chunk": "4,16,16"}
UNSHARDED = {name: value for name, value in SMALL.items() if name != "shard"} | CHUNK | {"region": "1,2,2"}


def fast(*names: str) -> Any:
    """Run a test with every format but the default; with some of them always, with the rest where time does not matter."""
    marks = {name: () if name in names else (pytest.mark.slow,) for name in OTHERS}
    return pytest.mark.parametrize("options", [pytest.param(name, marks=marks[name]) for name in OTHERS], indirect=True)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in.zarr", noise((6, 30, 40)))


@pytest.fixture
def options(request: pytest.FixtureRequest, tmp_path: Path, volume: Path) -> Options:
    """Give the options of a small job of a format: of some, the name of the output says it."""
    name: str = request.param
    if name in ENDINGS:
        return {"input": str(volume), "output": str(tmp_path / f"out{ENDINGS[name]}"), **UNSHARDED}
    return {"input": str(volume), "output": str(tmp_path / "out"), "format": name, **UNSHARDED}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the digest of the job in the default format, in one go."""
    folder = tmp_path_factory.mktemp("straight")
    write_input(folder / "in.zarr", noise((6, 30, 40)))
    assert run(input=str(folder / "in.zarr"), output=str(folder / "out.zarr"), **SMALL | CHUNK).complete
    assert digest(folder / "out.zarr") == voxels_of(folder / "out.zarr")
    return digest(folder / "out.zarr")


@fast(*OTHERS)
def test_an_interrupted_job_goes_on_to_the_voxels_of_the_default_format(options: Options, straight: str) -> None:
    stopped, again = Interrupting(1), Recording()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, **options)
    assert attributes(options["output"])["status"] == "unfinished"
    outcome = run(again, **options)
    assert outcome.complete
    assert not {ended.region for ended in again.ended} & {ended.region for ended in stopped.ended}
    assert voxels_of(options["output"]) == straight
    assert verify(outcome.plan).ok
    if outcome.plan.spec.format.startswith("ome-zarr"):
        assert validate_volume(options["output"]) == []


@pytest.mark.parametrize("step", ["create_volume", "finish"])
@fast("ome-zarr-0.4")
def test_a_run_that_dies_before_or_after_all_regions_is_taken_up(
    options: Options, straight: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module if hasattr(module, step) else preparation, step, die)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
    assert run(**options).complete
    assert voxels_of(options["output"]) == straight


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@fast("n5")
def test_damage_is_found_and_what_it_hit_is_made_again(options: Options, straight: str) -> None:
    """To chunks of the finest level and of a coarse one, to all metadata, and by a file that belongs to nobody."""
    output = Path(options["output"])
    run(**options)
    chunks = shard_files(output)
    metadata = [file for file in sorted(output.rglob("*")) if file.is_file() and file not in chunks]
    stranger = chunks[0].with_name("stranger")
    before = {file: file.read_bytes() for file in chunks}
    flip(chunks[0])
    cut(chunks[1])
    chunks[2].unlink()
    flip(chunks[-1])
    stranger.write_bytes(b"?")
    mend(options, {*chunks[:3], chunks[-1], stranger})
    assert {file: file.read_bytes() for file in shard_files(output)} == before
    for file in metadata:
        cut(file)
    mend(options, set(metadata))
    assert voxels_of(output) == straight


def mend(options: Options, broken: set[Path]) -> None:
    """Find damage, each with its place, let it be made good, and find none."""
    checked, report = verify_output(options["output"], Extent("stored"))
    assert {Path(damage.place) for damage in report.damaged} == broken
    mark_for_recompute(checked, report)
    assert run(**options).complete
    assert verify(checked).ok


@fast("precomputed")
def test_an_output_without_its_folder_is_adopted(options: Options) -> None:
    run(**options)
    shutil.rmtree(f"{options['output']}.job")
    adopt(options["output"])
    made = stored_plan(options["output"])
    assert made is not None
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 0)


@pytest.mark.parametrize("name", [DEFAULT, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_job_from_bucket_to_bucket_is_resumed_verified_and_repaired(kept: BucketServer, tmp_path: Path, name: str) -> None:
    source, ending = write_input(kept.folder / "bucket" / "in.zarr", noise((6, 16, 24))), ENDINGS.get(name, "")
    assert run(**SMALL | CHUNK, input=str(source), output=str(tmp_path / "straight.zarr")).complete
    asked = {"input": "s3://bucket/in.zarr", "output": f"s3://bucket/out{ending}", "format": name}
    options = asked | (SMALL | CHUNK if name == DEFAULT else UNSHARDED | {"region": "1,1,2"})
    output = kept.folder / "bucket" / f"out{ending}"
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(1), **options)
    assert attributes(output)["status"] == "unfinished"
    assert run(**options).complete
    assert voxels_of(output) == digest(tmp_path / "straight.zarr")
    stored = {file: file.read_bytes() for file in shard_files(output)}
    first, second, *_, last = stored
    cut(first)
    second.unlink()
    last.with_name("stranger").write_bytes(b"?")
    checked, report = verify_output(options["output"], Extent("stored"))
    broken = (first, second, last.with_name("stranger"))
    assert {damage.place for damage in report.damaged} == {f"s3://{file.relative_to(kept.folder)}" for file in broken}
    mark_for_recompute(checked, report)
    assert run(**options).complete
    assert verify(checked).ok
    assert {file: file.read_bytes() for file in shard_files(output)} == stored


def test_another_format_is_another_job_which_takes_overwrite(tmp_path: Path, volume: Path) -> None:
    options = {"input": str(volume), "output": str(tmp_path / "out"), **UNSHARDED}
    run(**options | {"format": "n5"})
    with pytest.raises(FingerprintError) as caught:
        run(**options | {"format": "ome-zarr-0.4"})
    assert caught.value.code == "job.fingerprint"
    assert "--format" in caught.value.message
    assert run(**options | {"format": "ome-zarr-0.4", "overwrite": True}).complete
    assert [name for name in ROOTS if (tmp_path / "out" / name).exists()] == [".zattrs"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"output": "out.n5", "format": "ome-zarr-0.4"}, "output.format"),
        ({"output": "out.zarr", "format": "n5"}, "output.format"),
        ({"output": "out.n5", "shard": "8,64,64"}, "config.shard"),
        ({"output": "out.n5", "nodata": 7}, "output.fill-value"),
        ({"output": "out.precomputed", "nodata": 0, "fill": 3}, "output.fill-value"),
    ],
)
def test_what_a_format_cannot_keep_is_refused_before_anything_is_written(
    tmp_path: Path, volume: Path, more: Options, code: str
) -> None:
    options = {"input": str(volume), **UNSHARDED, **more, "output": str(tmp_path / more["output"])}
    with pytest.raises((ConfigError, OutputError)) as caught:
        plan(make_job(**options))
    assert caught.value.code == code
    assert not Path(options["output"]).exists()


def test_a_plan_says_how_far_precomputed_moves_a_level(tmp_path: Path, volume: Path) -> None:
    """The output's corner lies half a voxel before 0 along z, and a whole one along y and x."""
    job = {"input": str(volume), **UNSHARDED}
    assert not any("from its place" in note for note in plan(make_job(**job, output=str(tmp_path / "out.n5"))).notes)
    (first, *_) = plan(make_job(**job, output=str(tmp_path / "out.precomputed"))).notes
    assert "level 0 will lie 4, 0, 0 nm (z, y, x) from its place" in first


def test_several_channels_are_refused_by_precomputed_and_kept_apart_by_the_others(tmp_path: Path) -> None:
    voxels = noise((2, 6, 20, 20))
    made = write_input(tmp_path / "in.zarr", voxels)
    with pytest.raises(OutputError) as caught:
        plan(make_job(input=str(made), output=str(tmp_path / "out.precomputed"), **UNSHARDED))
    assert caught.value.code == "output.channels"
    for name in ("n5", "ome-zarr-0.4"):
        outcome = run(input=str(made), output=str(tmp_path / name), format=name, **UNSHARDED)
        assert verify(outcome.plan).ok
        volume = open_volume(tmp_path / name)
        assert not np.array_equal(*(volume.open(0, channel).read().result() for channel in (0, 1)))
