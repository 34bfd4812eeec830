"""Jobs of the portal on a real SLURM: submitted, found again by another portal, complete as the ledger says, and cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, missing, slurm_cluster
from small_jobs import SMALL, digest, noise, run, write_input
from test_jobs import Queue

from volumetool.errors import ConfigError
from volumetool.portal.facility import slurm
from volumetool.portal.queries import ALIVE, CANCELLED, COMPLETE, FAILED, PLANNED, QUEUED, now
from volumetool.portal.settings import PortalSettings, read_settings
from volumetool.portal.supervisor import Supervisor, log_of
from volumetool.portal.tables import PortalJob

SITE = {"site": "generic", "array": 2, "cpus": 1}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    if missing():
        pytest.skip(f"not installed (slurm-wlm, munge): {', '.join(missing())}")
    with slurm_cluster(nodes=2) as running:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, running.environment[name])
        monkeypatch.setattr(slurm, "ASK_SECONDS", 0.3)
        yield running


def wait(queue: Queue, job: str, until: Callable[[PortalJob], bool]) -> PortalJob:
    """Look after the queue until a job is as it should be; a site takes its time."""
    end = time.monotonic() + 300
    while not until(queue.job(job)):
        assert time.monotonic() < end, f"{job} is {queue.job(job).state}: {log_of(queue.supervisor.folder(job))}"
        time.sleep(0.2)
        queue.supervisor.turn()
    return queue.job(job)


def add(queue: Queue, account: int, job: str, folder: Path, seconds: float) -> str:
    """Start a job over noise, whose every patch takes so many seconds."""
    source = folder / "in.zarr"
    if not source.exists():
        write_input(source, noise((16, 24, 24)), chunk=(8, 16, 16))
    options = {name: value for name, value in SMALL.items() if isinstance(value, str | int)}
    options |= {"model": f"{SMALL['model']}&seconds={seconds}", "region": "1,1,1"}
    fields = {"input": str(source), "options": options, "estimates": {}, "attempts": 0}
    queue.database.add_plan(PortalJob(id=job, account_id=account, state=PLANNED, bytes=1, asked=now(), **fields))
    assert queue.database.start(job, account) is None
    return job


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_at_a_site_outlives_the_portal_and_ends_as_its_ledger_says(cluster: SlurmCluster, tmp_path: Path) -> None:
    queue = Queue(tmp_path, slurm=SITE, running=3)
    account = queue.account("ann")
    job = add(queue, account, "good", tmp_path, 0.0)
    wait(queue, job, lambda _: bool(cluster.elements()))
    former, queue.supervisor = queue.supervisor, Supervisor(queue.database, queue.settings)  # as after a crash of the portal
    ended = wait(queue, job, lambda job: job.state not in (QUEUED, *ALIVE))
    assert [child.wait() for child in former._children.values()] in ([], [0])  # the submission, which a new portal buries not
    assert (ended.state, ended.attempts, ended.reason) == (COMPLETE, 1, None)
    assert cluster.elements() == {}
    straight = str(tmp_path / "straight.zarr")
    assert run(**SMALL | {"input": str(tmp_path / "in.zarr"), "output": straight, "region": "1,1,1"}).complete
    assert digest(straight) == digest(str(queue.supervisor.folder(job) / "output.zarr"))

    job = add(queue, account, "stopped", tmp_path, 5.0)
    wait(queue, job, lambda _: any(state == "RUNNING" for state, _ in cluster.elements().values()))
    queue.supervisor.stop(queue.job(job))
    assert wait(queue, job, lambda job: job.state not in ALIVE).state == CANCELLED
    assert cluster.elements() == {}
    queue.end()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_that_the_site_refuses_says_why(cluster: SlurmCluster, tmp_path: Path) -> None:
    queue = Queue(tmp_path, slurm=SITE | {"partition": "nowhere"})
    job = add(queue, queue.account("ann"), "bad", tmp_path, 0.0)
    ended = wait(queue, job, lambda job: job.state not in (QUEUED, *ALIVE))
    assert ended.state == FAILED
    assert "nowhere" in (ended.reason or "") or "partition" in (ended.reason or "")
    assert cluster.elements() == {}
    queue.end()


def test_a_site_that_is_none_is_refused_with_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no site 'nowhere'"):
        read_settings(None, data=tmp_path, slurm={"site": "nowhere"})
    with pytest.raises(ConfigError, match="arry"):
        read_settings(None, data=tmp_path, slurm={"arry": 3})
    assert PortalSettings(slurm=SITE).slurm == SITE


def test_while_slurm_does_not_answer_its_jobs_are_taken_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = slurm.SlurmQueue({})
    assert asked.holds(tmp_path / "output.zarr")
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {slurm.job_name(str(tmp_path / 'output.zarr'))}\n")
    squeue.chmod(0o755)
    asked.look_again()
    assert asked.holds(tmp_path / "output.zarr")
    assert not asked.holds(tmp_path / "other.zarr")
