"""S9: what files of others say is shown on the terminal, never obeyed."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path

import pytest
import yaml
from small_jobs import SMALL, noise, write_input
from volumetool.cli._logging import speaking
from volumetool.cli.main import main

from volumetool.models import load_model, save_model

COMMANDS = sorted((Path(__file__).parents[2] / "cli").glob("*.py"))
ESCAPES = "\x1b[2J\x1b]0;title\x07\u009b31m\u202e\r\x08"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_the_program_prints_through_one_function() -> None:
    """Beside it JSON alone, which has no control characters, and texts of our own."""
    bare = {
        (file.name, ast.unparse(node))
        for file in COMMANDS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    schema = "print(resources.files('volumetool.schemas').joinpath(f'{name.value}.json').read_text(), end='')"
    assert bare == {
        ("_tables.py", "print(printable(text), file=stream, flush=True)"),
        ("_logging.py", "print(self.format(record), file=sys.stderr, flush=True)"),
        ("_json.py", "print(to_json(kind, facts), flush=True)"),
        ("main.py", "print(__version__)"),
        ("check.py", "print(CLEAR, end='')"),
        ("site.py", "print(script, end='')"),
        ("info.py", schema),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Path:
    """Give a folder with a job file, a volume and a model whose names and texts are full of escapes; the current one."""
    monkeypatch.chdir(tmp_path)
    name = f"in{ESCAPES}.zarr"
    write_input(tmp_path / name, noise((3, 20, 24)), levels=2)
    metadata = json.loads((tmp_path / name / "zarr.json").read_text())
    metadata["attributes"]["volumetool"] = {
        "status": ESCAPES,
        "model": {"name": ESCAPES},
        "conversion": {"blank_sections": [ESCAPES]},
    }
    metadata["attributes"]["ome"]["multiscales"][0]["name"] = ESCAPES
    (tmp_path / name / "zarr.json").write_text(json.dumps(metadata))
    model = load_model(tiny_model)
    words = {"description": ESCAPES, "licence": ESCAPES, "polarity": ESCAPES}
    save_model(tmp_path / f"m{ESCAPES}.safetensors", model.network(), model.card.model_copy(update=words))
    job = SMALL | {"input": name, "output": f"out{ESCAPES}.zarr", "model": f"m{ESCAPES}.safetensors"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(job | {f"option{ESCAPES}": ESCAPES, "dtype": ESCAPES}))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_nothing_that_a_file_says_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """From the dry run to looking at the finished job, also where it fails, also as JSON."""
    source, output, model = f"in{ESCAPES}.zarr", f"out{ESCAPES}.zarr", f"m{ESCAPES}.safetensors"
    runs = [
        (["enhance", "--config", "job.yaml", "--dry-run"], 0),
        (["enhance", "--config", "job.yaml", "--dry-run", "--json"], 0),
        (["enhance", "--config", "bad.yaml"], 2),
        (["enhance", "--config", "job.yaml"], 0),
        (["enhance", "--config", "job.yaml", "--invert"], 2),
        *(([command, output, *more], 0) for command in ("status", "verify", "clean") for more in ([], ["--json"])),
        (["validate", output], 0),
        (["info", source], 0),
        (["info", source, "--json"], 0),
        (["info", "level" + source], 2),
        (["model", "show", model], 0),
        (["model", "show", model + ESCAPES], 2),
        (["model", "list"], 0),
        (["convert", source, f"new{ESCAPES}.zarr"], 0),
        (["pyramid", f"new{ESCAPES}.zarr"], 0),
    ]
    for words, code in runs:
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        assert ended.value.code == code, (words, said.err)
        assert not OBEYED.search(said.out + said.err), (words, OBEYED.sub("#", said.out + said.err))


def test_what_libraries_report_is_shown_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking([]):
        logging.getLogger("some.package").error("tag %s", ESCAPES)
    said = capsys.readouterr().err
    assert said.startswith("tag \\x1b")
    assert not OBEYED.search(said)
