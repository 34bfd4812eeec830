"""What a process may use: the least of what the machine has, its groups leave, and the batch system gave."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from volumetool import machine
from volumetool.errors import ResourceError
from volumetool.geometry import plan_levels
from volumetool.jobs.job import make_job
from volumetool.jobs.planning import cost
from volumetool.jobs.planning.planner import plan
from volumetool.machine import memory_limit, usable_cores, usable_memory
from volumetool.storage.create import VolumeLayout, create_volume

GIB = 2**30
FREE = 64 * GIB
CORES = 32


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the folder of the groups of a large machine, that bounds nothing."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=FREE))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "groups").mkdir()
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "groups"


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_a_machine_without_bounds_is_all_there() -> None:
    assert (usable_memory(), usable_cores()) == (FREE, CORES)


def test_no_groups_at_all_bound_nothing(host: Path) -> None:
    host.rmdir()
    (host.parent / "own").unlink()
    assert (usable_memory(), usable_cores()) == (FREE, CORES)


@pytest.mark.parametrize("inner", ["max", 8 * GIB])
def test_the_tightest_of_nested_groups_counts(host: Path, inner: object) -> None:
    (host.parent / "own").write_text("0::/job/step/task\n")
    write(host / "job", memory__max=2 * GIB, cpu__max="150000 100000")
    write(host / "job/step", memory__max=inner, cpu__max="max 100000")
    write(host / "job/step/task", memory__max="max", memory__high=6 * GIB)
    assert (usable_memory(), usable_cores()) == (2 * GIB, 2)


def test_what_is_used_is_not_free_but_cached_files_are(host: Path) -> None:
    write(host, memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"anon 7\ninactive_file {GIB}\nactive_file 5")
    assert usable_memory() == 2 * GIB
    write(host, memory__current=9 * GIB)
    assert usable_memory() == 0


@pytest.mark.parametrize(
    "own", ["0::/../../elsewhere\n", "0::/docker/abc\n", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"]
)
def test_in_a_container_the_root_is_its_own_group(host: Path, own: str) -> None:
    (host.parent / "own").write_text(own)
    write(host, memory__max=GIB, cpu__max="100000 100000")
    assert (usable_memory(), usable_cores()) == (GIB, 1)


def test_groups_of_version_one(host: Path) -> None:
    (host.parent / "own").write_text("9:memory:/slurm/job_1/step_0\n8:cpu,cpuacct:/slurm/job_1\n0::/\n")
    write(host / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=40 * GIB)
    write(host / "memory/slurm/job_1", memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=GIB)
    write(host / "memory/slurm/job_1", memory__stat=f"inactive_file 3\ntotal_inactive_file {GIB // 2}")
    write(host / "memory/slurm/job_1/step_0", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=GIB)
    write(host / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(host / "cpu/slurm/job_1", cpu__cfs_quota_us=400000, cpu__cfs_period_us=100000)
    assert (usable_memory(), usable_cores()) == (5 * GIB // 2, 4)


def test_what_ulimit_leaves_of_addresses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    bound = psutil.Process().memory_info().vms + GIB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (bound, resource.RLIM_INFINITY))
    assert GIB // 2 < usable_memory() <= 2 * GIB


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells how much data a process has")
def test_what_ulimit_leaves_of_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    bound = psutil.Process().memory_info().data + GIB
    limits = {resource.RLIMIT_DATA: bound}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), resource.RLIM_INFINITY))
    assert GIB // 2 < usable_memory() <= 2 * GIB
    assert memory_limit() == f"ulimit -d {bound // 2**10}"


@pytest.mark.parametrize(
    ("given", "memory"),
    [
        ({"MEM_PER_NODE": "2048"}, 2 * GIB),
        ({"MEM_PER_NODE": "3G"}, 3 * GIB),
        ({"MEM_PER_NODE": "0"}, None),
        ({"MEM_PER_NODE": "lots"}, None),
        ({"MEM_PER_CPU": "512", "CPUS_PER_TASK": "4", "CPUS_ON_NODE": "8"}, 2 * GIB),
        ({"MEM_PER_CPU": "512", "CPUS_ON_NODE": "8"}, 4 * GIB),
        ({"MEM_PER_CPU": "512", "JOB_CPUS_PER_NODE": "6(x2),3"}, 3 * GIB),
        ({"MEM_PER_CPU": "1024"}, GIB),
        ({"MEM_PER_GPU": "4096", "GPUS_ON_NODE": "2"}, 8 * GIB),
        ({"MEM_PER_GPU": "4096", "GPUS_PER_NODE": "a100:3"}, 12 * GIB),
    ],
    ids=str,
)
def test_what_a_slurm_job_asked_for_is_what_it_has(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], memory: int | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    taken = 100 * 2**20
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=taken))
    assert usable_memory() == (FREE if memory is None else memory - taken)


@pytest.mark.parametrize(
    ("given", "cores"),
    [({"CPUS_PER_TASK": "3", "CPUS_ON_NODE": "8"}, 3), ({"CPUS_ON_NODE": "8"}, 8), ({"CPUS_ON_NODE": "64"}, CORES)],
    ids=str,
)
def test_the_cores_of_a_slurm_task(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], cores: int) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert usable_cores() == cores


def test_the_limit_that_counts_is_named_with_its_value(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tightest of all, whichever kind it is."""
    assert memory_limit() == "free memory of this machine"
    write(host, memory__max=32 * GIB, memory__high=16 * GIB)
    assert memory_limit() == f"{host / 'memory.high'} = {16 * GIB}"
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "2G")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert memory_limit() == "SLURM_MEM_PER_CPU=2G x 4"
    own = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda _: (own + GIB, own + GIB))
    assert memory_limit() == f"ulimit -v {(own + GIB) // 2**10}"


