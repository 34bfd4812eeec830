"""The script of `volumetool slurm`: what it asks for, that its words arrive as they were given, and what it refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from volumetool.errors import ClusterError, ConfigError
from volumetool.jobs.job import Job, make_job
from volumetool.sites import slurm
from volumetool.sites.site import read_site, seconds
from volumetool.sites.slurm import array_script, submit

ODD = 'it\'s a $volume; `echo` "two"  \\ .zarr'


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(slurm, "scheduler_limits", dict)


def job(**options: Any) -> Job:
    return make_job(**{"input": "in.zarr", "output": "out.zarr", "model": "em-x4", **options})


def script(site: str = "generic", file: Path | None = None, **options: Any) -> str:
    return array_script(job(), read_site(site, file, **options))


@pytest.mark.parametrize("site", ["generic", "whole-nodes", "gpu", "tacc-like"])
def test_the_script_of_every_site_passes_bash_and_shellcheck(site: str, tmp_path: Path) -> None:
    file = tmp_path / "job.sh"
    file.write_text(array_script(job(input=ODD, output=ODD + "2"), read_site(site, array=3)))
    subprocess.run(["bash", "-n", file], check=True)
    if (shellcheck := shutil.which("shellcheck")) is not None:
        done = subprocess.run([shellcheck, file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


def test_the_words_of_a_job_arrive_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = array_script(job(input=ODD, output="o ut.zarr", workers=2), read_site())
    command = next(line for line in text.splitlines() if line.startswith("job=("))
    shown = subprocess.run(
        ["bash", "-c", f"{command}\nprintf '%s\\n' \"${{job[@]}}\""], capture_output=True, text=True, check=True
    )
    program, *words = shown.stdout.splitlines()
    assert Path(program).name == "volumetool"
    assert words == ["enhance", str(tmp_path / ODD), str(tmp_path / "o ut.zarr"), "--model=em-x4", "--workers=2"]


def test_what_an_element_asks_for_is_what_was_given() -> None:
    asked = {"partition": "gpu", "account": "lab", "constraint": "a100&nvme", "gpus": 1, "cpus": 8, "mem": "64G"}
    text = script(**asked, time="2-12:00:00", array=6)
    told = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert told.pop("job-name").startswith("volumetool-")
    assert told == {
        "array": "0-5",
        "nodes": "1",
        "ntasks": "1",
        "partition": "gpu",
        "account": "lab",
        "constraint": "a100&nvme",
        "gpus-per-node": "1",
        "cpus-per-task": "8",
        "mem": "64G",
        "time": "2-12:00:00",
        "signal": "B:USR1@120",
        "requeue": "",
        "open-mode": "append",
        "output": "volumetool-%A_%a.log",
    }
    assert "srun" not in text
    assert "--cluster=cuda" not in text
    assert "--cluster=cuda" in script(gpus=2)


def test_a_site_without_arrays_gets_a_script_for_one_part_at_a_time() -> None:
    text = script("tacc-like")
    assert "#SBATCH --array" not in text
    assert "module load tacc-apptainer" in text
    assert 'job=(apptainer exec "$WORK/volumetool.sif" volumetool enhance ' in text
    assert 'export TMPDIR="/tmp"' in text


def test_a_users_own_site_wins_and_options_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text("generic: {partition: long, gpus: 4}\nmine: {modules: [cuda/12.4], time: '30:00'}\n")
    assert "--partition=long" in script(file=file)
    assert "--gpus-per-node=2" in script(file=file, gpus=2)
    assert {"module load cuda/12.4", "#SBATCH --time=30:00"} <= set(script("mine", file).splitlines())


@pytest.mark.parametrize(
    ("site", "options", "code"),
    [
        ("nowhere", {}, "config.site"),
        ("word", {}, "config.site"),
        ("unknown", {}, "config.option"),
        ("shell", {}, "config.option"),
        ("generic", {"partition": "a b"}, "config.option"),
        ("generic", {"time": "soon"}, "config.option"),
        ("unquoted", {}, "config.option"),
        ("generic", {"time": "0"}, "config.option"),
        ("generic", {"array": 0}, "config.option"),
        ("generic", {"mem": "64 GB"}, "config.option"),
        ("tacc-like", {"array": 26}, "config.array"),
        ("tacc-like", {"mem": "4G"}, "config.site"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, site: str, options: dict[str, Any], code: str) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text("word: 3\nunknown: {colour: red}\nshell: {scratch: '$(rm -rf x)'}\nunquoted: {time: 8:00:00}\n")
    with pytest.raises(ConfigError) as caught:
        script(site, file, **options)
    assert caught.value.code == code


def test_more_elements_than_the_scheduler_allows_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "scheduler_limits", lambda: {"MaxArraySize": 11, "MaxJobCount": 10000})
    assert "--array=0-10" in script(array=11)
    with pytest.raises(ConfigError, match=r"12 elements .* at most 11 .* MaxArraySize") as caught:
        script(array=12)
    assert "--array 11" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("30:15", 1815), ("8:00:00", 28800), ("2-12", 216000), ("1-00:30", 88200), ("1-00:00:05", 86405)],
)
def test_times_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_the_warning_comes_well_within_a_short_time() -> None:
    assert "--signal=B:USR1@30" in script(time="2:00")


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_site_without_arrays_gets_a_job_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, monkeypatch, 'cat > /dev/null; part=${2##*=}; echo "10$part;cluster"')
    assert submit(script("tacc-like", array=3), read_site("tacc-like", array=3)) == ["100", "101", "102"]
    assert submit(script(), read_site()) == ["10"]


def test_a_script_that_is_refused_is_told_in_the_words_of_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(ClusterError, match="invalid partition specified") as caught:
        submit(script(), read_site())
    assert caught.value.code == "cluster.submit"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(ClusterError) as caught:
        submit(script(), read_site())
    assert caught.value.code == "cluster.no-slurm"


def test_a_box_goes_along() -> None:
    assert "--roi=0:4,0:8,0:8" in array_script(job(roi="0:4,0:8,0:8"), read_site())
    assert array_script(job(roi="0:4,0:8,0:8", crop=True), read_site()).count("--roi") == 1
