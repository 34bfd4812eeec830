"""With --json every command prints one JSON object that says what it is, and so does every command that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, get_args

import numpy as np
import pytest
import tifffile
import typer
from foreign_networks import write_onnx
from torch.nn import Conv2d
from typer.core import TyperGroup
from volumetool.cli import live, view
from volumetool.cli._acquisition import tell_end
from volumetool.cli._json import Kind
from volumetool.cli._preemption import Stopped
from volumetool.cli.main import app, main

import volumetool.benchmark.demo
import volumetool.storage.open
import volumetool.viewer.browser
from volumetool.acquisition.config import SessionResult
from volumetool.evaluation.blind_rating import KEY

pytestmark = pytest.mark.xdist_group("json")  # one volume for all in one process

PAGE = Path(__file__).parents[2] / "examples/scripting.md"
FAKE = "fake:identity?scale=1,2,2"
SEEN_ELSEWHERE = {
    "benchmark": "jobs/test_bench.py",
    "curves": "jobs/test_curves.py",
    "model-test": "jobs/test_reproduction.py",
    "advice": "evaluation/test_advice.py",
    "rescan": "evaluation/test_rescan.py",
    "recipe": "jobs/test_fit_crappifier.py",
    "training": "training/test_train.py",
    "training-plan": "training/test_train.py",
    "portal": "portal/test_jobs.py",
    "account": "portal/test_metrics.py",
    "accounts": "portal/test_metrics.py",
    "backup": "portal/test_backup.py",
    "restored": "portal/test_backup.py",
    "watch": "acquisition/test_command.py",
    "event": "acquisition/test_command.py",
    "watched": "cli/test_json.py",
}
"""Kinds that need a training, a fit, a measurement or a watch, and the test files that look at them."""

COMMANDS = {
    "info raw.zarr": "volume",
    "convert s.tif made.zarr --voxel-size 8,32,32": "volume",
    "convert s.tif new.zarr --voxel-size 8,32,32 --dry-run": "conversion-plan",
    "pyramid made.zarr": "volume",
    "crappify raw.zarr low.zarr --scale 1,2,2": "volume",
    "crappify raw.zarr other.zarr --scale 1,2,2 --dry-run": "crappification-plan",
    f"enhance raw.zarr other.zarr --model {FAKE} --dry-run": "plan",
    f"enhance raw.zarr out.zarr --model {FAKE}": "run",
    "apply --list": "operations",
    "doctor out.zarr": "examination",
    f"slurm raw.zarr out.zarr --model {FAKE}": "slurm-script",
    "status out.zarr": "job",
    "verify out.zarr": "verification",
    "verify out.zarr --repair": "verification",
    "attest out.zarr": "attestation",
    "clean out.zarr": "leftovers",
    "validate out.zarr": "validation",
    "validate out.zarr --viewer fiji": "validation",
    f"try raw.zarr try.html --model {FAKE}": "tryout",
    "evaluate raw.zarr raw.zarr --sections 1 --report page.html --blind both": "evaluation",
    "evaluate raw.zarr raw.zarr --sections 1 --blind kit": "rating-kit",
    "evaluate --unblind kit ratings.csv": "ratings",
    "model list": "models",
    "model show em-x4": "model",
    "model import copy.onnx --name copied": "imported",
    "model export em-denoise --torch-export denoise.pt2": "exported",
    "demo": "demo",
    "view raw.zarr": "view",
    "publish raw.zarr --as n5": "publication",
    "view raw.zarr --screenshot p.png": "picture",
    f"live raw.zarr --model {FAKE}": "live",
    f"live raw.zarr --model {FAKE} --screenshot p.png": "picture",
}
"""Commands in the order in which they run, and what they print."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Go where a volume is, with what takes long, or stays, put out of the way."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("json")
        patch.chdir(place)
        stack = np.random.default_rng(1).integers(1, 255, (4, 96, 96)).astype(np.uint8)
        tifffile.imwrite("s.tif", stack, photometric="minisblack")
        patch.setenv("VOLUMETOOL_MODELS", str(place / "models"))
        write_onnx(Path("copy.onnx"), Conv2d(1, 1, 1))
        made = {"picture": Path("p.png"), "enhanced": "e.zarr", "psnr_bilinear": 1.0, "psnr_enhanced": 2.0}
        outcome = SimpleNamespace(exit_code=0)
        patch.setattr(volumetool.benchmark.demo, "run_demo", lambda *_, **__: SimpleNamespace(**made, outcome=outcome))
        patch.setattr(volumetool.viewer.browser, "take_picture", lambda *_: None)
        for command in (live, view):
            patch.setattr(command, "stay", lambda *_, **__: None)
            patch.setattr(command, "end_like_ctrl_c", lambda: None)
        with pytest.raises(SystemExit) as ended:
            main(["convert", "s.tif", "raw.zarr", "--voxel-size", "8,32,32"])
        assert ended.value.code == 0
        yield place


