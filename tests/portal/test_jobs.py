"""Jobs of the portal: quotas, turns, ends of every kind, and a job that outlives the portal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from browsing import House, Visitor, settings_of

import volumetool as vt
from volumetool.portal import supervisor
from volumetool.portal.accounts import hash_password
from volumetool.portal.problems import in_words, note_in_words
from volumetool.portal.queries import ALIVE, CANCELLED, COMPLETE, FAILED, PLANNED, QUEUED, RUNNING, Database, now
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings, make_folder
from volumetool.portal.supervisor import ATTEMPTS, LONGEST_REASON, READY, Supervisor
from volumetool.portal.tables import PortalJob


class Queue:
    """A queue without pages, whose jobs are small programs."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = PortalSettings(**settings_of(folder, **settings))
        make_folder(self.settings)
        self.database = Database(self.settings)
        self.supervisor = Supervisor(self.database, self.settings)

    def account(self, name: str) -> int:
        token = f"token of {name}"
        self.database.invite(token, "user")
        made = self.database.accept(token, name, hash_password(name))
        assert made is not None
        return made.id

    def add(self, account: int, job: str, size: int = 1, *, start: bool = True) -> str:
        fields: dict[str, Any] = {"input": "in", "options": {}, "estimates": {}, "attempts": 0}
        self.database.add_plan(PortalJob(id=job, account_id=account, state=PLANNED, bytes=size, asked=now(), **fields))
        assert not start or self.database.start(job, account) is None
        return job

    def job(self, job: str) -> PortalJob:
        found = self.database.job(job, None)
        assert found is not None
        return found

    def wait(self, job: str, until: Callable[[PortalJob], bool]) -> PortalJob:
        for _ in range(2400):
            self.supervisor.turn()
            if until(self.job(job)):
                return self.job(job)
            time.sleep(0.05)
        pytest.fail(f"{job} is {self.job(job).state}")

    def end(self) -> None:
        for job, _ in self.database.jobs():
            self.supervisor.stop(job)
            self.wait(job.id, lambda job: job.state not in (QUEUED, *ALIVE))
        self.database.engine.dispose()


@pytest.fixture
def queue(tmp_path: Path, new_url: Callable[[], str | None]) -> Iterator[Queue]:
    made = Queue(tmp_path, quota=100, database=new_url())
    yield made
    made.end()


