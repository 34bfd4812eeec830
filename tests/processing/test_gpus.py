"""Which GPUs a process sees and takes, told from what driver and batch system say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from volumetool.processing.device import gpus
from volumetool.processing.device.gpus import driver_gpus, pin_gpus, visible_gpus, why_none_is_given

UUIDS = [f"GPU-{number:08x}-0000-0000-0000-000000000000" for number in range(4)]


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the folder of a driver with four GPUs."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "CUDA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "nvidia")
    for number, uuid in enumerate(UUIDS):
        folder = tmp_path / "nvidia" / "gpus" / f"0000:{number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n")
    return tmp_path / "nvidia"


def test_the_driver_names_its_gpus() -> None:
    assert driver_gpus() == UUIDS == visible_gpus()


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("2,0", ["2", "0"]),
        (f"{UUIDS[1]}", [UUIDS[1]]),
        ("MIG-abc, GPU-1", ["MIG-abc", "GPU-1"]),
        ("", []),
        ("NoDevFiles", []),
        ("0,-1,2", ["0"]),
    ],
)
def test_the_list_of_cuda_is_taken_as_cuda_takes_it(monkeypatch: pytest.MonkeyPatch, shown: str, seen: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == seen


@pytest.mark.parametrize("tasks", ["4", "4(x2),1", "2", "8"])
def test_tasks_that_share_a_node_get_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    """By UUID; with more tasks than GPUs, in turn."""
    count, taken = int(tasks[0]), []
    for local in range(count):
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
        monkeypatch.setenv("SLURM_LOCALID", str(local))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        pin_gpus()
        taken += os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        pin_gpus()  # as in a process that this one starts
        assert os.environ["CUDA_VISIBLE_DEVICES"].split(",") == taken[-max(1, 4 // count) :]
    assert {uuid: taken.count(uuid) for uuid in UUIDS} == dict.fromkeys(UUIDS, max(1, count // 4))


@pytest.mark.parametrize("shown", [None, "3", f"{UUIDS[2]}", "MIG-abc"])
def test_a_task_that_is_shown_one_gpu_or_is_alone_keeps_what_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, shown: str | None
) -> None:
    """As by ``--gpus-per-task=1``; the batch script of a job is alone."""
    monkeypatch.setenv("SLURM_LOCALID", "1")
    if shown is not None:
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    pin_gpus()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown


def test_the_reason_for_no_gpu_is_the_real_one(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    assert why_none_is_given() is None
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    assert "asked for none" in str(why_none_is_given())
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_none_is_given() == "the driver shows no GPU"
    monkeypatch.setattr(gpus, "DRIVER", driver / "none")
    monkeypatch.setattr(gpus, "CONTROL", driver / "none")
    assert "apptainer --nv" in str(why_none_is_given())
