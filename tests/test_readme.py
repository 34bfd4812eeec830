"""Every command block of the README runs, in the order of the README, on a small stack."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import main

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


def type_line(line: str) -> None:
    """Do what a line of the README says; the product's own commands in this process, which has loaded torch already."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["volumetool"]:
        subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)
        return
    with pytest.raises(SystemExit) as ended:
        main(words[1:])
    assert ended.value.code == 0, line


@pytest.mark.xdist_group("readme")
def test_the_commands_of_the_readme_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (training,) = blocks("yaml")
    (folder / "train.yaml").write_text(training)
    run = [block for block in blocks("sh") if not any(block.startswith(words) for words in NOT_HERE)]
    assert len(run) >= 8
    for line in "".join(run).splitlines():
        type_line(line)
    for python in blocks("python"):
        (folder / "block.py").write_text(python)
        runpy.run_path("block.py", run_name="__main__")
