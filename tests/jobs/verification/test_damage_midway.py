"""What is taken away while a job runs is missed before the job calls anything complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, Interrupting, Recording, attributes, digest, noise, run, shard_files, write_input

from volumetool.errors import OutputError, VolumetoolError
from volumetool.events import Event, Progressed, RegionEnded
from volumetool.geometry import shard_boxes
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import verify_output

Options = dict[str, Any]
Damage = Callable[[Path, np.random.Generator], None]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the digest of the job that nobody disturbs."""
    folder = tmp_path_factory.mktemp("straight")
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    assert run(input=str(folder / "in.zarr"), output=str(folder / "out.zarr"), **SMALL).complete
    return digest(folder / "out.zarr")


class Damaging(Recording):
    """Does harm once a number of regions ended; with -1 of them, when the coarse levels begin."""

    def __init__(self, harm: Callable[[], None], after: int) -> None:
        super().__init__()
        self._harm, self._after = harm, after

    def __call__(self, event: Event) -> None:
        """Do it."""
        super().__call__(event)
        if isinstance(event, RegionEnded) and len(self.ended) == self._after:
            self._harm()
        if isinstance(event, Progressed) and event.done == 0 and self._after < 0:
            self._harm()


def job_of(output: Path) -> Path:
    return output.with_name(output.name + ".job")


def no_plan(output: Path, _: np.random.Generator) -> None:
    (job_of(output) / "plan.json").unlink()


def no_job(output: Path, _: np.random.Generator) -> None:
    shutil.rmtree(job_of(output))


def no_records(output: Path, _: np.random.Generator) -> None:
    for segment in (job_of(output) / "ledger").iterdir():
        segment.write_bytes(b"")


def no_statistics(output: Path, _: np.random.Generator) -> None:
    (job_of(output) / "sections.csv").unlink()


def garbled_level(output: Path, random: np.random.Generator) -> None:
    metadata = sorted(output.glob("*/zarr.json"))
    metadata[random.integers(len(metadata))].write_text('{"zarr_format": 3, "shape": [1]}')


def torn_level(output: Path, random: np.random.Generator) -> None:
    metadata = sorted(output.glob("*/zarr.json"))
    metadata[random.integers(len(metadata))].write_text("{")


def no_root(output: Path, _: np.random.Generator) -> None:
    (output / "zarr.json").unlink()


def no_output(output: Path, _: np.random.Generator) -> None:
    shutil.rmtree(output)


