"""Quotas are read from the programs that tell them, and bound a plan by name and value."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from small_jobs import SMALL, noise, write_input

from volumetool import machine
from volumetool.errors import ResourceError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.machine import byte_limits, file_limits
from volumetool.sites.doctor import examine

HEAD = "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace"
Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Return a function that installs programs which print what is given, for each word or words of their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "PATIENCE", 60.0)  # a busy machine tells them late, not never

    def install(name: str, told: dict[str, str], place: str = "/home", kind: str = "ext4") -> None:
        cases = "\n".join(f"*{shlex.quote(words)}*) printf '%s\\n' {shlex.quote(text)};;" for words, text in told.items())
        (folder / name).write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\nesac\nexit 1\n')
        (folder / name).chmod(0o755)
        monkeypatch.setattr(machine, "mount_of", lambda _: (place, kind))
        machine._asked.cache_clear()

    return install


def test_the_quotas_of_user_and_groups_count_where_they_are_for_this_file_system(programs: Programs, tmp_path: Path) -> None:
    user = f"Disk quotas for user ann (uid 7): \n{HEAD}\n  /home  1000  2000  3000  0  10  0  50  0\n /other  1 1 1 0 1 1 1 0"
    groups = f"Disk quotas for group lab (gid 8): \n{HEAD}\n  /home 900* 800 0 1700000000 5 0 0 0\n"
    groups += "Disk quotas for group em (gid 9): none"
    programs("quota", {"-u": user, "-g": groups})
    assert byte_limits(tmp_path)[1:] == [
        (2000 * 1024, "the quota of user ann on /home, 3000 KiB"),
        (0, "the quota of group lab on /home, 800 KiB"),
    ]
    assert file_limits(tmp_path)[-1] == (40, "the quota of user ann on /home, 50 files")


def test_lustre_tells_user_group_and_the_project_of_the_folder(programs: Programs, tmp_path: Path) -> None:
    told = {"project -d": f"  1001 P {tmp_path}"}
    told |= {"-q -u": "/lustre  [100]  0  300  -  4  0  6  -", "-q -g": "/lustre 1 0 0 - 1 0 0 -"}
    told |= {"-q -p 1001": "/lustre/a/very/long/name\n   500* 0 400 none  7 0 9 -".replace("/a/very/long/name", "")}
    programs("lfs", told, "/lustre", "lustre")
    assert byte_limits(tmp_path)[1:] == [
        (200 * 1024, f"the quota of user {os.getuid()} on /lustre, 300 KiB"),
        (0, "the quota of project 1001 on /lustre, 400 KiB"),
    ]
    assert file_limits(tmp_path)[-1] == (2, "the quota of project 1001 on /lustre, 9 files")


def test_a_program_that_is_not_there_fails_or_tells_no_quota_bounds_nothing(programs: Programs, tmp_path: Path) -> None:
    for text in (
        "Disk quotas for user ann (uid 7): none",
        "quota: error while getting quota",
        "",
        f"{HEAD}\n/home 1 2 3 0 4 5 6 0",
    ):
        programs("quota", {"-u": text})
        assert [whose for _, whose in byte_limits(tmp_path)] == ["its file system"]
    programs("quota", {}, "/lustre", "lustre")
    assert machine.disk_quotas(tmp_path) == []


def test_a_job_that_a_quota_leaves_no_room_for_is_refused_with_both_values_and_the_doctor_tells_it(
    programs: Programs, tmp_path: Path
) -> None:
    source = write_input(tmp_path / "in.zarr", noise((8, 64, 64)))
    job = make_job(input=str(source), output=str(tmp_path / "out.zarr"), **SMALL)
    heading = f"Disk quotas for user ann (uid 7): \n{HEAD}\n"
    programs("quota", {"-u": f"{heading}/home 1990 0 2000 0 0 0 0 0"})
    with pytest.raises(
        ResourceError, match=r"takes about .*, the quota of user ann on /home, 2000 KiB leaves 10 KiB"
    ) as caught:
        plan(job)
    assert caught.value.code == "resource.disk"
    programs("quota", {"-u": f"{heading}/home 0 0 0 0 7 0 8 0"})
    with pytest.raises(ResourceError, match=r"the quota of user ann on /home, 8 files has room for 1 more") as caught:
        plan(job)
    assert caught.value.code == "resource.files"
    programs("quota", {"-u": f"{heading}/home 0 0 4000 0 7 0 800 0"})
    assert "by the quota of user ann on /home, 4000 KiB" in dict(describe_plan(plan(job)))["disk"]
    found = next(each.found for each in examine(tmp_path).findings if each.name == "output")
    assert "793 files may be added by the quota of user ann" in found
