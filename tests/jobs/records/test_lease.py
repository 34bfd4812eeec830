"""Ownership: one run writes a job, whatever clocks and processes do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from volumetool import process
from volumetool.errors import LedgerError
from volumetool.events import Event, ignore
from volumetool.jobs.job_dir import LEASE
from volumetool.jobs.records import lease as module
from volumetool.jobs.records.holder import current_holder
from volumetool.jobs.records.lease import LEASE_SECONDS, Lease, acquire, own
from volumetool.jobs.records.ledger import DONE, Ledger, Record
from volumetool.storage.io.kvstore import write_key

REGIONS = 40


class Clock:
    """A machine's monotonic clock: it starts anywhere, and waiting moves it."""

    def __init__(self, now: float = 0.0, meanwhile: Callable[[float], None] = lambda _: None) -> None:
        self.now = now
        self.meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(seconds)


def elsewhere(claim: Lease) -> None:
    """Make a claim look like one of another machine, whose processes cannot be seen from here."""
    claim._write(replace(claim.owner, place="another machine", host="node17"))


def take(url: str, clock: Clock | None = None) -> Lease:
    clock = clock or Clock()
    return acquire(url, ignore, clock, clock.sleep)


def test_a_second_run_is_refused_with_the_owners_identity(tmp_path: Path) -> None:
    first = take(str(tmp_path))
    elsewhere(first)
    with pytest.raises(LedgerError, match="node17") as caught:
        take(str(tmp_path), Clock(meanwhile=lambda _: first.beat()))
    assert caught.value.code == "ledger.owned"


def test_a_silent_owner_of_another_machine_is_followed_after_a_lease(tmp_path: Path) -> None:
    first = take(str(tmp_path))
    elsewhere(first)
    clock, said = Clock(now=-1e6), list[Event]()
    second = acquire(str(tmp_path), said.append, clock, clock.sleep)
    assert clock.now + 1e6 >= LEASE_SECONDS
    assert second.owner.fence == first.owner.fence + 1
    assert len(said) == 1
    assert "node17" in str(said[0])
    first.beat()
    assert first.lost
    with pytest.raises(LedgerError, match="took over") as caught:
        first.check()
    assert caught.value.code == "ledger.overtaken"
    second.beat()
    second.check()


def test_a_dead_process_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TAKE, str(tmp_path)], check=True, capture_output=True, text=True)
    assert json.loads((tmp_path / LEASE).read_text())["pid"] == int(done.stdout)
    clock = Clock()
    assert take(str(tmp_path), clock).owner.fence == 2
    assert clock.now == 0


def test_another_process_with_the_number_of_a_dead_one_is_not_the_owner(tmp_path: Path) -> None:
    first = take(str(tmp_path))
    first._write(replace(first.owner, born=first.owner.born - 1000))
    clock = Clock()
    take(str(tmp_path), clock)
    assert clock.now == 0


@pytest.mark.parametrize("step", [-3600.0, 5.0, 3600.0])
def test_a_living_owner_of_this_machine_keeps_its_job_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    first = take(str(tmp_path))
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + step)
    monkeypatch.setattr(psutil, "boot_time", lambda: 1e9 + step)
    with pytest.raises(LedgerError) as caught:
        take(str(tmp_path), Clock(meanwhile=lambda _: first.beat()))
    assert caught.value.code == "ledger.owned"
    assert current_holder(str(tmp_path)) is not None


def test_a_living_owner_of_an_older_version_is_told_by_its_heart(tmp_path: Path) -> None:
    """It noted its birth as a time of day, and its machine by another name."""
    first = take(str(tmp_path))
    older = first.owner.place.removeprefix("linux/")
    first._write(replace(first.owner, place=older, born=psutil.Process().create_time()))
    with pytest.raises(LedgerError) as caught:
        take(str(tmp_path), Clock(meanwhile=lambda _: first.beat()))
    assert caught.value.code == "ledger.owned"


def test_a_released_job_is_free(tmp_path: Path) -> None:
    with own(str(tmp_path)) as claim:
        found = current_holder(str(tmp_path))
        assert found is not None
        assert found.run == claim.owner.run
        assert f"process {os.getpid()}" in found.identity
    assert current_holder(str(tmp_path)) is None
    with own(str(tmp_path)) as claim:
        assert claim.owner.fence == 2


