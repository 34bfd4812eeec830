"""A trust volume is made in the pass that makes the output, and is kept as the output is."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import (
    SMALL_3D,
    Interrupting,
    assert_means,
    attributes,
    digest,
    noise,
    read_levels,
    run,
    shard_files,
    write_input,
)

from volumetool.errors import ConfigError, FingerprintError, LedgerError, OutputError
from volumetool.jobs.choices import BatchingChoice
from volumetool.jobs.execution.clean import LEFTOVER, clean_output
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.adopt import adopt
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import Depth, Extent, verify
from volumetool.storage.open import open_volume

NODATA = 0


def volume(shape: tuple[int, int, int]) -> Any:
    """Return noise with a hole without data."""
    voxels = noise(shape)
    voxels[2:5, 3:19, 7:25] = NODATA
    return voxels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with an input, and with a job that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trust")
    write_input(folder / "in.zarr", volume((12, 38, 41)), chunk=(8, 16, 16))
    assert run(**options(folder)).complete
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the options of a job with a trust volume; `more` wins."""
    places = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "trust": str(folder / "trust.zarr")}
    return SMALL_3D | places | {"nodata": NODATA} | more


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Give a copy of that folder: volumes may move together."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def both(folder: Path) -> tuple[str, str]:
    """Return the digests of output and trust volume."""
    return digest(folder / "out.zarr"), digest(folder / "trust.zarr")


def test_the_output_is_that_of_a_job_without_and_the_trust_volume_holds_the_channels(folder: Path, tmp_path: Path) -> None:
    """Its voxels are means of those of the channel in float32, and 0 without data; its levels are means of them."""
    plain = options(folder, output=str(tmp_path / "plain.zarr"), trust=None)
    run(**plain)
    assert digest(tmp_path / "plain.zarr") == digest(folder / "out.zarr")
    channels = plain | {"output": str(tmp_path / "both.zarr"), "model": SMALL_3D["model"] + ";consistency=true"}
    run(**channels)
    exact, valid = read_levels(tmp_path / "both.zarr")[0][1], read_levels(folder / "out.zarr")[0] != NODATA
    (stored,) = read_levels(folder / "trust.zarr")[0]
    assert stored.dtype == np.int8
    told, own = attributes(folder / "out.zarr"), attributes(folder / "trust.zarr")
    assert own["block"] == [4, 1, 1]
    # A grey value of an input voxel is blended as one, not as the voxels made of it: over them a ramp is not quite constant.
    means = np.where(valid, np.clip(exact, -128, 127), 0).reshape(6, 4, 76, 82).mean(1)
    assert abs(stored - means).max() < 2.5
    assert (abs(stored - means) <= 1).mean() > 0.98
    assert (stored == 0)[~valid.reshape(6, 4, 76, 82).any(1)].all()
    assert len(np.unique(stored)) > 5
    assert_means(str(folder / "trust.zarr"))
    assert own["channels"] == ["consistency"]
    assert own["holds"] == [-128, 127]
    assert {name: own[name] for name in told if name != "checksum"} == {name: told[name] for name in told if name != "checksum"}


@pytest.mark.parametrize("more", [{"region": "1,2,1"}, {"patch_cache": "always"}], ids=["other regions", "kept patches"])
def test_both_volumes_have_the_same_bytes_for_any_cut_after_an_interruption(
    folder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(2), **options(tmp_path, **more))
    assert attributes(tmp_path / "trust.zarr")["status"] == "unfinished"
    assert run(**options(tmp_path, **more)).complete
    assert both(tmp_path) == both(folder)
    assert verify(stored_plan(str(tmp_path / "out.zarr"))).ok


def test_parts_of_a_job_write_both_volumes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    assert not run(**options(tmp_path, part="1/2")).complete
    assert run(**options(tmp_path, part="0/2")).complete
    assert both(tmp_path) == both(folder)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


