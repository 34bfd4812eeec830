"""The README and the guide: their commands, files and scripts run in one folder, and their links lead somewhere.

Blocks marked `sh`, `python` and `yaml` run, in the order of the page; a `yaml` block is saved under the name in its first
line, as is a `python` block that has one there. Blocks marked `text` are not run, because they serve until Ctrl-C, take long,
or want a GPU, a cluster or a server; their options are checked.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from volumetool.cli.main import app, main

from volumetool.models.foreign.trust import TRUSTED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = sorted(ROOT.glob("examples/*.md"))
PAGES = [
    README,
    *GUIDE,
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests/benchmarks/README.md",
    *sorted(ROOT.glob("volumetool/**/DESIGN.md")),
]
SCRIPTS = sorted(ROOT.glob("examples/*.py"))

NOT_HERE = {
    "git clone": "needs the network; its `make demo` and `make test` are what continuous integration runs",
}
"""First words of blocks that are not run, with the reason."""

Block = tuple[str, str]
"""Language and text of a code block."""


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return a page's code blocks in some languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in languages]


def lines_to_run(page: Path) -> Iterator[Block]:
    """Yield each line of the `sh` blocks of a page, and its other blocks whole."""
    for language, text in blocks(page, "sh", "python", "yaml"):
        if language != "sh":
            yield language, text
        elif not text.startswith(tuple(NOT_HERE)):
            yield from (("sh", line) for line in text.splitlines())


class Workspace:
    """A folder with ``stack.tif``, 5 sections of noise with structure, and what the pages' commands make of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._typed: set[Block] = set()
        random = np.random.default_rng(3)
        smooth = np.kron(random.integers(60, 200, (5, 18, 18)), np.ones((1, 4, 4)))
        stack = np.clip(smooth + random.normal(0, 12, smooth.shape), 1, 255).astype(np.uint8)
        tifffile.imwrite(folder / "stack.tif", stack)
        (folder / "examples").symlink_to(ROOT / "examples")

    def run(self, page: Path) -> int:
        """Do what a page says, apart from lines that an earlier page has run; return how many were run."""
        new = [block for block in lines_to_run(page) if block not in self._typed]
        for language, text in new:
            {"sh": self._type, "python": self._run_python, "yaml": self._save}[language](text)
        self._typed.update(new)
        return len(new)

    def _type(self, line: str) -> None:
        """Do what a line says; commands and scripts of volumetool's own in this process, which has loaded torch already."""
        words = shlex.split(line, comments=True)
        if words[:1] == ["volumetool"]:
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            assert ended.value.code == 0, line
        elif words[:1] == ["python"]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words[1:])
                runpy.run_path(words[1], run_name="__main__")
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)

    def _run_python(self, text: str) -> None:
        named = re.match(r"# (\S+\.py)\n", text)
        (self.folder / (named[1] if named else "block.py")).write_text(text)
        if named is None:
            runpy.run_path("block.py", run_name="__main__")

    def _save(self, text: str) -> None:
        (name,) = re.findall(r"\A# (\S+\.yaml)", text)
        (self.folder / name).write_text(text)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Return the folder in which the commands of the README have run."""
    with pytest.MonkeyPatch.context() as patch:
        made = Workspace(tmp_path_factory.mktemp("guide"))
        patch.chdir(made.folder)
        patch.setenv(TRUSTED, "")  # which `--trust` adds to
        assert made.run(README) >= 8
        yield made


@pytest.mark.xdist_group("guide")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_after_those_of_the_readme(page: Path, workspace: Workspace) -> None:
    workspace.run(page)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_page_of_the_guide_runs_each_script(script: Path) -> None:
    run = [line for page in [README, *GUIDE] for _, line in lines_to_run(page)]
    assert any(line.startswith(f"python examples/{script.name} ") for line in run)


PROGRAM = typer.main.get_command(app)


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it."""
    command = PROGRAM
    while isinstance(command, typer.core.TyperGroup):
        found = command.get_command(typer.Context(command), arguments[0])
        assert found is not None, f"no command {arguments[0]}"
        command, arguments = found, arguments[1:]
    command.make_context("volumetool", arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_options_that_exist(page: Path) -> None:
    for _, text in blocks(page, "text", "sh"):
        for line in text.splitlines():
            if (words := shlex.split(line, comments=True))[:1] == ["volumetool"]:
                parse(words[1:])


def anchors(page: Path) -> set[str]:
    """Return the names under which a page's headings are linked to."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