def test_the_heart_beats_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    with own(str(tmp_path)) as claim:
        while claim.owner.beat < 3:
            time.sleep(0.01)


def test_a_beat_that_took_effect_but_was_reported_as_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = take(str(tmp_path))
    real = module.replace_key

    def forgetful(*args: Any) -> None:
        real(*args)

    monkeypatch.setattr(module, "replace_key", forgetful)
    claim.beat()
    monkeypatch.setattr(module, "replace_key", real)
    claim.beat()
    claim.check()
    assert json.loads((tmp_path / LEASE).read_text())["beat"] == 2


def test_an_owner_file_that_says_nothing_is_refused(tmp_path: Path) -> None:
    write_key(str(tmp_path), LEASE, b"{}")
    with pytest.raises(LedgerError) as caught:
        take(str(tmp_path))
    assert caught.value.code == "ledger.owner"


@pytest.mark.usefixtures("no_time")
def test_a_stale_owner_cannot_commit(tmp_path: Path) -> None:
    """It stood still with a record in hand, and another run began: the record is refused, the other's stay."""
    stale = Ledger(str(tmp_path), REGIONS)
    stale.begin()
    stale.append(Record(1, "done"))
    stale.flush()
    stale.append(Record(2, "failed"))
    fresh = Ledger(str(tmp_path), REGIONS)
    fresh.begin()
    with pytest.raises(LedgerError) as caught:
        stale.flush()
    assert caught.value.code == "ledger.overtaken"
    fresh.append(Record(2, "done"))
    fresh.flush()
    states = Ledger(str(tmp_path), REGIONS).states
    assert (states[1], states[2]) == (DONE, DONE)


@pytest.mark.usefixtures("no_time")
def test_merging_segments_frees_no_number_for_a_stale_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.jobs.records.ledger.COMPACT_SEGMENTS", 2)
    stale = Ledger(str(tmp_path), REGIONS)
    stale.begin()
    stale.append(Record(1, "done"))
    fresh = Ledger(str(tmp_path), REGIONS)
    fresh.begin()
    for index in range(5):
        fresh.append(Record(index, "done"))
        fresh.flush()
    fresh.compact()
    with pytest.raises(LedgerError):
        stale.flush()
    assert Ledger(str(tmp_path), REGIONS).done == 5


TAKE = """
import os, sys
from volumetool.jobs.records.lease import acquire
acquire(sys.argv[1])
print(os.getpid())
"""


RACE = """
import pathlib, sys, time
from volumetool.errors import LedgerError
from volumetool.jobs.records.lease import acquire

folder, races = pathlib.Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while not (folder / "start").exists():
    time.sleep(0.001)
for number in range(races):
    try:
        acquire(f"{folder}/{number}")
    except LedgerError:
        continue
    print(number)
print("done", flush=True)
sys.stdin.read()  # a winner that ended would be known to be dead
"""

RACES, RACERS = 200, 4


def test_of_runs_that_start_at_once_one_wins(tmp_path: Path) -> None:
    """200 races of 4 processes for a job that nobody owns: one winner each."""
    command = [sys.executable, "-c", RACE, str(tmp_path), str(RACES)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(RACERS)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "start").write_text("")
    won = [line for racer in racers for line in iter(lambda racer=racer: racer.stdout.readline().strip(), "done")]
    for racer in racers:
        racer.communicate()
    assert sorted(map(int, won)) == list(range(RACES))


HOLD = """
import sys, time
from volumetool.jobs.records import lease
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.errors import LedgerError
lease.BEAT_SECONDS = 0.05
with lease.own(sys.argv[1]) as claim:
    ledger = Ledger(sys.argv[1], 40)
    ledger.begin()
    print("began", flush=True)
    sys.stdin.readline()
    try:
        ledger.append(Record(7, "failed"))
        ledger.flush()
    except LedgerError as error:
        print(error.code, flush=True)
    while not claim.lost:
        time.sleep(0.01)
    print("lost", flush=True)
"""


