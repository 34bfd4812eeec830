"""What all tests share: where real data are, quiet threads, patience on busy machines."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bucket_server import BucketServer, reach
from hypothesis import HealthCheck, settings
from ports import lasting_ports

LONGEST = ("tests/test_guide.py", "tests/sites/test_slurm.py", "tests/training/test_train.py", "tests/viewer/test_browser.py")
"""Files of tests that each take long, or belong together."""

STARTUP = str(Path(__file__).with_name("startup"))

# Several pytest workers share the cores; libraries that take all of them would only wait for each other, and a thread that
# waits for another one would take the core that the other one needs. Torch reads both as it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What tests find out about this machine is not the user's; processes that they start see the same folder.
_CACHE = None if "VOLUMETOOL_CACHE" in os.environ else tempfile.mkdtemp(prefix="volumetool-tests-")
if _CACHE is not None:
    os.environ["VOLUMETOOL_CACHE"] = _CACHE
    os.environ["VOLUMETOOL_MODELS"] = str(Path(_CACHE, "models"))

# Processes that tests start know the fake models, too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [STARTUP, os.environ.get("PYTHONPATH")]))

# A busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Let the fake models be known where tests run; this imports torch. Let Ctrl-C be heard: shells turn it off behind them."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        from volumetool.testing import register_fakes

        register_fakes()
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder with real EM data, format fixtures and the official schemas; the test skips where it is absent."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("VOLUMETOOL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the test data are not at {folder}; set VOLUMETOOL_TEST_DATA")
    return folder


_numbers = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty folder, as pytest does, which would look through those of all tests before for a number that is free."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    return tmp_path_factory.mktemp(f"{name}{next(_numbers)}", numbered=False)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Put signal handlers back that a command installed for the rest of what it took for its own process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a U-Net with random weights that is done in a moment, for voxels of 16 to 64 nm."""
    import torch

    from volumetool.models import ModelCard, Normalisation, UNet, UNetConfig, VoxelSizeRange, save_model

    config = UNetConfig(width=4, pools=((1, 2, 2),))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet(config)
        for parameter in network.parameters():  # the head of a fresh U-Net is zero
            torch.nn.init.normal_(parameter, std=0.1)
    card = ModelCard(
        name="tiny",
        description="For tests.",
        licence="BSD-3-Clause",
        dims=2,
        scale=config.scale,
        patch=(1, 16, 16),
        overlap=(0, 4, 4),
        trim=(0, 1, 1),
        granularity=config.granularity,
        receptive_field=(0, 12, 12),
        normalisation=Normalisation(),
        voxel_size=VoxelSizeRange(smallest=(1.0, 16.0, 16.0), largest=(100.0, 64.0, 64.0)),
        architecture=config,
    )
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(file, network, card)
    return file


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Run moto's server, from whatever environment has it."""
    program = shutil.which("moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("moto_server is not on the PATH: pip install 'moto[server]'")
    (port,) = lasting_ports(1)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], **quiet) as server:
        try:
            yield _answering(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()


def _answering(url: str) -> str:
    for _ in range(1200):
        try:
            urllib.request.urlopen(url, timeout=60).close()  # noqa: S310  (a server on loopback)
        except OSError:
            time.sleep(0.1)
        else:
            return url
    raise TimeoutError(url)


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Give the URL of an empty bucket."""
    name = f"bucket-{abs(hash(request.node.name))}"
    put = urllib.request.Request(f"{endpoint}/{name}", method="PUT")  # noqa: S310
    urllib.request.urlopen(put, timeout=60).close()  # noqa: S310
    reach(endpoint, monkeypatch)
    return f"s3://{name}"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """Give a server with an empty bucket ``s3://bucket``, the folder ``buckets/bucket``, which survives the server."""
    pytest.importorskip("localbucket")
    (tmp_path / "buckets" / "bucket").mkdir(parents=True)
    with BucketServer(tmp_path / "buckets") as server:
        reach(server.url, monkeypatch)
        yield server


def pytest_unconfigure() -> None:
    """Delete the folder of the cache, in the process that made it."""
    if _CACHE is not None:
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave every n-th case of a test that is marked ``thin(n)`` as it is, and mark the others as slow.

    A class marks those of its tests as slow, too, that stand in its `slow_cases`: tests of a suite, which others run fast.

    The longest tests come first, so that no worker is left alone with one at the end.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    seen: Counter[str] = Counter()
    for item in items:
        if (thin := item.get_closest_marker("thin")) is not None:
            name = item.nodeid.partition("[")[0]
            if seen[name] % thin.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1
        if item.name in getattr(getattr(item, "cls", None), "slow_cases", ()):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the collector of garbage pass over what stays until the end, modules and thousands of tests, and run less often."""
    gc.disable()
    try:
        return (yield)  # type: ignore[return-value]
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        gc.enable()


@pytest.fixture
def python_with(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that returns the interpreter of an environment with some packages beside all that is here.

    The test skips where they cannot be installed.
    """

    def make(*packages: str) -> Path:
        python = tmp_path / "environment" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        Path(own, "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{packages[0]} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        return python

    return make


@pytest.fixture
def chromium() -> None:
    """Skip where there is no browser."""
    from volumetool.viewer.browser import NAMES  # neuroglancer takes a second

    if not any(map(shutil.which, NAMES)):
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH")