def test_cores_that_cannot_be_asked_for_are_those_of_the_machine_and_why_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> set[int]:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_getaffinity", fails, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    assert "Invalid argument" in machine.core_limits()[0][1]


def test_every_limit_of_cores_says_whose_it_is(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(host, cpu__max="150000 100000")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert machine.core_limits() == [
        (CORES, "cores that this process is pinned to"),
        (2, f"{host / 'cpu.max'} = 150000 of 100000"),
        (3, "SLURM_CPUS_PER_TASK=3"),
    ]


def made_up(folder: Path, shape: tuple[int, int, int]) -> dict[str, str]:
    """Make a volume without voxels, and return a job on it."""
    layout = VolumeLayout("uint8", plan_levels(shape, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0)))
    create_volume(str(folder / "in.zarr"), layout, {})
    return {
        "input": str(folder / "in.zarr"),
        "output": str(folder / "out.zarr"),
        "model": "fake:identity?scale=1,1,1&patch=1,256,256&overlap=0,16,16",
        "device": "cpu",
    }


def test_a_job_is_planned_smaller_where_less_memory_is_allowed(
    tmp_path: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a group, and by SLURM: in regions that fit into it."""
    monkeypatch.setattr(cost, "free_bytes", lambda _: None)
    job = make_job(**made_up(tmp_path, (256, 8192, 4096)))
    roomy = plan(job)
    assert roomy.estimates.worker_bytes > 2 * GIB
    held = psutil.Process().memory_info().rss // 2**20  # by the tests before this one
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(2048 + held))
    asked = plan(job)
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    write(host, memory__max=2 * GIB)
    for bounded in (asked, plan(job)):
        assert bounded.estimates.worker_bytes <= bounded.estimates.allowed_bytes < 2 * GIB
        assert bounded.grid.count > roomy.grid.count


@contextmanager
def real_group(limit: int) -> Iterator[Path]:
    """Give the file that moves a process into a new control group of this machine, below this process's own; skip without."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root, path, bound = Path("/sys/fs/cgroup"), own.get("", "/"), "memory.max"
    if "memory" in own:
        root, path, bound = root / "memory", own["memory"], "memory.limit_in_bytes"
    folder = root / path.lstrip("/") / f"volumetool-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (folder / bound).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"the memory of control groups cannot be bounded here: {error}")
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()


@pytest.mark.slow
def test_a_real_group_of_two_gib_bounds_the_plan_and_kills_nothing(tmp_path: Path) -> None:
    options = made_up(tmp_path, (256, 8192, 4096))
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", options.pop("input"), options.pop("output")]
    command += ["--roi=0:256,0:512,:", *(f"--{name}={value}" for name, value in options.items())]
    with real_group(2 * GIB) as entry:
        joined = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(entry), *command]
        told = subprocess.run([*joined, "--dry-run", "--json"], capture_output=True, text=True, check=True)
        subprocess.run(joined, check=True)
    estimates = json.loads(told.stdout)["estimates"]
    assert estimates["worker_bytes"] <= estimates["allowed_bytes"] < 0.7 * 2 * GIB


def test_an_output_of_more_files_than_there_is_room_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "file_limits", lambda _: [(3, "its file system")])
    with pytest.raises(ResourceError, match=r"is about \d+ files.* room for 3 more") as caught:
        plan(make_job(**made_up(tmp_path, (64, 2048, 2048))))
    assert caught.value.code == "resource.files"


@pytest.mark.parametrize(("options", "limit"), [({}, "memory.max = 1048576"), ({"memory": "1MiB"}, "--memory 1 MiB")])
def test_what_memory_does_not_hold_is_refused_with_the_limit(
    tmp_path: Path, host: Path, options: dict[str, str], limit: str
) -> None:
    write(host, memory__max=2**20)
    with pytest.raises(ResourceError) as caught:
        plan(make_job(**made_up(tmp_path, (4, 64, 64)), **options))
    assert limit in caught.value.message