def stop_between_beats(holder: subprocess.Popen[str], folder: Path) -> None:
    """Stop the owner of a job where it is not about to write its file: it would hold the lock, and whoever takes over wait."""
    while True:
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)  # all its threads have stopped
        if not (folder / f"{LEASE}.__lock").exists():
            return
        holder.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def test_a_process_that_was_stopped_and_continued_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, takeover, SIGCONT: the first owner's commit is refused, and it notices."""
    monkeypatch.setattr(process, "_place", lambda: "another machine")  # from here its process cannot be seen
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "began\n"
        stop_between_beats(holder, tmp_path)
        claim = take(str(tmp_path))
        ledger = Ledger(str(tmp_path), REGIONS)
        ledger.begin()
        ledger.append(Record(7, "done"))
        ledger.flush()
        holder.send_signal(signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "ledger.overtaken\n"
        assert holder.stdout.readline() == "lost\n"
    claim.check()
    assert Ledger(str(tmp_path), REGIONS).states[7] == DONE


class Run:
    """A run on a machine of its own: its clock goes its own way."""

    def __init__(self, skew: float) -> None:
        self.clock = skew
        self.claim: Lease | None = None
        self.ledger: Ledger | None = None
        self.stalled = False


class Runs(RuleBasedStateMachine):
    """Runs of one job start, stall, wake up, crash and commit; their clocks are hours apart."""

    @initialize(skews=st.lists(st.floats(-3600, 3600), min_size=3, max_size=3))
    def begin(self, skews: list[float]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.url = self.folder.name
        self.runs = [Run(skew) for skew in skews]
        self.newest = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        if (run := self.draw(data, lambda run: run.claim is None)) is None:
            return
        clock = Clock(run.clock, meanwhile=lambda _: self.hearts())
        try:
            claim = acquire(self.url, ignore, clock, clock.sleep)
        except LedgerError:
            assert any(other.claim is not None and not other.stalled and not other.claim.lost for other in self.runs)
            return
        finally:
            run.clock = clock.now
        claim._write(replace(claim.owner, place=f"machine {self.runs.index(run)}"))
        assert claim.owner.fence > self.newest
        self.newest = claim.owner.fence
        run.claim, run.ledger, run.stalled = claim, Ledger(self.url, REGIONS), False
        run.ledger.begin()

    def draw(self, data: st.DataObject, wanted: Callable[[Run], bool]) -> Run | None:
        fitting = [run for run in self.runs if wanted(run)]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    def hearts(self) -> None:
        for run in self.runs:
            if run.claim is not None and not run.stalled:
                run.claim.beat()

    @rule(data=st.data())
    def stall(self, data: st.DataObject) -> None:
        if run := self.draw(data, lambda run: run.claim is not None and not run.stalled):
            run.stalled = True

    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        if run := self.draw(data, lambda run: run.stalled):
            run.stalled = False

    @rule(data=st.data(), kind=st.sampled_from(["crash", "end"]))
    def leave(self, data: st.DataObject, kind: str) -> None:
        if run := self.draw(data, lambda run: run.claim is not None and not run.stalled):
            if kind == "end":
                run.claim.release()  # type: ignore[union-attr]  # drawn so
            run.claim = run.ledger = None

    @rule(data=st.data(), region=st.integers(0, REGIONS - 1))
    def commit(self, data: st.DataObject, region: int) -> None:
        run = self.draw(data, lambda run: run.claim is not None and not run.stalled)
        if run is None or run.claim is None or run.ledger is None:
            return
        try:
            run.ledger.append(Record(region, "done", worker=str(run.claim.owner.fence)))
            run.ledger.flush()
        except LedgerError:
            assert run.claim.owner.fence < self.newest
            run.claim = run.ledger = None
            return
        assert run.claim.owner.fence == self.newest, "a stale owner committed"

    @invariant()
    def fences_grow(self) -> None:
        if hasattr(self, "url"):
            fences = [int(record.worker) for record in Ledger(self.url, REGIONS).records()]
            assert fences == sorted(fences)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestManyRuns(Runs.TestCase):  # type: ignore[misc]  # made by hypothesis
    settings = settings(max_examples=2000, stateful_step_count=75, deadline=None)
