"""How the driver learns that a worker has begun a region: by an event through the scheduler: who, and which region.

A worker has a second region at hand while it computes the first, so what was handed out is more than what is being computed.
"""

from __future__ import annotations

from contextlib import suppress


def topic_of(url: str) -> str:
    """Return the topic of the events of a run, by where it keeps what is its own: a scheduler may serve several at once."""
    return f"volumetool begun {url}"


def say_begun(url: str, region: int) -> None:
    """Tell the driver of the run at `url`, from the thread of a dask task, that a region begins; elsewhere do nothing."""
    from distributed import get_worker

    with suppress(ValueError):  # this is no dask worker
        worker = get_worker()
        worker.log_event(topic_of(url), (worker.address, region))
