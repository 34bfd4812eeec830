"""The Dockerfile is built, by buildah on Debian packages where there is no registry, and what it gives runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("buildah", "mmdebstrap")
PACKAGES = "python3,python3-pip,python-is-python3,ca-certificates"
ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
"""No other isolation works inside a container."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can build in a changed root"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"not installed: {' or '.join(PROGRAMS)}"),
]


class Buildah:
    """Images and containers in a private folder."""

    def __init__(self, folder: Path) -> None:
        self._places = ("--root", str(folder / "images"), "--runroot", str(folder / "running"))

    def __call__(self, *words: str) -> str:
        """Run a command of buildah and return what it prints."""
        environment = os.environ | ENVIRONMENT
        done = subprocess.run(["buildah", *self._places, *words], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout.strip()

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Give a container of an image for as long as the context lasts."""
        name = self("from", "--pull-never", image)
        try:
            yield name
        finally:
            self("rm", name)


def base(buildah: Buildah, folder: Path) -> list[str]:
    """Make an image of Debian with Python and pip, and return the options that mount what pip needs of this machine."""
    subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder / "base.tar"], check=True)
    given = {name: os.environ[name] for name in ("PIP_FIND_LINKS", "PIP_CERT") if name in os.environ}
    places = [place for place in given.values() if Path(place).exists()]
    with buildah.container("scratch") as name:
        buildah("add", "--quiet", name, str(folder / "base.tar"), "/")
        (folder / "base.tar").unlink()
        # Debian keeps its Python for itself; the image that the recipe names does not.
        buildah("run", name, "--", "sh", "-c", "rm /usr/lib/python3*/EXTERNALLY-MANAGED")
        buildah("config", *(f"--env={key}={value}" for key, value in given.items()), name)
        buildah("commit", "--quiet", name, "localhost/base")
    return [f"--volume={place}:{place}:ro" for place in places]


def test_the_image_builds_and_its_demo_is_complete(tmp_path: Path) -> None:
    buildah = Buildah(tmp_path)
    mounts = base(buildah, tmp_path)
    recipe = str(ROOT / "examples/containers/Dockerfile")
    arguments = ("--build-arg=BASE=localhost/base", "--build-arg=EXTRA=onnx")
    buildah(
        "build",
        "--network=host",
        "--layers=false",
        "--pull-never",
        *arguments,
        *mounts,
        f"--file={recipe}",
        "--tag=built",
        str(ROOT),
    )
    with buildah.container("localhost/built") as name:
        assert buildah("run", name, "--", "id", "-u") == "1000"
        run = ("run", "--workingdir=/tmp", name, "--", "volumetool")
        buildah(*run, "demo", "demo")
        assert '"complete"' in buildah(*run, "status", "demo/enhanced.zarr", "--json")
