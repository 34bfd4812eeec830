"""Options of few values show them, and refuse any other by name; so do the files that say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator, ValidationError
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.testing import CliRunner
from volumetool.cli.main import app, main
from volumetool.schemas.generate import FILES, schema_texts

from volumetool.degradation import RECIPES, load_recipe, save_recipe
from volumetool.jobs.job import Job, read_job
from volumetool.storage.conversion import Conversion
from volumetool.training.config import read_config

Option = tuple[str, str, tuple[str, ...]]
"""Words of a command, an option of it, and the values that it takes."""


def choices() -> Iterator[Option]:
    """Yield every option and argument whose type has few values."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    for name, command in program.commands.items():
        named = {f"{name} {below}": each for below, each in getattr(command, "commands", {}).items()} or {name: command}
        for words, each in named.items():
            for parameter in each.params:
                if values := _values(parameter.type_descriptor.annotation):
                    yield words, parameter.opts[-1] if parameter.opts[-1].startswith("--") else "", values


def _values(kind: Any) -> tuple[str, ...]:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(each.value for each in kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def of_models() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield every field of a job and of a conversion whose type has few values."""
    for command, model in (("enhance", Job), ("convert", Conversion)):
        for name, field in model.model_fields.items():
            kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal]
            if kinds:
                yield command, f"--{name.replace('_', '-')}", get_args(kinds[0])


@pytest.mark.parametrize(("words", "option", "values"), [pytest.param(*each, id=" ".join(each[:2])) for each in choices()])
def test_a_value_that_is_none_of_them_is_refused_with_all_of_them(
    words: str, option: str, values: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), *([option] if option else []), "no-such-value"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "[config.usage]" in error
    assert set(re.findall(r"'([\w.-]+)'", error.partition("is not")[2])) == set(values)
    shown = help_of(words, 200)
    assert [value for value in values if not re.search(rf"[\[|<]{re.escape(value)}[\]|>]", shown)] == []


@cache
def help_of(words: str, columns: int) -> str:
    """Return the help of all options of a command."""
    asked = "--help-all" if words in ("enhance", "apply", "live") else "--help"
    return str(CliRunner().invoke(app, [*words.split(), asked], env={"COLUMNS": str(columns)}).output)


@pytest.mark.parametrize(("words", "option", "values"), [pytest.param(*each, id=" ".join(each[:2])) for each in of_models()])
def test_options_of_a_job_and_a_conversion_show_their_values_and_refuse_others(
    words: str, option: str, values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([words, "in.zarr", "out.zarr", option, "no-such-value", "--json"])
    assert ended.value.code == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] in ("config.option", "config.usage")
    assert [value for value in values if f"'{value}'" not in error["message"]] == []
    shown = help_of(words, 300)
    told = re.split(r"[^\w.-]+", re.search(rf"{option} .*(\n.*)", shown)[0])  # type: ignore[index]  # an error of the test
    assert [value for value in values if value not in told] == []


def test_no_option_takes_a_text_of_which_its_help_lists_the_values() -> None:
    """Those are to be a type of few values: ``auto, cpu or cuda`` in a help text is checked by nobody."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    listed = [
        f"{name} {parameter.name}"
        for name, command in program.commands.items()
        for parameter in command.params
        if getattr(parameter, "type_descriptor", None) is not None
        and str in (parameter.type_descriptor.annotation, *get_args(parameter.type_descriptor.annotation))
        and re.match(r"[a-z]\w*(, [a-z]\w*)+,? or [a-z]\w*\.", getattr(parameter, "help", None) or "")
    ]
    assert listed == []


@pytest.mark.parametrize("ending", ["yaml", "json"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_may_name_its_schema_which_fits_it(name: str, ending: str, tmp_path: Path) -> None:
    save_recipe(tmp_path / "recipe.yaml", RECIPES["sem-fast"])
    contents: dict[str, Any] = {
        "job": {"input": "in.zarr", "output": "out.zarr", "roi": "0:4,:,:"},
        "train": {"name": "mine", "sources": [{"path": "truth.tif"}]},
        "crappifier": yaml.safe_load((tmp_path / "recipe.yaml").read_text()),
    }
    content = {"$schema": f"./{name}.json", **contents[name]}
    file = tmp_path / f"configuration.{ending}"
    file.write_text(yaml.safe_dump(content) if ending == "yaml" else json.dumps(content, indent=1))
    schema = json.loads(schema_texts()[name])
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator(schema).validate(content)
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate({**content, "$schema": 3})
    read: Callable[[Path], BaseModel] = {"job": read_job, "train": read_config, "crappifier": load_recipe}[name]
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(contents[name]))
    assert read(file) == read(plain)
