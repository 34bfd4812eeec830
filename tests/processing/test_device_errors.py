"""Troubles of a device: memory that is short costs time and no byte; what breaks a context is known by its words."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from harness import engine_of
from torch import Tensor, nn

from volumetool.errors import ResourceError
from volumetool.models import Model
from volumetool.processing.columns import Column
from volumetool.processing.device.device_errors import kind_of
from volumetool.processing.engine import HALVINGS, Engine
from volumetool.processing.predictor import BatchPredictor
from volumetool.testing import FakeConfig, fake_model

PATCH = (1, 8, 8)

LOST = (
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: invalid program counter",
    "CUDA error: operation not supported on global/shared address space; invalid address space",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: uncorrectable NVLink error detected during the execution",
    "CUDA error: hardware stack error",
    "CUDA error: context is destroyed",
    "CUDA error: driver shutting down",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "CUDA error: no CUDA-capable device is detected",
    "CUDA error: initialization error",
    "CUDA error: unknown error",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "Failed to initialize NVML: GPU is lost",
    "NVML_ERROR_GPU_IS_LOST: the GPU has fallen off the bus",
    "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus",
    "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
)
MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1090",
)
OTHER = (
    "mat1 and mat2 shapes cannot be multiplied",
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    "CUDA error: invalid argument",
    "CUDA error: no kernel image is available for execution on the device",
    "the fake network fails on purpose",
    "launch failure of a rocket",
)


@pytest.mark.parametrize(
    ("words", "kind"),
    [*((words, "lost") for words in LOST), *((words, "memory") for words in MEMORY), *((words, "other") for words in OTHER)],
)
def test_what_a_device_says_is_understood(words: str, kind: str) -> None:
    assert kind_of(RuntimeError(words)) == kind


def test_other_errors_that_speak_of_devices_are_not_the_devices() -> None:
    assert kind_of(ValueError(LOST[0])) == "other"
    assert kind_of(torch.OutOfMemoryError("anything")) == "memory"
    assert kind_of(MemoryError()) == "memory"


class Scripted(nn.Module):
    """Adds what depends on the patch alone, where the patches fit into the room of this call."""

    def __init__(self, room: Callable[[int], int]) -> None:
        super().__init__()
        self.room, self.calls, self.refused = room, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if len(x) > self.room(self.calls):
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x + x.sum((1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return fake_model(FakeConfig(behaviour="identity", scale=(1, 1, 1)), patch=PATCH, overlap=(0, 0, 0))


def scripted(model: Model, batch: int, room: Callable[[int], int], *, pad: bool = False) -> tuple[Engine, Scripted]:
    engine = engine_of(model, batch, pad=pad)
    network = Scripted(room)
    engine._function.network = network
    return engine, network


@pytest.mark.parametrize("seed", range(200))
def test_memory_that_comes_and_goes_changes_no_byte(model: Model, seed: int) -> None:
    """200 schedules: rooms drawn anew for every call, never below a sixteenth of the batch."""
    random = np.random.default_rng(seed)
    batch = int(random.choice([1, 2, 5, 8, 16]))
    least = max(1, batch >> HALVINGS)
    rooms = random.integers(least, batch + 1, 1000)
    patches = random.random((int(random.integers(1, 40)), 1, 8, 8), dtype=np.float32)
    expected = [patch + patch.sum(keepdims=True) for patch in patches]
    engine, network = scripted(model, batch, lambda call: int(rooms[call]))
    outputs = engine.predict(patches)
    plain, _ = scripted(model, batch, lambda _: batch)
    assert len(outputs) == len(expected)
    for output, other in zip(outputs, plain.predict(patches), strict=True):
        assert output.tobytes() == other.tobytes()
    assert network.refused <= HALVINGS  # what worked is remembered
    before = network.refused
    engine.predict(patches)
    assert network.refused <= max(before, HALVINGS)


def test_too_little_memory_is_given_up_after_four_halvings_and_says_what_to_do(model: Model) -> None:
    engine, network = scripted(model, 64, lambda _: 0)
    with pytest.raises(ResourceError) as caught:
        engine.predict(np.zeros((64, 1, 8, 8), np.float32))
    assert caught.value.code == "resource.device-memory"
    assert "4 patches" in caught.value.message
    assert "--batch" in caught.value.hint
    assert network.calls == HALVINGS + 1


def test_a_batch_that_decides_bytes_is_never_halved(model: Model) -> None:
    """It is tried once more, as memory may have been given back, and then given up."""
    engine, network = scripted(model, 8, lambda call: 8 * (call > 1), pad=True)
    assert len(engine.predict(np.zeros((3, 1, 8, 8), np.float32))) == 3
    assert (network.calls, engine.room) == (2, 8)
    engine, network = scripted(model, 8, lambda _: 0, pad=True)
    with pytest.raises(ResourceError) as caught:
        engine.predict(np.zeros((3, 1, 8, 8), np.float32))
    assert "other bytes" in caught.value.message
    assert network.calls == 2


def test_nothing_is_kept_alive_by_the_error_while_memory_is_freed(model: Model) -> None:
    """The tensors of the failed call are gone before the next one begins."""
    seen: list[weakref.ref[Tensor]] = []

    class Holding(Scripted):
        def forward(self, x: Tensor) -> Tensor:
            big = x + 1
            assert all(ref() is None for ref in seen)
            seen.append(weakref.ref(big))
            return super().forward(big)

    engine = engine_of(model, 4)
    engine._function.network = Holding(lambda call: 4 if call > 1 else 0)
    engine.predict(np.zeros((2, 1, 8, 8), np.float32))
    assert len(seen) == 2


def test_every_call_of_the_network_is_a_sign_of_life(model: Model) -> None:
    engine = engine_of(model, 2)
    beats: list[int] = []
    columns = [Column(0, 0, range(5), range(1), np.zeros((5, 1, 32, 32), np.float32), np.ones(5, bool), None, (0, 0, 0))]
    predictor = BatchPredictor(engine, lambda: beats.append(1))
    assert len(list(predictor.predict(iter(columns)))) == 1
    assert len(beats) == 3
