"""A network on a GPU, started in one piece: its kernels are recorded as a CUDA graph and replayed.

A fast GPU computes a small U-Net in less time than Python needs to start its kernels one by one. A recording is used only where
it gave the very bytes of the network on the input that it was made with; where none can be made, the network runs as it is, and
the log says so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from volumetool.processing.device.device_errors import kind_of

Network = Callable[[Tensor], Tensor]

_log = logging.getLogger(__name__)


class GraphReplay:
    """A network of which each shape of input is recorded at its first call.

    Parameters
    ----------
    network : callable
        Takes and returns a float32 tensor on the GPU; waits for nothing there, and draws no random numbers. Its precision stays
        what it was at the first call.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._replays: dict[torch.Size, Network] = {}
        self._records = True
        # A recording has one place for its input: what a thread puts there is another one's until it was replayed.
        self._turn = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network gives for a float32 tensor on the GPU; the result is the caller's own.

        Raises
        ------
        RuntimeError
            The network's own, and that of a device that was lost while it was recorded.
        """
        with self._turn:
            replay = self._replays.get(x.shape)
            if replay is not None:
                return replay(x)
            y = self._network(x)
            if self._records:
                self._replays[x.shape] = self._recording(x, y)
            return y

    def forget(self) -> None:
        """Drop all recordings with the memory that they hold, and make no more."""
        with self._turn:
            self._records = False
            self._replays.clear()

    def _recording(self, x: Tensor, wanted: Tensor) -> Network:
        """Return a replay of the network, or the network itself."""
        try:
            # Where a recording fails, torch leaves its own stream current.
            with torch.cuda.stream(torch.cuda.current_stream()):
                replay = _record(self._network, x)
            # As integers, because NaN is not equal to itself.
            alike = torch.equal(replay(x).view(torch.int32), wanted.view(torch.int32))
        except RuntimeError as error:
            if kind_of(error) == "lost":
                raise
            _log.warning("the network runs unrecorded, which is slower: no CUDA graph could be made of it: %s", error)
            return self._network
        if not alike:
            _log.warning("the network runs unrecorded, which is slower: its CUDA graph gives other bytes")
        return replay if alike else self._network


def _record(network: Network, x: Tensor) -> Network:
    """Record a network's kernels and return what replays them."""
    given = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        network(given)  # libraries prepare themselves for each stream, which a recording does not allow
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may ask for memory meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        made = network(given)

    def replay(x: Tensor) -> Tensor:
        given.copy_(x, non_blocking=True)
        graph.replay()
        return made.clone()  # the next replay overwrites it

    return replay