def printed(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], int]:
    """Run a command with --json and return the one object that it prints, and its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out.count("\n") == 1, (words, out, err)
    found = json.loads(out, parse_constant=_no_number)
    assert next(iter(found)) == "kind"
    assert isinstance(ended.value.code, int)
    return found, ended.value.code


def _no_number(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.timeout(1200)
def test_every_command_prints_one_object_of_the_kind_that_the_page_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _table()
    for words, kind in COMMANDS.items():
        if "--unblind" in words:
            rows = [line.split(",") for line in (folder / "kit" / KEY).read_text().splitlines()[1:]]
            ratings = "".join(f"{row[0]},{row[1]},left,2\n" for row in rows)
            (folder / "ratings.csv").write_text(f"kit,trial,choice,seconds\n{ratings}")
        found, code = printed(words, capsys)
        assert (found["kind"], code) == (kind, 4 if "--viewer fiji" in words else 0), words
        assert told[kind] & found.keys() == told[kind] - {"tunnel", "adopted", "of"}, words


def _table() -> dict[str, set[str]]:
    """Return the kinds that the page names, with the names of what they hold."""
    rows = re.findall(r"^\| (\S.*?) \| `([a-z-]+)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    return {kind: set(re.findall(r"`(\w+)`", holds.partition(" with ")[0])) for _, kind, holds in reversed(rows)}


def test_the_page_names_every_kind_and_every_command_and_each_kind_is_seen_in_a_test() -> None:
    page = PAGE.read_text()
    rows = re.findall(r"^\| ([^|]*) \| `(?!kind`)([a-z-]+)` \|", page, re.MULTILINE)
    kinds = set(get_args(Kind))
    assert {kind for kind in kinds if f"`{kind}`" in page} == kinds
    assert {kind for _, kind in rows} | {"event", "watch", "watched"} == kinds
    named = {words for commands, _ in rows for words in re.findall(r"`([a-z ]+?)(?: --[a-z-]+)?`", commands)}
    assert named == {words for words, command in _commands() if any(each.name == "as_json" for each in command.params)}
    assert {words for words, _ in _commands()} - named == {"schema"}
    assert set(COMMANDS.values()) | SEEN_ELSEWHERE.keys() | {"error"} == kinds
    tests = Path(__file__).parents[1]
    assert [kind for kind, file in SEEN_ELSEWHERE.items() if f'"{kind}"' not in (tests / file).read_text()] == []


def test_a_watch_ends_with_an_object_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    job = volumetool.Job(input="incoming", output="out.zarr")
    tell_end(SessionResult(complete=False, enhanced=2, missing=(3,), failed=()), job, "raw.zarr", as_json=True)
    facts = {"complete": False, "enhanced": 2, "missing": [3], "failed": [], "output": "out.zarr"}
    assert json.loads(capsys.readouterr().out) == {"kind": "watched", **facts}


def _commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    for name, command in program.commands.items():
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())  # type: ignore[misc]
        else:
            yield name, command  # type: ignore[misc]


@pytest.mark.parametrize("words", sorted(words for words, _ in _commands() if words != "schema"))
def test_wrong_words_are_one_error_of_every_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, code = printed(f"{words} --no-such-option", capsys)
    assert (found["kind"], found["exit_code"], code) == ("error", 2, 2)
    assert found["error"]["code"] == "config.usage"


@pytest.mark.parametrize(
    "words",
    ["info no", "convert no new.zarr", "pyramid no", "crappify no new.zarr", "enhance no new.zarr", "apply median no new.zarr",
     "status no", "verify no", "attest no", "rescan no", "advise no",
     "clean no", "validate no", "evaluate no no", "train no.yaml", "model show no", "bench no", "view no", "live no"],
)  # fmt: skip
def test_what_is_not_there_is_one_error_of_every_command(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "end_like_ctrl_c", lambda: None)
    found, code = printed(words, capsys)
    assert (found["kind"], found["exit_code"], code) == ("error", 2, 2)
    assert found["error"]["code"].split(".")[0] in ("input", "output", "config", "model")


@pytest.mark.parametrize(
    ("raised", "told"),
    [(KeyboardInterrupt(), (130, "interrupted")), (Stopped("SIGTERM"), (75, "stopped")), (KeyError("x"), (1, "internal"))],
)  # fmt: skip
def test_an_end_before_the_answer_is_one_error(
    raised: BaseException, told: tuple[int, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise raised

    monkeypatch.setattr(volumetool.storage.open, "open_volume", fail)
    found, code = printed("info raw.zarr", capsys)
    assert (found["exit_code"], found["error"]["code"]) == (code, told[1])
    assert code == told[0]
