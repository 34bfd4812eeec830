"""What the tests of clusters share: workers in the process of the tests themselves."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest


@pytest.fixture(autouse=True)
def _memory_is_that_of_all_tests() -> Iterator[None]:
    """Let no worker pause because of what its process holds: the tests before this one hold most of it."""
    with dask.config.set({f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")}):
        yield
