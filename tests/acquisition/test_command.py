"""`volumetool live FOLDER --watch`, as a user types it, and as a machine kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tensorstore as ts
import tifffile
from arriving import FLAT, QUICK, assert_batch, job_of, sections, ticking, write_section
from small_jobs import read_levels
from volumetool.cli.main import main

from volumetool.acquisition.show import WatchPage
from volumetool.acquisition.watch import raw_place, watch
from volumetool.events import Event, SectionsReached, WatchStarted
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.verify import verify
from volumetool.models import load_model
from volumetool.viewer.view import Listen

PATIENCE = 120
OPTIONS = ["--model", FLAT["model"], "--voxel-size", FLAT["voxel_size"], "--device", "cpu"]
LAYOUT = {"chunk": None, "shard": None, "memory": None}
"""What the command has no options for."""


def start(folder: Path, *options: str, json_to: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "volumetool.cli.main", "live", str(folder), "--watch", "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VOLUMETOOL_TRACEBACK": "1"}
    return subprocess.Popen(command, stdout=json_to, text=True, env=environment, start_new_session=True)


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def records(output: Path, name: str) -> int:
    """Return how many records a ledger has on disk, without the product's help."""
    return sum(len(file.read_bytes().splitlines()) for file in Path(f"{output}.job", "watch", name).rglob("*.jsonl"))


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_a_watch_that_is_killed_loses_no_section(tmp_path: Path, kills: int) -> None:
    """SIGKILL at random moments while sections go on landing: the volume is the batch job's, and no step is done twice."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    output, count = tmp_path / "incoming-enhanced.zarr", 4 * (kills + 1)
    voxels, random = sections(count), np.random.default_rng(5)
    slow = OPTIONS[1].replace("?", "?seconds=0.02&")
    options = ["--model", slow, *OPTIONS[2:], "--count", str(count), "--settle", "0.05"]
    landed = 0
    for kill in range(kills + 1):
        process = start(folder, *options)
        try:
            before = records(output, "enhanced")
            for _ in range(4):
                write_section(folder, landed, voxels[landed])
                landed += 1
            if kill < kills:
                wait_until(lambda before=before: records(output, "enhanced") > before)  # type: ignore[misc]
                time.sleep(float(random.random()) * 0.2)
                os.killpg(process.pid, signal.SIGKILL)
                assert process.wait(PATIENCE) == -signal.SIGKILL
            else:
                assert process.wait(PATIENCE) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    job = job_of(folder).model_copy(update={"output": str(output)})
    assert_batch(job, model=slow, **LAYOUT)
    assert verify(stored_plan(str(output))).ok


def test_the_command_tells_every_section_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for number in range(1, 4):
        write_section(folder, number, sections(3)[number - 1])
    with start(folder, *OPTIONS) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert (said["kind"], said["output"]) == ("watch", str(tmp_path / "incoming-enhanced.zarr"))
            assert httpx.get(said["link"], timeout=PATIENCE).status_code == 200
            listening = [each for each in psutil.Process(process.pid).net_connections("tcp") if each.status == "LISTEN"]
            assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
            told: list[dict[str, Any]] = [json.loads(process.stdout.readline()) for _ in range(9)]
            assert {each["kind"] for each in told} == {"event"}
            begun = [each["event"] for each in told[:6]]
            assert begun == ["SectionsReached", "Waiting", "SectionsReached", "Waiting", "SectionsReached", "WatchStarted"]
            assert [(each["state"], each["sections"]) for each in told[6:]] == [("enhanced", [number]) for number in (1, 2, 3)]
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()


def test_the_page_shows_each_new_section_of_both_volumes(tmp_path: Path) -> None:
    """The client keeps what it has read under a name, so that every change stands under a new one."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    for number in range(3):
        write_section(folder, number, sections(3)[number])
    job = job_of(folder)
    raw, moved = raw_place(job.input, job.output), list[tuple[float, list[str]]]()
    with WatchPage(raw, job.output, Listen()) as page:

        def look(event: Event) -> None:
            page(event)
            if not isinstance(event, SectionsReached) or event.z is None:
                return
            wait_until(lambda: len(page.page.state.to_json().get("layers", [])) == 2 and position(page) == event.z)
            layers = page.page.state.to_json()["layers"]
            sources = [layer["source"] for layer in layers]
            # The client's library writes a list once the source was changed.
            urls = [(each[0] if isinstance(each, list) else each)["url"].partition("|")[0] for each in sources]
            moved.append((position(page), urls))
            for url, place in zip(urls, (raw, job.output), strict=True):
                group = httpx.get(f"{url}zarr.json", headers={"Origin": page.page.origin}, timeout=PATIENCE).json()
                path = group["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"]
                served = ts.open({"driver": "zarr3", "kvstore": f"{url}{path}/"}).result()
                stored = ts.open({"driver": "zarr3", "kvstore": f"file://{place}/{path}/"}).result()
                np.testing.assert_array_equal(served[event.z].read().result(), stored[event.z].read().result())
            if event.z == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch(job, QUICK, look, ticking())
    assert [z for z, _ in moved] == [0, 1, 2]
    assert len({url for _, urls in moved for url in urls}) == 6
    with WatchPage(raw, job.output, Listen()) as page:  # what was there before is shown at once

        def look_again(event: Event) -> None:
            page(event)
            if isinstance(event, WatchStarted):
                wait_until(lambda: len(page.page.state.to_json().get("layers", [])) == 2 and position(page) == 2)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch(job, QUICK, look_again, ticking())


def position(page: WatchPage) -> float:
    """Return where along z the page stands."""
    return float(page.page.state.to_json()["position"][2])


@pytest.mark.parametrize(
    "options",
    [["--count", "3"], ["--idle", "3"], ["--first", "0"], ["--fit-on", "2"], ["--settle", "1"], ["--watch", "--level", "1"]],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["live", str(tmp_path), *options])
    assert ended.value.code == 2
    assert "config.option" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_real_sections_make_the_batch_jobs_volume(data: Path, tmp_path: Path) -> None:
    """Dropped in one by one, with SIGKILL in the middle."""
    stack = tifffile.imread(data / "isbi2012-sstem" / "isbi2012_train.tif")
    assert stack.shape == (30, 512, 512)
    folder, output = tmp_path / "incoming", tmp_path / "incoming-enhanced.zarr"
    folder.mkdir()
    options = ["--model", "em-x4", "--voxel-size", "50,32,32", "--device", "cpu", "--count", "30"]
    process = start(folder, *options, json_to=subprocess.DEVNULL)
    ahead = load_model("em-x4").card.z_context  # a section waits for those that the network looks at
    for z, section in enumerate(stack):
        write_section(folder, z, section)
        if z >= ahead:
            done = z - ahead + 1
            wait_until(lambda done=done, process=process: records(output, "enhanced") >= done or process.poll() == 0)  # type: ignore[misc]
        if z == 15:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = start(folder, *options, json_to=subprocess.DEVNULL)
    assert process.wait(600) == 0
    job = job_of(folder).model_copy(update={"output": str(output)})
    assert_batch(job, model="em-x4", **LAYOUT)
    np.testing.assert_array_equal(read_levels(tmp_path / "incoming-raw.zarr")[0], stack)
