"""Every command block of the README runs, in the order of the README, on a small stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).parents[1]

NOT_HERE = {
    "git clone": "needs the network; its `make demo` and `make test` are what continuous integration runs",
}
"""First words of blocks that are not run, with the reason."""


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``stack.tif``, 8 sections of noise with structure."""
    place = tmp_path_factory.mktemp("readme")
    random = np.random.default_rng(3)
    smooth = np.kron(random.integers(60, 200, (8, 18, 18)), np.ones((1, 4, 4)))
    tifffile.imwrite(place / "stack.tif", np.clip(smooth + random.normal(0, 12, smooth.shape), 1, 255).astype(np.uint8))
    return place


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.xdist_group("readme")
def test_the_commands_of_the_readme_run(folder: Path) -> None:
    ran = 0
    (training,) = blocks("yaml")
    (folder / "train.yaml").write_text(training)
    for block in blocks("sh"):
        if any(block.startswith(words) for words in NOT_HERE):
            continue
        done = _run(["bash", "-euo", "pipefail", "-c", block], folder)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 8
    for python in blocks("python"):
        done = _run([sys.executable, "-c", python], folder)
        assert done.returncode == 0, done.stderr
