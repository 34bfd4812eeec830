"""What the tests of live volumes share: a live volume behind its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tensorstore as ts
from numpy.typing import NDArray
from small_jobs import SMALL, noise, write_input

from volumetool.jobs.job import make_job
from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.live_view.cancel import dropping
from volumetool.live_view.factory import Opened, open_live
from volumetool.viewer.server import Serving, bind, build_app

DEEP: dict[str, Any] = {
    "model": "fake:position?dims=3&scale=2,2,2&patch=8,16,16&overlap=4,4,4&trim=1,1,1",
    "chunk": "8,8,8",
    "shard": "32,32,32",
    "memory": "4GiB",
    "device": "cpu",
}
"""Options of a small 3D job; its network betrays patches that lie elsewhere."""

FLAT: dict[str, Any] = {**SMALL, "model": "fake:position?patch=1,16,16&overlap=0,4,4&trim=0,1,1"}


@dataclass(frozen=True)
class Served:
    """A live volume with its address."""

    url: str
    opened: Opened

    def array(self, name: str) -> ts.TensorStore:
        """Open a level through HTTP."""
        return ts.open({"driver": "zarr3", "kvstore": f"{self.url}/{name}/"}).result()

    def read(self, name: str) -> NDArray[Any]:
        """Read a level through HTTP."""
        voxels: NDArray[Any] = self.array(name).read().result()
        return voxels


Serve = Callable[..., AbstractContextManager[Served]]


@contextmanager
def _serve(input: Path, output: Path | None = None, ahead: int = 0, **options: Any) -> Iterator[Served]:  # noqa: A002
    job = make_job(input=str(input), output=str(output or input.parent / "nothing.zarr"), **options)
    with open_live(job, into=output is not None, ahead=ahead) as opened, bind() as bound:
        port = bound.getsockname()[1]
        gate = Gate(accepted_hosts("127.0.0.1", port))
        with Serving(dropping(build_app({"live": opened.keys}, gate)), bound):
            yield Served(f"{base_url('127.0.0.1', port)}/{gate.token}/live", opened)


@pytest.fixture
def serve() -> Serve:
    """Give a function that serves a live volume on loopback."""
    return _serve


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a small noise volume on disk."""
    return write_input(tmp_path / "in.zarr", noise((10, 37, 45)))


@pytest.fixture
def flat() -> dict[str, Any]:
    """Give the options of a small 2D job."""
    return dict(FLAT)


@pytest.fixture
def deep() -> dict[str, Any]:
    """Give the options of a small 3D job."""
    return dict(DEEP)


@pytest.fixture
def gaussian() -> dict[str, Any]:
    """Give the options of a small job whose operation is no network."""
    return DEEP | {"model": "gaussian:sigma=0.5,1.0,1.5", "patch": "8,16,24", "chunk": "2,8,8"}
