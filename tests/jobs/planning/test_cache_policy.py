"""Whether patches are kept: where that pays and fits; the plan says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_jobs import SMALL_3D, Interrupting, digest, noise, run, tree, write_input

from volumetool.errors import ResourceError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning import cache_policy, cost
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.processing.patch_cache import kept_bytes

Options = dict[str, Any]


@pytest.fixture
def blocks(tmp_path: Path) -> Options:
    """Give the options of a 3D job of 12 regions that keeps patches."""
    source = write_input(tmp_path / "in.zarr", noise((8, 24, 40)))
    return {"input": str(source), "output": str(tmp_path / "out.zarr"), **SMALL_3D, "patch_cache": "always"}


@pytest.fixture(autouse=True)
def slow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a patch take 10 s, and the disk no time."""
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=10.0, compression=0.8))
    monkeypatch.setattr(cache_policy, "trial_seconds", lambda *_: 0.001)
    monkeypatch.setattr(cost, "free_bytes", lambda _: None)


@pytest.fixture
def auto(blocks: Options) -> Options:
    """Give the options of a job that may keep patches."""
    return blocks | {"patch_cache": "auto"}


def test_where_it_pays_all_are_kept(auto: Options) -> None:
    decided = plan(make_job(**auto))
    assert decided.keep == decided.estimates.kept == "all"
    assert "computed twice without" in decided.estimates.kept_why
    assert decided.estimates.recomputed == 0
    assert decided.estimates.kept_bytes > 0


def test_one_region_keeps_nothing(auto: Options) -> None:
    decided = plan(make_job(**auto | {"region": "9,9,9"}))
    assert (decided.keep, decided.estimates.kept_bytes) == ("none", 0)


@pytest.mark.parametrize("other", [{}, {"workers": 2}, {"region": None, "workers": 2}, {"roi": "0:4,0:9,0:9"}], ids=str)
def test_a_short_job_keeps_nothing_and_says_what_that_costs(
    auto: Options, monkeypatch: pytest.MonkeyPatch, other: Options
) -> None:
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=0.001, compression=0.8))
    decided = plan(make_job(**auto | other))
    assert decided.keep == "none"
    estimates = decided.estimates
    share = estimates.recomputed / (estimates.patches - estimates.recomputed)
    assert estimates.kept_why.startswith(f"{share:.1%} computed twice without")


def test_a_disk_slower_than_the_network_keeps_nothing(auto: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_policy, "trial_seconds", lambda *_: 11.0)
    decided = plan(make_job(**auto))
    assert decided.keep == "none"
    assert "to write and read a patch takes" in decided.estimates.kept_why


def test_with_less_room_only_sides_are_kept_and_with_none_nothing(auto: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    every = plan(make_job(**auto)).estimates
    monkeypatch.setattr(cost, "free_bytes", lambda _: every.written_bytes + every.kept_bytes - 1)
    sides = plan(make_job(**auto))
    assert sides.keep == "sides"
    assert 0 < sides.estimates.kept_bytes < every.kept_bytes
    assert sides.estimates.recomputed > 0
    assert "all would take" in sides.estimates.kept_why
    monkeypatch.setattr(cost, "free_bytes", lambda _: every.written_bytes)
    nothing = plan(make_job(**auto))
    assert nothing.keep == "none"
    assert "sides would take" in nothing.estimates.kept_why


def test_sides_alone_compute_again_what_layers_share(auto: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    every = plan(make_job(**auto)).estimates
    monkeypatch.setattr(cost, "free_bytes", lambda _: every.written_bytes + every.kept_bytes - 1)
    outcome = run(**auto)
    totals = open_ledger(outcome.plan).totals()
    plain = f"{auto['output']}.plain"
    run(**auto | {"output": plain, "patch_cache": "never", "region": None})
    assert outcome.plan.keep == "sides"
    assert totals.patches == outcome.plan.estimates.patches
    assert totals.recomputed == outcome.plan.estimates.recomputed > 0
    assert digest(auto["output"]) == digest(plain)


def test_a_run_that_goes_on_keeps_to_the_decision(auto: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(3), **auto)
    monkeypatch.setattr(cache_policy, "trial_seconds", lambda *_: 11.0)
    assert plan(make_job(**auto)).keep == "all"


def test_what_must_be_kept_and_does_not_fit_is_refused(blocks: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    every = plan(make_job(**blocks)).estimates
    monkeypatch.setattr(cost, "free_bytes", lambda _: every.written_bytes + every.kept_bytes - 1)
    with pytest.raises(ResourceError) as caught:
        plan(make_job(**blocks))
    assert caught.value.code == "resource.disk"
    assert "kept patches" in caught.value.message


def test_keeping_is_planned_with_more_memory(blocks: Options) -> None:
    kept, plain = (plan(make_job(**blocks | {"patch_cache": choice})).estimates for choice in ("always", "never"))
    assert kept.worker_bytes > plain.worker_bytes + 2 * kept_bytes(plan(make_job(**blocks)).spec.lattice)


def test_regions_are_about_a_minute_where_patches_are_kept(auto: Options, tmp_path: Path) -> None:
    """At 10 s a patch: of a few strides each, not below two along a blended axis."""
    source = write_input(tmp_path / "large.zarr", noise((32, 120, 160)))
    decided = plan(make_job(**auto | {"input": str(source), "region": None}))
    lattice = decided.spec.lattice
    assert decided.keep == "all"
    assert decided.grid.count >= 64
    for line, size in zip(lattice.axes, decided.grid.size, strict=True):
        assert size >= 2 * line.stride * line.scale


def test_trying_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = tree(tmp_path / "there")
    assert cache_policy.trial_seconds(str(tmp_path / "there" / "not" / "yet" / "out.zarr"), 1000) > 0
    assert tree(tmp_path / "there") == before
