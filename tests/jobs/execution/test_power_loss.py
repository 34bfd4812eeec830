"""After a loss of power the ledger claims no more than the disk holds, and the job ends with the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from crash_jobs import Job, begin_anew

from volumetool.jobs.records.ledger import Ledger
from volumetool.testing import CrashRunner, DiskFault, Ended, lose_power

KEPT = {"patch_cache": "always"}


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "losses"),
    [
        ("tiny", 6),
        pytest.param("small", 200, marks=pytest.mark.slow),
        pytest.param(("small", KEPT), 60, marks=pytest.mark.slow),
    ],
    indirect=["job"],
    ids=["6", "200", "60 with kept patches"],
)
def test_whatever_was_not_synced_may_go(runner: CrashRunner, job: Job, losses: int) -> None:
    random = Random(11)  # noqa: S311
    total = len(runner.run("crash_jobs:go", job.told, root=begin_anew(job)).events)
    at_risk = 0
    for number in range(losses):
        work = begin_anew(job)
        died = runner.run("crash_jobs:go", job.told, root=work, fault=_kill(random, total), keep=True)
        loss = lose_power(work, died, random, share=random.choice((0.2, 0.5, 1.0)))
        at_risk += loss.at_risk
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"loss {number}, {died.events[-1]}, {loss}: {again.text}"
    assert at_risk > losses  # else nothing was tried


@pytest.mark.parametrize("job", ["tiny"], indirect=True)
def test_the_model_sees_a_disk_that_does_not_sync(runner: CrashRunner, job: Job) -> None:
    """Otherwise the test above would pass for the wrong reason."""
    random = Random(2)  # noqa: S311
    wrong = 0
    for _ in range(4):
        work = begin_anew(job)
        died = runner.run("crash_jobs:go", job.told, root=work, keep=True)
        lose_power(work, _unsynced(died), random)
        wrong += runner.run("crash_jobs:inspect", job.told).error is not None
    assert wrong


def _kill(random: Random, total: int) -> DiskFault:
    return DiskFault("kill-within", random.randrange(2, total))


def _unsynced(ended: Ended) -> Ended:
    return replace(ended, events=tuple(event for event in ended.events if event.kind != "sync"))


@pytest.mark.parametrize("job", ["tiny"], indirect=True)
def test_a_ledger_cut_at_any_byte_of_its_last_record_loses_that_record_alone(runner: CrashRunner, job: Job) -> None:
    begin_anew(job)
    assert runner.run("crash_jobs:go", job.told).error is None
    folder = Path(f"{job.plan.output}.job")
    last = max(file for file in (folder / "ledger").iterdir() if file.stat().st_size)
    whole = last.read_bytes()
    begins = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(begins, len(whole)):
        last.write_bytes(whole[:cut])
        done = Ledger(str(folder), job.plan.grid.count).done
        assert done == job.plan.grid.count - 1, cut
    last.write_bytes(whole[: (begins + len(whole)) // 2])
    assert runner.run("crash_jobs:go", job.told).value == 1
    again = runner.run("crash_jobs:inspect_and_resume", job.told)
    assert (again.error, again.value) == (None, 0), again.text
