"""How fast a device is: a convolution like those of the networks, timed for a moment, so that workers can be compared."""

from __future__ import annotations

import time

import torch

CHANNELS, SIDE = 32, 128
"""Channels and side of the images that are convolved, 3 x 3, as in the middle of a U-Net."""

IMAGES = {"cpu": 1, "gpu": 64}
"""Images in a call: enough to keep every unit of a device busy."""

ROUNDS, SECONDS = 20, 1.0
"""Calls that are timed; the fastest counts. None begins after so many seconds."""


def convolution_rate(device: torch.device, threads: int) -> float:
    """Measure how many floating-point operations per second a device does in a convolution, in about a second at most.

    Parameters
    ----------
    device : torch.device
        Device to measure.
    threads : int
        CPU threads that a worker computes with.
    """
    images = IMAGES["cpu" if device.type == "cpu" else "gpu"]
    noise = torch.Generator().manual_seed(0)
    patches = torch.rand((images, CHANNELS, SIDE, SIDE), generator=noise).to(device)
    weights = torch.rand((CHANNELS, CHANNELS, 3, 3), generator=noise).to(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds, until = float("inf"), time.perf_counter() + SECONDS
        for number in range(1 + ROUNDS):  # a first call sets up what later ones use
            started = time.perf_counter()
            with torch.inference_mode():
                torch.nn.functional.conv2d(patches, weights, padding=1)[0, 0, 0, 0].item()  # waits until it is done
            ended = time.perf_counter()
            seconds = min(seconds, ended - started) if number else seconds
            if number and ended > until:
                break
    finally:
        torch.set_num_threads(before)
    return 2 * images * CHANNELS * CHANNELS * 9 * SIDE * SIDE / seconds