HARMS: dict[str, tuple[Callable[[Path], None], Depth]] = {
    "a bit of a shard": (lambda place: flip(shard_files(place / "0")[1]), "stored"),
    "a bit of a coarse shard": (lambda place: flip(shard_files(place / "3")[0]), "stored"),
    "a lost shard": (lambda place: shard_files(place / "1")[0].unlink(), "structure"),
    "metadata of a level": (lambda place: (place / "0" / "zarr.json").unlink(), "structure"),
    "metadata of the volume": (lambda place: (place / "zarr.json").unlink(), "structure"),
    "a stranger": (lambda place: (place / "0" / "c" / "notes.txt").write_text("hello"), "structure"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("harm", HARMS)
def test_damage_of_the_trust_volume_is_found_and_repaired(copy: Path, folder: Path, harm: str) -> None:
    hurt, depth = HARMS[harm]
    hurt(copy / "trust.zarr")
    decided = stored_plan(str(copy / "out.zarr"))
    report = verify(decided, Extent(depth))
    assert [damage for damage in report.damaged if str(copy / "trust.zarr") in damage.place]
    mark_for_recompute(decided, report)
    assert run(**options(copy)).complete
    assert verify(decided).ok
    assert both(copy) == both(folder)


def test_a_lost_trust_volume_is_made_again(copy: Path, folder: Path) -> None:
    shutil.rmtree(copy / "trust.zarr")
    assert run(**options(copy)).complete
    assert both(copy) == both(folder)


def test_a_lost_folder_of_the_job_is_made_again_from_both_volumes(copy: Path, folder: Path) -> None:
    """The output names its trust volume as the one beside it; one that is not this job's is left alone."""
    shutil.rmtree(copy / "out.zarr.job")
    flip(shard_files(copy / "trust.zarr" / "0")[0])
    source = str(copy / "in.zarr")
    report = adopt(str(copy / "out.zarr"), source=source)
    assert 0 <= report.regions < report.of
    assert run(**options(copy, region=None)).complete
    assert both(copy) == both(folder)
    shutil.rmtree(copy / "out.zarr.job")
    shutil.rmtree(copy / "trust.zarr")
    shutil.copytree(copy / "in.zarr", copy / "trust.zarr")
    with pytest.raises(OutputError) as caught:
        adopt(str(copy / "out.zarr"), source=source)
    assert caught.value.code == "output.no-job"
    assert digest(copy / "trust.zarr") == digest(copy / "in.zarr")


def test_a_trust_volume_of_another_job_is_refused_beside_the_output(copy: Path) -> None:
    shutil.rmtree(copy / "trust.zarr")
    run(**options(copy, output=str(copy / "other.zarr"), seed=1))
    with pytest.raises(LedgerError) as caught:
        stored_plan(str(copy / "out.zarr"))
    assert caught.value.code == "ledger.other-output"


def test_beginning_anew_deletes_the_earlier_trust_volume_wherever_it_is(copy: Path) -> None:
    assert run(**options(copy, trust=str(copy / "elsewhere.zarr"), overwrite=True)).complete
    assert shard_files(copy / "trust.zarr") == []
    assert not (copy / "trust.zarr" / "zarr.json").exists()
    assert run(**options(copy, trust=None, overwrite=True)).complete
    assert not (copy / "elsewhere.zarr" / "zarr.json").exists()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"output": "new.zarr"}, "output.exists"),
        ({"output": "new.zarr", "trust": "new.zarr/trust"}, "output.inside-input"),
        ({"output": "new.zarr", "trust": "in.zarr"}, "output.inside-input"),
        ({"output": "new.zarr", "trust": "new.n5"}, "output.format"),
        ({"output": "new.zarr", "trust": "new-trust.zarr", "model": "median:radius=0,1,1"}, "config.option"),
        ({"trust": "elsewhere.zarr"}, "job.fingerprint"),
        ({"trust": None}, "job.fingerprint"),
    ],
    ids=["of another job", "inside the output", "the input", "another format", "no network", "another place", "none now"],
)
def test_what_cannot_be_is_refused_and_nothing_touched(folder: Path, more: dict[str, Any], code: str) -> None:
    placed = {name: str(folder / value) if name != "model" and value else value for name, value in more.items()}
    before = both(folder)
    with pytest.raises((OutputError, ConfigError, FingerprintError)) as caught:
        plan(make_job(**{name: value for name, value in options(folder, **placed).items() if value is not None}))
    assert caught.value.code == code
    if code == "job.fingerprint":
        assert "--trust: " in caught.value.message
    assert both(folder) == before


def test_leftovers_of_killed_writers_are_cleaned_away_in_both(copy: Path) -> None:
    left = copy / "trust.zarr" / "0" / f"c{LEFTOVER}"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    assert clean_output(stored_plan(str(copy / "out.zarr"))).removed == (str(left),)


def test_the_plan_counts_what_the_trust_volume_takes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many calls side by side are fastest is measured, and each of them holds patches: here it is one in both.
    monkeypatch.setattr("volumetool.jobs.planning.resolve.autotune", lambda *_: (BatchingChoice(1, 32, 1.0),))
    more = {"output": str(tmp_path / "new.zarr"), "memory": "4GiB"}
    with_trust = plan(make_job(**options(folder, **more | {"trust": str(tmp_path / "trust.zarr")})))
    without = plan(make_job(**options(folder, **more | {"trust": None})))
    levels = open_volume(str(folder / "trust.zarr")).levels
    shards = [math.prod(-(-n // s) for n, s in zip(level.shape, level.shard or level.chunk, strict=True)) for level in levels]
    assert with_trust.estimates.objects == without.estimates.objects + sum(shards)
    assert with_trust.estimates.worker_bytes > without.estimates.worker_bytes
    sizes = [each.estimates.written_bytes / each.estimates.compression for each in (with_trust, without)]
    assert sizes[0] - sizes[1] == pytest.approx(sum(math.prod(level.shape) for level in levels), rel=1e-3)
    lines = dict(describe_plan(with_trust))
    means = "consistency of the means over 4 x 1 x 1 voxels, of 16 x 16 x 16 nm, int8, in grey values of the output"
    assert lines["trust"] == f"{tmp_path / 'trust.zarr'}: {means}"
    assert json.loads(with_trust.model_dump_json())["job"]["trust"] == str(tmp_path / "trust.zarr")
