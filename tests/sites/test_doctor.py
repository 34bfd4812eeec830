"""`doctor` says what a machine gives to a job; each thing that is missing shows, and only what stops every job fails."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil
import pytest
from volumetool.cli.main import main

from volumetool.sites import doctor
from volumetool.sites.doctor import CheckResult, examine


def finding(name: str, output: Path | None = None) -> CheckResult:
    return next(each for each in examine(output).findings if each.name == name)


def test_a_machine_on_which_a_job_runs_is_found_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "out.zarr"), "--json"])
    told = json.loads(capsys.readouterr().out)
    names = [each["name"] for each in told["findings"]]
    assert (ended.value.code, told["kind"], told["ok"]) == (0, "examination", True)
    assert names[:4] == ["program", "cores", "memory", "GPU"]
    assert {"temporary", "output", "ports", "browser", "extras"} <= set(names)


def test_what_stops_every_job_is_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**28)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path)])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "missing" in said.out
    assert "no job can run here" in said.err


def test_every_limit_of_memory_is_told_with_what_a_job_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = 2048 + psutil.Process().memory_info().rss // 2**20  # MiB; the tests before this one hold some of it
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(given))
    found = finding("memory")
    assert f"SLURM_MEM_PER_NODE={given}" in found.found.partition(";")[0]
    assert found.state == "fine"
    assert "a job is planned for" in found.means


def test_an_output_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert finding("output", tmp_path / "sub" / "out.zarr").state in ("fine", "note")
    found = finding("output", file / "out.zarr")
    assert (found.state, "choose another place" in found.means) == ("missing", True)


def test_a_folder_in_memory_is_said_to_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "mount_of", lambda _: ("/", "tmpfs"))
    found = finding("output", tmp_path)
    assert found.state == "note"
    assert "memory of the job" in found.means


def test_a_port_that_cannot_be_opened_leaves_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refuse)
    found = finding("ports")
    assert (found.state, "one worker" in found.means) == ("note", True)


def test_a_missing_browser_and_extra_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(doctor, "EXTRAS", {"odd": ("no_such_module", "odd files")})
    assert "apt-get install chromium" in finding("browser").means
    assert "odd: odd files" in finding("extras").found
    assert examine().ok


def test_a_slurm_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    assert finding("SLURM job").found == "17 on n3"
