"""A network on a GPU, started in one piece: its kernels are recorded as a CUDA graph and replayed.

A fast GPU computes a small U-Net in less time than Python needs to start its kernels one by one. A recording is trusted only
where it gave the very bytes of the network that was recorded; where it cannot be made, the network runs as it is, and the log
says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from volumetool.enhancement.trouble import kind_of

Network = Callable[[Tensor], Tensor]

_log = logging.getLogger(__name__)


class Recorded:
    """A network of which each shape of input is recorded at its first call.

    Parameters
    ----------
    network : callable
        Takes and returns a tensor on the GPU; waits for nothing there, and draws no random numbers.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._replays: dict[torch.Size, Network] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network gives for a tensor on the GPU; the result is the caller's own."""
        replay = self._replays.get(x.shape)
        if replay is not None:
            return replay(x)
        y = self._network(x)
        self._replays[x.shape] = self._record(x, y)
        return y

    def _record(self, x: Tensor, wanted: Tensor) -> Network:
        try:
            replay = _record(self._network, x)
            alike = torch.equal(replay(x), wanted)
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
