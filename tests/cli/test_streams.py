"""Commands work with whatever streams and terminals they are given: closed, unread, narrow, plain, of few letters."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import app, main

from volumetool.storage.open import open_volume

pytestmark = pytest.mark.xdist_group("streams")  # tests of one fixture in one process

PROGRAM = Path(sys.executable).with_name("volumetool")


@pytest.mark.parametrize(
    "closed", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("<&-", ">&-", "2>&-")), "<&- >&- 2>&-"]
)
def test_a_command_works_with_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    command = f'"{PROGRAM}" convert stack.tif new.zarr --voxel-size 30,8,8 {closed}'
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0  # noqa: S602
    assert np.array_equal(open_volume(tmp_path / "new.zarr").open().read().result(), voxels)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_consoles_that_are_not_utf_8_get_what_they_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, stream in shown.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        main(["info", "λ.zarr"])
    assert ended.value.code == 2
    assert "?.zarr" in shown["stderr"].getvalue().decode(encoding)


FAKE = "fake:identity?scale=1,2,2"


def help_of_every_command() -> list[list[str]]:
    """Return the words that ask for each command's help, and for the program's own."""
    from typer.main import get_command

    named = get_command(app)
    groups = [
        [name, *below]
        for name, each in named.commands.items()
        for below in ([], *([sub] for sub in getattr(each, "commands", ())))
    ]
    return [["--help"], ["enhance", "--help-all"], *([*words, "--help"] for words in groups)]


WORK = [
    ["convert", "s.tif", "raw.zarr", "--voxel-size", "8,32,32"],
    ["info", "raw.zarr"],
    ["info", "raw.zarr", "--json"],
    ["enhance", "raw.zarr", "out.zarr", "--model", FAKE, "--dry-run"],
    ["enhance", "raw.zarr", "out.zarr", "--model", FAKE],
    ["status", "out.zarr"],
    ["status", "out.zarr", "--json"],
    ["verify", "out.zarr"],
    ["clean", "out.zarr"],
    ["validate", "out.zarr"],
    ["pyramid", "raw.zarr"],
    ["crappify", "raw.zarr", "low.zarr", "--scale", "1,2,2"],
    ["evaluate", "raw.zarr", "raw.zarr"],
    ["model", "list"],
    ["model", "show", "em-x4"],
    ["schema", "job"],
]


LIGHT = [*WORK[:3], ["enhance", "--help"], ["schema", "job"]]
WRONG = [["info", "nowhere.zarr", "--json"], ["info", "--nonsense"], ["enhance"]]
Answer = tuple[list[str], int, str, str]


def forked(folder: Path, asked: Sequence[tuple[list[str], list[int]]]) -> list[Answer]:
    """Run commands, with streams that nobody reads, where a stack is; return words, exit codes, and what was written."""
    voxels = np.random.default_rng(0).integers(1, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(folder / "s.tif", voxels, photometric="minisblack")
    answers = folder / "answers.json"
    program = [sys.executable, str(Path(__file__).with_name("forking.py")), str(answers)]
    subprocess.run(program, input=json.dumps(asked), text=True, cwd=folder, check=True)
    return [(words, *answer) for (words, _), answer in zip(asked, json.loads(answers.read_text()), strict=True)]


@pytest.fixture(scope="module", params=["light", pytest.param("all", marks=pytest.mark.slow)])
def unread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Answer]]:
    """Run commands whose stdout nobody reads, whose stderr nobody reads, and wrong ones with neither."""
    light = request.param == "light"
    commands, work = (LIGHT, LIGHT[:3]) if light else ([*WORK, *help_of_every_command()], WORK)
    groups = {"stdout": (commands, [1]), "stderr": (work, [2]), "wrong": (WRONG, [1, 2])}
    asked = [(words, streams) for group, streams in groups.values() for words in group]
    answers = iter(forked(tmp_path_factory.mktemp("unread"), asked))
    return {name: [next(answers) for _ in group] for name, (group, _) in groups.items()}


def test_a_reader_of_stdout_that_leaves_ends_a_command_quietly(unread: dict[str, list[Answer]]) -> None:
    for words, code, _, err in unread["stdout"]:
        assert code in (0, 1), (words, err)
        for noise in ("Traceback", "Error", "Exception", "internal"):
            assert noise not in err, (words, err)


def test_a_reader_of_stderr_that_leaves_stops_no_work(unread: dict[str, list[Answer]]) -> None:
    for words, code, _, _ in unread["stderr"]:
        assert code == 0, words


def test_an_error_that_nobody_reads_is_no_success(unread: dict[str, list[Answer]]) -> None:
    for words, code, _, _ in unread["wrong"]:
        assert code == 1 + ("--json" not in words), words


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run what there is to run in a folder."""
    folder = tmp_path_factory.mktemp("work")
    assert [code for _, code, _, _ in forked(folder, [(WORK[0], []), (WORK[4], [])])] == [0, 0]
    return folder


@pytest.mark.parametrize("columns", ["20", *(pytest.param(each, marks=pytest.mark.slow) for each in ("40", "80"))])
def test_nothing_is_cut_off_on_a_narrow_terminal(
    work: Path, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    for name, value in (("COLUMNS", columns), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    wrong = [["info", "a-volume-with-a-name-that-is-longer-than-forty-letters.zarr"], ["info", "--an-option-that-is-not"]]
    printed = {}
    for words in [*help_of_every_command(), *(each for each in WORK if each[0] not in ("evaluate", "crappify")), *wrong]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        printed[" ".join(words)] = out + err
        assert ended.value.code == (2 if words in wrong else 0), (words, err)
        assert "\x1b" not in out + err, words
        assert "…" not in (out + err), (words, out, err)
    assert "[input.not-found]" in printed[" ".join(wrong[0])]
    assert wrong[0][1] in printed[" ".join(wrong[0])]
    assert "--input-check" in printed["enhance --help-all"]
