"""A recorded network gives the bytes of the network, or is not used. Without a GPU, CUDA's graphs are stood in for."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from volumetool.processing.device.cuda_graph import GraphReplay


class Device:
    """What torch.cuda is to a recording: a graph computes anew, in place, what its network computed while it was recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.replays = 0
        self.recording = False
        self.skew = 0.0
        self.refusal: Exception | None = None
        self.current = "default"
        self.delay = 0.0
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def network(self, x: Tensor) -> Tensor:
        """Double, and count the calls that start kernels one by one."""
        if self.recording and self.refusal is not None:
            raise self.refusal
        self.calls += 1
        self.read, self.written = x, 2 * x
        return self.written

    def Stream(self) -> Stream:  # noqa: N802  (torch's name)
        return Stream("side")

    def current_stream(self) -> Stream:
        return Stream(self.current)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> Graph:  # noqa: N802  (torch's name)
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """Record; like torch, leave the stream current where that fails."""
        assert (stream.name, capture_error_mode) == ("side", "thread_local")
        before, self.current = self.current, stream.name
        self.recording = True
        try:
            yield
        finally:
            self.recording = False
        graph.read, graph.written = self.read, self.written
        self.current = before


@dataclass(frozen=True)
class Stream:
    """A stream, by name."""

    name: str

    def wait_stream(self, other: Stream) -> None:
        assert {self.name, other.name} == {"default", "side"}


class Graph:
    """A graph that was recorded: it reads and writes the tensors that its network did."""

    read: Tensor
    written: Tensor

    def __init__(self, device: Device) -> None:
        self._device = device

    def replay(self) -> None:
        self._device.replays += 1
        time.sleep(self._device.delay)
        self.written.copy_(2 * self.read + self._device.skew)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def test_from_the_second_call_on_a_shape_is_replayed(device: Device) -> None:
    recorded = GraphReplay(device.network)
    outputs = [recorded(torch.full((2, 3), float(n))) for n in range(5)]
    for n, output in enumerate(outputs):  # none was overwritten by the next
        assert torch.equal(output, torch.full((2, 3), 2.0 * n))
    calls, replays = device.calls, device.replays
    assert (calls, replays) == (3, 1 + 4)  # the first call, a warm one and the recorded one; a check, then the others
    recorded(torch.ones(4))
    assert device.calls == 2 * calls


def test_what_cannot_be_recorded_runs_as_it_is(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.refusal = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    recorded = GraphReplay(device.network)
    with caplog.at_level(logging.WARNING):
        outputs = [recorded(torch.full((3,), float(n))) for n in range(3)]
    assert [float(output[0]) for output in outputs] == [0.0, 2.0, 4.0]
    assert (device.replays, device.current) == (0, "default")
    assert [record.message for record in caplog.records] == [
        "the network runs unrecorded, which is slower: no CUDA graph could be made of it: CUDA error: operation not permitted "
        "when stream is capturing"
    ]


def test_a_recording_with_other_bytes_is_not_used(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.skew = 1e-6
    recorded = GraphReplay(device.network)
    with caplog.at_level(logging.WARNING):
        outputs = [recorded(torch.full((3,), float(n))) for n in range(3)]
    assert [float(output[0]) for output in outputs] == [0.0, 2.0, 4.0]
    assert device.replays == 1
    assert "gives other bytes" in caplog.text


def test_not_a_number_is_no_reason_to_give_a_recording_up(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    recorded = GraphReplay(device.network)
    recorded(torch.tensor([1.0, float("nan")]))
    recorded(torch.ones(2))
    assert (device.replays, caplog.text) == (2, "")


def test_two_threads_get_each_their_own_answer(device: Device) -> None:
    device.delay = 0.001
    recorded = GraphReplay(device.network)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda n: float(recorded(torch.full((1,), float(n)))), range(40)))
    assert outputs == [2.0 * n for n in range(40)]


def test_recordings_that_were_let_go_of_are_not_made_again(device: Device) -> None:
    recorded = GraphReplay(device.network)
    recorded(torch.ones(1))
    replays = device.replays
    recorded.forget()
    assert [float(recorded(torch.full((1,), n))) for n in (1.0, 3.0)] == [2.0, 6.0]
    assert device.replays == replays


def test_without_memory_for_a_recording_the_batch_is_computed_all_the_same(device: Device) -> None:
    device.refusal = torch.OutOfMemoryError("CUDA out of memory")
    recorded = GraphReplay(device.network)
    assert float(recorded(torch.ones(1))) == 2.0
    assert float(recorded(torch.ones(1))) == 2.0


def test_a_device_that_is_lost_is_not_passed_over(device: Device) -> None:
    device.refusal = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        GraphReplay(device.network)(torch.ones(1))