def programs(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the jobs of a queue run a small program in place of `volumetool enhance`."""
    monkeypatch.setattr(supervisor, "_enhance", lambda *_: [sys.executable, "-c", text])


def test_of_two_jobs_for_which_there_is_room_for_one_one_is_refused(queue: Queue) -> None:
    account = queue.account("ann")
    jobs = [queue.add(account, f"j{number}", 60, start=False) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        missing = list(pool.map(lambda job: queue.database.start(job, account), jobs))
    assert missing.count(None) == 1
    assert set(missing) == {None, 20}
    assert queue.database.bytes_left(account) == 40


def test_what_is_removed_makes_room(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, 'print(\'{"kind": "run", "complete": true}\')')
    account = queue.account("ann")
    job = queue.add(account, "big", 90)
    assert not queue.supervisor.remove(job)
    queue.wait(job, lambda job: job.state == COMPLETE)
    assert queue.supervisor.folder(job).is_dir()
    assert queue.supervisor.remove(job)
    assert not queue.supervisor.folder(job).exists()
    assert queue.database.bytes_left(account) == 100


def test_accounts_take_turns(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, 'print(\'{"kind": "run", "complete": true}\')')
    many, one = queue.account("many"), queue.account("one")
    jobs = [queue.add(many, f"m{number}") for number in range(3)] + [queue.add(one, "o")]
    for job in jobs:
        queue.wait(job, lambda job: job.state == COMPLETE)
    order = sorted(jobs, key=lambda job: queue.job(job).began or now())
    assert order == ["m0", "o", "m1", "m2"]


def test_so_many_jobs_run_at_once_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, "import time; time.sleep(600)")
    queue = Queue(tmp_path, running=2)
    account = queue.account("ann")
    jobs = [queue.add(account, f"j{number}") for number in range(3)]
    queue.supervisor.turn()
    queue.supervisor.turn()
    assert [queue.job(job).state for job in jobs] == [RUNNING, RUNNING, QUEUED]
    queue.end()
    assert [queue.job(job).state for job in jobs] == [CANCELLED] * 3


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ({"kind": "run", "complete": True}, COMPLETE, None),
        ({"kind": "run", "complete": False, "failed": 2, "regions": 9}, FAILED, "2 of 9 regions failed"),
        ({"kind": "error", "exit_code": 5, "error": {"message": "the disk is full", "hint": "make room"}}, FAILED, "Make room"),
        ({"kind": "error", "exit_code": 75, "error": {"message": "told to stop", "hint": ""}}, FAILED, "It ended 5 times"),
        ({"kind": "error", "exit_code": 5, "error": {"message": "m" * 9000, "hint": ""}}, FAILED, "mmm"),
    ],
)
def test_the_last_word_of_a_job_says_how_it_ended(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, word: dict[str, Any], state: str, reason: str | None
) -> None:
    programs(monkeypatch, f"print({json.dumps(json.dumps(word))})")
    job = queue.add(queue.account("ann"), "j")
    ended = queue.wait(job, lambda job: job.state not in (QUEUED, *ALIVE))
    assert ended.state == state
    assert (ended.reason is None) if reason is None else (reason in (ended.reason or ""))
    assert len(ended.reason or "") <= LONGEST_REASON  # PostgreSQL refuses longer ones, and no other job would start


def test_a_job_that_dies_without_a_word_is_started_five_times_and_then_waits_for_its_owner(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    account = queue.account("ann")
    job = queue.add(account, "j")
    ended = queue.wait(job, lambda job: job.state == FAILED)
    assert ended.attempts == ATTEMPTS
    programs(monkeypatch, 'print(\'{"kind": "run", "complete": true}\')')
    assert queue.database.start(job, account) is None
    assert queue.wait(job, lambda job: job.state == COMPLETE).reason is None


def test_another_supervisor_finds_the_jobs_that_run_and_what_ended_meanwhile(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash of the portal: the new one has no children, and knows processes by their numbers and births."""
    programs(monkeypatch, "import time; time.sleep(600)")
    job = queue.add(queue.account("ann"), "j")
    running = queue.wait(job, lambda job: job.process is not None)
    process = json.loads(running.process or "")
    former, queue.supervisor = queue.supervisor, Supervisor(queue.database, queue.settings)
    queue.supervisor.turn()
    assert (queue.job(job).state, queue.job(job).attempts) == (RUNNING, 1)
    os.kill(process["pid"], signal.SIGKILL)
    for child in former._children.values():  # buried by its parent; after a real crash init does so
        child.wait()
    assert queue.wait(job, lambda job: job.attempts == 2).state == RUNNING


@pytest.mark.slow
def test_a_job_outlives_a_portal_that_is_killed_and_has_the_bytes_of_the_command_line(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    lab = tmp_path / "lab"
    tifffile.imwrite(lab / "in.tif", _blurred(8, 384), photometric="minisblack")
    config = tmp_path / "portal.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    first = _serve(config)
    admin = Visitor(first.url).join(first.invitation, "ada")
    planned = admin.send("/new", input=str(lab / "in.tif"), model="em-x4", voxel_size="30,16,16", roi="")
    assert planned.status_code == 303, planned.text
    place = planned.headers["location"]
    assert "em-x4" in admin.get(place).text
    admin.send(f"{place}/pages/preview")
    _wait(lambda: admin.get(f"/api{place}").json()["pages"]["preview"] == "ready")
    assert "em-x4" in admin.get(f"{place}/pages/preview").text
    admin.send(f"{place}/start")
    _wait(lambda: admin.get(f"/api{place}").json()["state"] == "running")
    first.process.kill()
    first.process.wait()
    second = _serve(config)
    try:
        assert second.invitation == ""
        admin.url = second.url
        _wait(lambda: admin.get(f"/api{place}").json()["state"] == "complete")
        admin.send(f"{place}/pages/report")
        _wait(lambda: admin.get(f"/api{place}").json()["pages"]["report"] == "ready")
        assert "<svg" in admin.get(f"{place}/pages/report").text
        output = tmp_path / "portal" / "jobs" / place.rpartition("/")[2] / "output.zarr"
        vt.enhance(lab / "in.tif", tmp_path / "own.zarr", model="em-x4", voxel_size="30,16,16")
        chunks = [path.relative_to(output) for path in output.rglob("*") if path.is_file() and path.name != "zarr.json"]
        assert len(chunks) > 3
        for chunk in chunks:
            assert (output / chunk).read_bytes() == (tmp_path / "own.zarr" / chunk).read_bytes(), chunk
    finally:
        second.process.terminate()
    assert second.process.wait(60) == 0


class _Served:
    def __init__(self, process: subprocess.Popen[str], url: str, invitation: str) -> None:
        self.process, self.url, self.invitation = process, url, invitation


def _serve(config: Path) -> _Served:
    command = [sys.executable, "-m", "volumetool", "serve", "--config", str(config), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["kind"] == "portal"
    process.stdout.close()
    return _Served(process, told["url"], re.sub(r"^http://[^/]+", "", told["invitation"] or ""))


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(1200):
        if until():
            return
        time.sleep(0.2)
    pytest.fail("it did not come to that")


def _blurred(sections: int, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    noise = np.random.default_rng(0).normal(128, 40, (sections, side, side))
    return np.clip(noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        (
            "built-in models that fit: em-x2, em-z4; --level N takes a coarser level, --voxel-size corrects wrong metadata, "
            "--force-voxel-size goes on",
            "Built-in models that fit: em-x2, em-z4; the voxel size corrects wrong metadata",
        ),
        (
            "choose one with --model NAME (see `volumetool model list`), take another --level, or give --voxel-size 8,8,8",
            "Choose one with the model NAME, or give the voxel size 8,8,8",
        ),
        ("see `volumetool model list`, or --gate warn goes on", None),
        ("make room there", "Make room there"),
        ("", None),
    ],
)
def test_pages_say_nothing_that_only_the_command_line_can_do(hint: str, told: str | None) -> None:
    assert in_words("no", hint) == ("no" if told is None else f"no\n{told}")
    assert note_in_words("3 of 9 look unlike the others: 3. --repair-sections fill makes others, and so on") == (
        "3 of 9 look unlike the others: 3."
    )


def test_the_quota_is_told_where_it_stops_a_job(house: House) -> None:
    visitor = house.newcomer("nora")
    job = house.plan("nora", 999_999)
    answer = visitor.send(f"/jobs/{job}/start")
    assert answer.status_code == 409
    assert "more than is left to you" in answer.text


def test_a_preview_of_a_model_that_is_chosen_by_itself_shows_all_that_fit(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(supervisor, "_told", lambda command, _: told.append(command))
    job = queue.job(queue.add(queue.account("ann"), "j", start=False))
    job.options = {"model": "auto", "voxel_size": "30,8,8"}
    queue.supervisor.draw(job, "preview")
    _wait(lambda: queue.supervisor.drawn("j", "preview") == READY)
    assert [word for word in told[0] if word.startswith("--model")] == []
    assert "--voxel-size=30,8,8" in told[0]


BOUNDED = """import json, resource, time
while resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
    time.sleep(0.01)
try:
    bytearray(2**30)
except MemoryError:
    print(json.dumps({"kind": "error", "exit_code": 1, "error": {"code": "x.y", "message": "no memory", "hint": ""}}))
    raise SystemExit(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of another process")
def test_jobs_and_previews_have_so_much_memory_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, BOUNDED)
    monkeypatch.setattr(supervisor, "preview_command", lambda *_: [sys.executable, "-c", BOUNDED])
    queue = Queue(tmp_path, memory=2**29)
    job = queue.add(queue.account("ann"), "j")
    assert queue.wait(job, lambda job: job.state == FAILED).reason == "no memory"
    queue.supervisor.draw(queue.job(job), "preview")
    _wait(lambda: "no memory" in queue.supervisor.drawn(job, "preview"))
    queue.end()


def test_accounts_take_turns_with_their_previews_too(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(supervisor, "_told", lambda command, _: told.append(Path(command[-1]).parent.name))
    many, one = queue.account("many"), queue.account("one")
    wanted = [queue.job(queue.add(many, f"m{number}", start=False)) for number in range(3)]
    wanted.append(queue.job(queue.add(one, "o", start=False)))
    with queue.supervisor._drawing.take(0):
        for number, job in enumerate(wanted, start=1):
            queue.supervisor.draw(job, "preview")
            _wait(lambda number=number: len(queue.supervisor._drawing._waiting) == number)  # type: ignore[misc]
    _wait(lambda: len(told) == 4)
    assert told == ["m0", "o", "m1", "m2"]


def test_a_job_that_is_removed_while_its_page_waits_leaves_no_folder(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[bool] = []
    monkeypatch.setattr(supervisor, "_told", lambda *_: went.append(queue.supervisor.folder("j").exists()))
    job = queue.job(queue.add(queue.account("ann"), "j", start=False))
    with queue.supervisor._drawing.take(0):
        queue.supervisor.draw(job, "preview")
        assert queue.supervisor.remove("j")
    _wait(lambda: len(went) == 1)
    assert went == [False]


def test_a_job_that_cannot_be_started_fails_and_the_next_one_runs(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, 'print(\'{"kind": "run", "complete": true}\')')
    account = queue.account("ann")
    queue.add(account, "first")
    queue.supervisor.folder("first").parent.mkdir(exist_ok=True)
    queue.supervisor.folder("first").write_text("in the way")
    second = queue.add(account, "second")
    assert queue.wait(second, lambda job: job.state == COMPLETE).reason is None
    assert queue.job("first").state == FAILED
    assert "could not be started" in (queue.job("first").reason or "")
    queue.supervisor.folder("first").unlink()


def test_a_job_gives_way_to_the_pages(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "import json, os, time\nwhile (nice := os.getpriority(os.PRIO_PROCESS, 0)) == 0: time.sleep(0.01)\n"
    programs(monkeypatch, words + 'print(json.dumps({"kind": "run", "complete": nice == 10}))')
    job = queue.add(queue.account("ann"), "polite")
    assert queue.wait(job, lambda job: job.state in (COMPLETE, FAILED)).state == COMPLETE


def test_the_supervisor_goes_on_after_an_error(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def turn() -> None:
        turns.append(1)
        raise OSError(28, "no room")

    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(queue.supervisor, "turn", turn)
    with queue.supervisor:
        _wait(lambda: len(turns) > 2)


def test_links_for_the_first_account_end_with_the_next_start(tmp_path: Path) -> None:
    settings = PortalSettings(**settings_of(tmp_path))
    with serve(settings) as served:
        former = (served.invitation or "").rpartition("/")[2]
    with serve(settings) as served:
        link = served.invitation or ""
        assert Visitor(served.url).get(f"/join/{former}").status_code == 404
        assert Visitor(served.url).get(link.removeprefix(served.url)).status_code == 200
