"""A recorded network gives the bytes of the network, or is not used. Without a GPU, CUDA's graphs are stood in for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from volumetool.enhancement.recording import Recorded


class Device:
    """What torch.cuda is to a recording: a graph computes anew, in place, what its network computed while it was recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.replays = 0
        self.recording = False
        self.skew = 0.0
        self.refusal: Exception | None = None
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def network(self, x: Tensor) -> Tensor:
        """Double, and count the calls that start kernels one by one."""
        if self.recording and self.refusal is not None:
            raise self.refusal
        self.calls += 1
        self.read, self.written = x, 2 * x
        return self.written

    def Stream(self) -> Device:  # noqa: N802  (torch's name)
        return self

    current_stream = Stream

    def wait_stream(self, other: Device) -> None:
        assert other is self

    def stream(self, stream: Device) -> contextlib.AbstractContextManager[Device]:
        return contextlib.nullcontext(stream)

    def CUDAGraph(self) -> Graph:  # noqa: N802  (torch's name)
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph: Graph, **options: Any) -> Iterator[None]:
        assert options == {"stream": self, "capture_error_mode": "thread_local"}
        self.recording = True
        try:
            yield
        finally:
            self.recording = False
        graph.read, graph.written = self.read, self.written


class Graph:
    """A graph that was recorded: it reads and writes the tensors that its network did."""

    read: Tensor
    written: Tensor

    def __init__(self, device: Device) -> None:
        self._device = device

    def replay(self) -> None:
        self._device.replays += 1
        self.written.copy_(2 * self.read + self._device.skew)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def test_from_the_second_call_on_a_shape_is_replayed(device: Device) -> None:
    recorded = Recorded(device.network)
    outputs = [recorded(torch.full((2, 3), float(n))) for n in range(5)]
    for n, output in enumerate(outputs):  # none was overwritten by the next
        assert torch.equal(output, torch.full((2, 3), 2.0 * n))
    calls, replays = device.calls, device.replays
    assert (calls, replays) == (3, 1 + 4)  # the first call, a warm one and the recorded one; a check, then the others
    recorded(torch.ones(4))
    assert device.calls == 2 * calls


def test_what_cannot_be_recorded_runs_as_it_is(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.refusal = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    recorded = Recorded(device.network)
    with caplog.at_level(logging.WARNING):
        outputs = [recorded(torch.full((3,), float(n))) for n in range(3)]
    assert [float(output[0]) for output in outputs] == [0.0, 2.0, 4.0]
    assert device.replays == 0
    assert [record.message for record in caplog.records] == [
        "the network runs unrecorded, which is slower: no CUDA graph could be made of it: CUDA error: operation not permitted "
        "when stream is capturing"
    ]


def test_a_recording_with_other_bytes_is_not_used(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.skew = 1e-6
    recorded = Recorded(device.network)
    with caplog.at_level(logging.WARNING):
        outputs = [recorded(torch.full((3,), float(n))) for n in range(3)]
    assert [float(output[0]) for output in outputs] == [0.0, 2.0, 4.0]
    assert device.replays == 1
    assert "gives other bytes" in caplog.text


def test_without_memory_for_a_recording_the_batch_is_computed_all_the_same(device: Device) -> None:
    device.refusal = torch.OutOfMemoryError("CUDA out of memory")
    recorded = Recorded(device.network)
    assert float(recorded(torch.ones(1))) == 2.0
    assert float(recorded(torch.ones(1))) == 2.0


def test_a_device_that_is_lost_is_not_passed_over(device: Device) -> None:
    device.refusal = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Recorded(device.network)(torch.ones(1))
