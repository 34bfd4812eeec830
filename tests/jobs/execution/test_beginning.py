"""A job begins when its workers answer; until a region is done, its output is in nobody's way."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_jobs import Interrupting, attributes, digest, run, tree

from volumetool.errors import ClusterError, FingerprintError, OutputError, VolumetoolError
from volumetool.jobs import run as module
from volumetool.jobs.clusters import cuda, dask_driver, worker_processes
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.plan_file import stored_plan

Options = dict[str, Any]
OTHER = {"invert": True, "shard": "8,32,32"}


def nobody_answers(options: Options, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(dask_driver, "CONNECT_SECONDS", 0.3)
    return options | {"cluster": "tcp://127.0.0.1:1"}  # a port that no test gets


def no_driver(options: Options, monkeypatch: pytest.MonkeyPatch) -> Options:
    module = types.ModuleType("dask_cuda")  # whose cluster cannot be started
    module.LocalCUDACluster = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    return options | {"cluster": "cuda", "device": "auto", "workers": 1}


def workers_die(options: Options, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(worker_processes, "PROGRAM", "raise SystemExit(1)")
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    return options | {"workers": 2}


def other_bytes(options: Options, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr("volumetool.processing.engine.Engine.probe", lambda *_: __import__("uuid").uuid4().hex)
    return options


FAILURES = [nobody_answers, no_driver, workers_die, other_bytes]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_start_that_fails_leaves_nothing(options: Options, monkeypatch: pytest.MonkeyPatch, failure: Any) -> None:
    folder = Path(options["output"]).parent
    before = set(tree(folder))
    with monkeypatch.context() as patch, pytest.raises(VolumetoolError):
        run(**failure(options, patch))
    assert set(tree(folder)) == before


def test_a_start_that_fails_takes_nothing_from_an_earlier_job(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    run(**options)
    before = digest(options["output"])
    with monkeypatch.context() as patch, pytest.raises(ClusterError):
        run(**nobody_answers(options | OTHER | {"overwrite": True}, patch))
    assert digest(options["output"]) == before
    assert run(**options).complete


def begin(options: Options) -> None:
    """Leave what a run leaves that is killed before its first region ends."""
    prepare(plan(make_job(**options)))


def test_an_output_with_no_region_done_is_taken_over_by_other_settings(options: Options, tmp_path: Path) -> None:
    other = options | OTHER
    begin(other)
    outcome = run(**options)
    assert outcome.complete
    assert any("begun anew" in note for note in outcome.plan.notes)
    assert attributes(options["output"])["fingerprint"] == outcome.plan.fingerprint
    assert run(**options | {"output": str(tmp_path / "straight.zarr")}).complete
    assert digest(options["output"]) == digest(tmp_path / "straight.zarr")


def test_an_output_with_a_region_done_is_not(options: Options) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(1), **options | OTHER)
    before = digest(options["output"])
    with pytest.raises(FingerprintError):
        run(**options)
    assert digest(options["output"]) == before


def test_a_job_that_did_its_first_region_meanwhile_does_not_give_way(options: Options) -> None:
    begin(options | OTHER)
    decided = plan(make_job(**options))
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(1), **options | OTHER)
    before = digest(options["output"])
    with pytest.raises(VolumetoolError) as caught:
        module.run(decided)
    assert caught.value.code == "ledger.plan"
    assert digest(options["output"]) == before


def test_the_same_job_goes_on_without_a_region_done(options: Options) -> None:
    """What is known of regions that end their worker is not forgotten: see the bad regions."""
    begin(options)
    before = stored_plan(options["output"])
    outcome = run(**options)
    assert outcome.complete
    assert outcome.plan.notes == before.notes
    assert stored_plan(options["output"]) == before


def test_files_of_others_are_never_deleted_with_an_output_that_is_taken_over(options: Options) -> None:
    begin(options | OTHER)
    output = Path(options["output"])
    (output / "zarr.json").unlink()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError):
        run(**options)
    assert (output / "notes.txt").read_text() == "mine"
