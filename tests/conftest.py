"""What all tests share: where real data are, quiet threads, patience on busy machines."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Several pytest workers share the cores; libraries that take all of them would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests find out about this machine is not the user's; processes that they start see the same folder.
os.environ.setdefault("VOLUMETOOL_CACHE", tempfile.mkdtemp(prefix="volumetool-tests-"))

# A busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder with real EM data, format fixtures and the official schemas; the test skips where it is absent."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("VOLUMETOOL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the test data are not at {folder}; set VOLUMETOOL_TEST_DATA")
    return folder
