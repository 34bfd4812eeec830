"""Real worker processes that come and go, and one that is slower than its peers; `test_assignment.py` has a simulated clock."""

from __future__ import annotations

from pathlib import Path

import elastic
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_throughput_follows_workers_that_come_and_go(tmp_path: Path) -> None:
    one, four, two = elastic.follow(tmp_path)
    assert four > 2.5 * one
    assert one < two < 0.75 * four


def test_a_worker_ten_times_slower_than_its_peers_hardly_delays_the_end(tmp_path: Path) -> None:
    """It would by ten regions of a fast one, or twenty, if nobody else computed what it has."""
    waited, usual = elastic.straggle(tmp_path)
    assert waited < 2 * usual
