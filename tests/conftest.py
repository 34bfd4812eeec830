"""What all tests share: where real data is, and quiet threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Several pytest workers share the cores; libraries that take all of them would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(os.environ.get("VOLUMETOOL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return a function from the name of a data file to its path; the test skips where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in the test data at {DATA}; set VOLUMETOOL_TEST_DATA")
        return path

    return find
