"""Jobs over a network that fails: hosts that are cut off, die, or come back, the scheduler's among them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bucket_server import PROGRAM, reach
from network import Host, Network, missing
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.jobs.plan import WINDOW

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

SHAPE = (64, 80, 80)  # 200 regions
WORKERS = 4


@pytest.mark.timeout(900)
def test_a_job_outlives_a_host_that_is_cut_off_one_that_dies_and_its_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Driver, scheduler, bucket and four workers, each on a host of its own; services start again whatever ends."""
    folder, log = tmp_path / "bucket", tmp_path / "workers.log"
    job = SMALL | {"region": "1,1,1"}
    source = write_input(folder / "in.zarr", noise(SHAPE))
    assert run(**job, input=str(source), output=str(tmp_path / "straight.zarr")).complete
    monkeypatch.setenv("VOLUMETOOL_LOG_FILE", str(log))
    with Network(tmp_path) as network:
        store, scheduler, driver = network.host("store"), network.host("scheduler"), network.host("driver")
        workers = [network.host(f"worker-{number}") for number in range(WORKERS)]
        store.start(sys.executable, str(PROGRAM), str(tmp_path), "9000", "0", "0", store.address)
        reach(f"http://{store.address}:9000", monkeypatch)
        address = f"tcp://{scheduler.address}:8786"
        told = begin(scheduler)
        for host in workers:
            host.keep(*dask("worker"), address, "--nthreads", "1", "--memory-limit", "2GiB")
        wait(lambda: told.read_text().count("Register worker") == WORKERS, driver)
        slow = job | {"model": f"{SMALL['model']}&seconds=0.1", "cluster": address}
        options = [text for name, value in slow.items() for text in (f"--{name}", value)]
        main = "from volumetool.cli.main import main; main()"
        running = driver.start(sys.executable, "-c", main, "enhance", "s3://bucket/in.zarr", "s3://bucket/out.zarr", *options)
        wait(lambda: len(ended(log)) > 20, driver)
        workers[0].cut()
        wait(lambda: len(ended(log)) > 30, driver)
        workers[1].cut()  # nobody hears that it dies
        workers[1].kill()
        time.sleep(20)
        workers[0].mend()
        wait(lambda: len(ended(log)) > 140, driver)
        scheduler.kill()
        time.sleep(5)
        begin(scheduler)
        assert running.wait(600) == 0, driver.log.read_text()[-2000:]
    assert "the scheduler is back" in driver.log.read_text()
    assert digest(folder / "out.zarr") == digest(tmp_path / "straight.zarr")
    again = ended(log)
    # What the one that is cut off has, what the three others run as the scheduler goes, and copies of the last regions.
    assert len(again) - len(set(again)) <= WINDOW + (WORKERS - 1) + (WORKERS - 1)
    assert set(again) == set(range(200))


def dask(name: str) -> list[str]:
    return [sys.executable, "-m", f"distributed.cli.dask_{name}"]


def begin(scheduler: Host) -> Path:
    """Start dask's scheduler, and return its log."""
    scheduler.start(*dask("scheduler"), "--host", scheduler.address, "--port", "8786", "--no-dashboard")
    return scheduler.log


def ended(log: Path) -> list[int]:
    """Return the regions that workers have computed, each as often as it was."""
    return [int(found) for found in re.findall(r"region (\d+) is done", log.read_text())] if log.exists() else []


def wait(until: Callable[[], bool], driver: Host) -> None:
    end = time.monotonic() + 300
    while not until():
        assert time.monotonic() < end, driver.log.read_text()[-2000:]
        time.sleep(0.2)
