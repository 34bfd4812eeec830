"""Scripts of `volumetool slurm` on a real SLURM: whatever becomes of its elements, the job ends, with the same bytes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import SlurmCluster, missing, slurm_cluster
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.jobs.inspection import status, verify
from volumetool.jobs.job import make_job
from volumetool.sites.site import read_site
from volumetool.sites.slurm import array_script

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed (slurm-wlm, munge): {', '.join(missing())}")


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    with slurm_cluster(nodes=request.param) as running:
        yield running


def options(folder: Path, shape: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    """Return a job over noise whose every patch takes so many seconds."""
    source = write_input(folder / "in.zarr", noise(shape), chunk=(8, 16, 16))
    slow = SMALL | {"model": f"{SMALL['model']}&seconds={seconds}", "region": "1,1,1"}
    return slow | {"input": str(source), "output": str(folder / "it's out.zarr")}


def start(cluster: SlurmCluster, folder: Path, job: dict[str, Any], **site: Any) -> str:
    """Submit the script as it is, and return the number of the array."""
    script = array_script(make_job(**job), read_site(**site))
    return cluster.ask("sbatch", "--parsable", stdin=script, folder=folder)


def wait(until: Callable[[], bool], cluster: SlurmCluster, folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not until():
        told = "".join(file.read_text()[-2000:] for file in folder.glob("volumetool-*.log"))
        assert time.monotonic() < end, f"{cluster.elements()}\n{told}{cluster.logs()}"
        time.sleep(0.5)


def processes(cluster: SlurmCluster, part: int) -> list[psutil.Process]:
    """Return the processes of an element: its shell and what that has started."""
    mine = {"SLURM_CONF": cluster.environment["SLURM_CONF"], "SLURM_ARRAY_TASK_ID": str(part)}
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if mine.items() <= environment.items() and "slurmstepd" not in process.name():
            found.append(process)
    return found


def begun(output: str, parts: int) -> bool:
    """Return whether every part has finished a region."""
    if not Path(f"{output}.job", "plan.json").exists():
        return False
    return status(output).done >= parts


def same_as_in_process(job: dict[str, Any], folder: Path) -> bool:
    straight = str(folder / "straight.zarr")
    assert run(**{**job, "model": SMALL["model"], "output": straight}).complete
    return digest(straight) == digest(job["output"])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_an_array_ends_by_itself_with_the_bytes_of_one_process(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = options(tmp_path, (16, 24, 24), 0.0)
    start(cluster, tmp_path, job, cpus=1, array=2)
    wait(lambda: not cluster.elements(), cluster, tmp_path, 900)
    assert status(job["output"]).state == "complete"
    assert same_as_in_process(job, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cluster", [4], indirect=True)
def test_elements_that_are_killed_requeued_or_lose_their_node_cost_time_alone(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Of four: one hangs until its walltime kills it, one is requeued by hand, one's node dies; all are warned in time."""
    job = options(tmp_path, (96, 96, 96), 0.1)
    array = start(cluster, tmp_path, job, cpus=2, array=4, time="2:00")  # a node has two cores
    wait(lambda: begun(job["output"], 4), cluster, tmp_path, 240)
    running = cluster.elements()
    nodes = [running[f"{array}_{part}"][1] for part in range(4)]
    assert sorted(nodes) == cluster.nodes  # each has an element of its own
    for process in processes(cluster, 3):
        process.send_signal(signal.SIGSTOP)  # as a file system that does not answer
    cluster.ask("scontrol", "requeue", f"{array}_1")
    lost = processes(cluster, 2)
    cluster.ask("scontrol", "update", f"nodename={nodes[2]}", "state=down", "reason=test")
    for process in lost:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait(lambda: not cluster.elements(), cluster, tmp_path, 900)
    assert status(job["output"]).state == "complete"
    assert verify(job["output"]).ok
    assert same_as_in_process(job, tmp_path)
    told = [(tmp_path / f"volumetool-{array}_{part}.log").read_text() for part in range(4)]
    assert "DUE TO TIME LIMIT" in told[3]
    assert "DUE TO JOB REQUEUE" in told[1]
    assert all("attempt 2" in log for log in told[:3])
    assert "SIGUSR1: told to stop" in told[0]