def lost_shards(output: Path, random: np.random.Generator) -> None:
    files = shard_files(output)
    for number in random.choice(len(files), max(1, len(files) // 4), replace=False):
        files[number].unlink()


def cut_shard(output: Path, random: np.random.Generator) -> None:
    files = shard_files(output)
    file = files[random.integers(len(files))]
    file.write_bytes(file.read_bytes()[:-1])


HARMS: tuple[Damage, ...] = (
    no_plan,
    no_job,
    no_records,
    no_statistics,
    garbled_level,
    torn_level,
    no_root,
    no_output,
    lost_shards,
    cut_shard,
)
JOB_LOST = {no_plan, no_job, no_records}
SHARDS_LOST = {lost_shards, cut_shard}


@pytest.mark.thin(5)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("harm", HARMS)
def test_damage_at_a_random_moment_is_never_called_complete(options: Options, straight: str, harm: Damage, seed: int) -> None:
    """It is named; and unless the job itself is lost, the same command goes on to the same bytes, after a repair if need be."""
    random, output = np.random.default_rng([seed, HARMS.index(harm)]), Path(options["output"])
    observer = Damaging(lambda: harm(output, random), int(random.choice([*range(1, 13), -1])))
    try:
        outcome = run(observer, **options)
    except VolumetoolError as error:
        assert error.code in {"ledger.lost", "ledger.sections", "output.damaged"}, error  # noqa: PT017
        assert harm not in SHARDS_LOST
        assert error.hint  # noqa: PT017
    else:
        if harm is no_statistics or (harm is no_records and outcome.complete):  # there was no record yet
            assert outcome.complete
            assert digest(output) == straight
            assert (job_of(output) / "sections.csv").exists()
            assert verify_output(str(output))[1].ok
            return
        assert (outcome.complete, outcome.exit_code) == (False, 3)
        assert harm in SHARDS_LOST
        assert all(record.error["code"] == "data.damaged" for record in outcome.failures)
    assert harm in {no_root, no_output} or attributes(output)["status"] == "unfinished"
    if harm in JOB_LOST:
        return
    if harm not in SHARDS_LOST:
        plan, report = verify_output(str(output))
        assert plan is not None
        mark_for_recompute(plan, report)
    assert run(**options).complete
    assert digest(output) == straight


@pytest.mark.thin(2)
@pytest.mark.parametrize("harm", [lost_shards, cut_shard, garbled_level, no_root])
def test_a_finished_job_that_was_damaged_is_not_called_complete_again(options: Options, straight: str, harm: Damage) -> None:
    output = Path(options["output"])
    assert run(**options).complete
    harm(output, np.random.default_rng(0))
    if harm in SHARDS_LOST:
        assert run(**options).exit_code == 3
    else:
        with pytest.raises(VolumetoolError) as caught:
            run(**options)
        assert caught.value.code == "output.damaged"
        plan, report = verify_output(str(output))
        assert plan is not None
        mark_for_recompute(plan, report)
    assert run(**options).complete
    assert digest(output) == straight


@pytest.mark.parametrize("harm", [garbled_level, torn_level])
def test_garbled_metadata_are_seen_before_a_region_runs(options: Options, straight: str, harm: Damage) -> None:
    """With records it is refused, without any the metadata are written anew."""
    output, observer = Path(options["output"]), Recording()
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(3), **options)
    harm(output, np.random.default_rng(0))
    with pytest.raises(VolumetoolError, match=r"has lost ./zarr\.json") as caught:
        run(observer, **options)
    assert (caught.value.code, observer.ended) == ("output.damaged", [])
    no_records(output, np.random.default_rng(0))
    assert run(**options).complete
    assert digest(output) == straight


def test_a_lost_shard_of_a_coarse_level_is_made_again_at_once(options: Options, straight: str) -> None:
    run(**options)
    plan = stored_plan(options["output"])
    level = max(number for number, grid in enumerate(plan.spec.levels) if not grid.fused)
    next(file for file in shard_files(options["output"]) if f"/{level}/c/" in str(file)).unlink()
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 0)
    assert digest(options["output"]) == straight


class DeletingCoarse(Recording):
    """Deletes the shards of the first level that no region owns once the next one begins, or at the very last shard."""

    def __init__(self, output: Path, at: str) -> None:
        super().__init__()
        self._output, self._at = output, at

    def __call__(self, event: Event) -> None:
        """Do it."""
        if not isinstance(event, Progressed):
            return
        levels = stored_plan(str(self._output)).spec.levels
        first = next(number for number, level in enumerate(levels) if not level.fused)
        of_first = len(list(shard_boxes(levels[first])))
        if event.done == {"next": of_first + 1, "last": event.total}[self._at]:
            for file in shard_files(self._output / str(first)):
                file.unlink()


@pytest.mark.parametrize("at", ["next", "last"])
def test_a_coarse_shard_that_is_deleted_midway_is_missed_before_the_volume_is_called_complete(
    at: str, tmp_path: Path, straight: str
) -> None:
    output = tmp_path / "out.zarr"
    options = {"input": str(write_input(tmp_path / "in.zarr", noise((10, 37, 45)))), "output": str(output), **SMALL}
    with pytest.raises(OutputError) as caught:
        run(DeletingCoarse(output, at), **options)
    assert caught.value.code == "output.damaged"
    assert attributes(output)["status"] == "unfinished"
    assert run(**options).complete
    assert digest(output) == straight
