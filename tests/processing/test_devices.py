"""One module chooses the device: it says why one is not there, and the rest of the program knows arrays alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from small_jobs import SMALL, noise, write_input

from volumetool.errors import ConfigError, ResourceError
from volumetool.jobs.clusters.cuda import require_gpus
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.planning.planner import plan
from volumetool.processing.device import arrays
from volumetool.processing.device.arrays import KINDS, array_module, as_array, computes_bfloat16, device_title, resolve_device
from volumetool.processing.device.device_errors import free_memory, kind_of
from volumetool.processing.device.gpus import DeviceName

NAMES: list[DeviceName] = ["cuda", "rocm", "mps", "xpu"]
HERE = {"cuda": torch.version.cuda, "rocm": torch.version.hip, "mps": torch.backends.mps.is_built(), "xpu": torch.version.xpu}
ABSENT = [name for name in NAMES if not HERE[name]]


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_torch_was_not_built_for_is_refused_with_that_reason(name: DeviceName, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((2, 32, 32)))
    with pytest.raises(ResourceError) as caught:
        plan(make_job(input=str(source), output=str(tmp_path / "out.zarr"), **SMALL | {"device": name}))
    assert caught.value.code == "resource.no-gpu"
    assert f"--device {name} was asked for" in caught.value.message
    assert f"torch {torch.__version__} was built without" in caught.value.message
    assert "--device cpu" in (caught.value.hint or "")


def built_for(monkeypatch: pytest.MonkeyPatch, name: str, *, there: bool) -> None:
    """Let torch look as if it was built for one device, which is there or not."""

    def refuse() -> None:
        raise RuntimeError(f"no {name} device\nmore")

    monkeypatch.setattr(torch.version, "cuda", "13.0" if name == "cuda" else None)
    monkeypatch.setattr(torch.version, "hip", "7.1" if name == "rocm" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there and name in ("cuda", "rocm"))
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: name == "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there and name == "mps")
    fake = SimpleNamespace(_is_compiled=lambda: name == "xpu", is_available=lambda: there and name == "xpu", init=refuse)
    monkeypatch.setattr(torch, "xpu", fake)


@pytest.mark.parametrize(("name", "kind"), [("cuda", "cuda"), ("rocm", "cuda"), ("mps", "mps"), ("xpu", "xpu")])
def test_a_device_that_is_there_is_taken_and_no_other(name: DeviceName, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built_for(monkeypatch, name, there=True)
    assert resolve_device(name).type == kind
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if kind == "cuda" else "cpu")
    for other in set(NAMES) - {name}:
        with pytest.raises(ResourceError, match=f"--device {other}"):
            resolve_device(other)


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_torch_sees_none_of_is_refused_with_what_torch_says(
    name: DeviceName, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_for(monkeypatch, name, there=False)
    with pytest.raises(ResourceError) as caught:
        resolve_device(name)
    reason = "no device of Metal" if name == "mps" else f"no {name} device"
    assert reason in caught.value.message
    assert KINDS[name][0] in caught.value.message


@pytest.mark.parametrize("name", ["rocm", "mps", "xpu"])
def test_arrays_of_a_device_without_cupy_are_in_the_memory_of_the_host(
    name: DeviceName, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_for(monkeypatch, name, there=True)
    device = resolve_device(name)
    assert array_module(device) is np
    held = torch.arange(6.0).reshape(2, 3)
    far: Any = SimpleNamespace(device=device, cpu=lambda: held)
    assert as_array(far).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not computes_bfloat16(torch.device("mps"))


def test_an_array_of_a_tensor_on_the_cpu_is_a_view_of_it() -> None:
    held = torch.zeros(4)
    as_array(held)[1] = 7
    assert held.tolist() == [0, 7, 0, 0]


def test_memory_is_given_back_to_whatever_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(
        torch, "get_device_module", lambda device: SimpleNamespace(empty_cache=lambda: emptied.append(device.type))
    )
    for name in ("cpu", "mps", "xpu"):
        free_memory(torch.device(name))
    assert emptied == ["mps", "xpu"]


def test_measurements_are_kept_by_the_name_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    titled = SimpleNamespace(get_device_name=lambda: "Arc B580")
    monkeypatch.setattr(torch, "get_device_module", lambda _: titled)
    assert [device_title(torch.device(name)) for name in ("cpu", "mps", "xpu")] == ["cpu", "mps", "Arc B580"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("MPS backend out of memory (MPS allocated: 9 GB)", "memory"),
        ("XPU out of memory. Tried to allocate 2.00 GiB", "memory"),
        ("HIP out of memory. Tried to allocate 2.00 GiB", "memory"),
        ("HIP error: an illegal memory access was encountered", "lost"),
        ("HIP error: unspecified launch failure", "lost"),
        ("HIP error: invalid argument", "other"),
    ],
)
def test_what_other_devices_say_is_understood(words: str, kind: str) -> None:
    assert kind_of(RuntimeError(words)) == kind


@pytest.mark.parametrize("name", ["cpu", "rocm", "mps", "xpu"])
def test_a_cluster_of_cuda_workers_computes_on_no_other_device(name: DeviceName) -> None:
    with pytest.raises(ConfigError, match=f"--device {name} was asked for"):
        require_gpus(name, None)


def test_every_device_of_a_job_has_a_reason_and_a_hint() -> None:
    assert set(get_args(DeviceName)) == {"auto", "cpu", *KINDS}
    assert Job.model_json_schema()["properties"]["device"]["enum"] == list(get_args(DeviceName))
    assert arrays.why_absent("xpu") is not None or HERE["xpu"]
