"""The options of a job on a command line, made from the schema of a job: nothing about one of them is said here."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Collection, Iterator
from importlib import resources
from typing import Annotated, Any, get_args

import typer

_NO_OPTIONS = ("input", "output", "$schema")
_TYPES: dict[str, type] = {"boolean": bool, "integer": int, "number": float}


def job_options(
    *, rare: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a job, in place of its ``**options``.

    ``--help`` shows those that most people need, ``--help-all`` all of them.

    Parameters
    ----------
    rare : collection of str
        Parameters of the command's own that few people need.
    without : collection of str
        Options, and panels of options, that the command does not take.
    """

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        own = [hidden(parameter) if parameter.name in rare else parameter for parameter in own]
        every = [*own, _parameter("help_all", False, Annotated[bool, _help_all()]), *_options(without)]
        vars(command)["__signature__"] = signature.replace(parameters=every)
        return command

    return extend


def help_of(option: str) -> str:
    """Return the help of a job's option, for commands that have the same."""
    text: str = _schema()[option]["description"]
    return text


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _schema() -> dict[str, dict[str, Any]]:
    text = resources.files("volumetool.schemas").joinpath("job.json").read_text(encoding="utf-8")
    properties: dict[str, dict[str, Any]] = json.loads(text)["properties"]
    return {name: facts for name, facts in properties.items() if name not in _NO_OPTIONS}


def _options(without: Collection[str]) -> Iterator[inspect.Parameter]:
    for name, facts in _schema().items():
        if facts["panel"] in without or name in without:
            continue
        kinds = {
            kind.get("type", "string"): kind for kind in (facts, *facts.get("anyOf", ())) if kind.keys() & {"type", "$ref"}
        }
        kinds.pop("null", None)
        text = kinds.get("string")
        told = facts.get("metavar") or ("|".join(text["enum"]) if text and "enum" in text else None)
        default = facts.get("default")
        option = typer.Option(
            f"--{name.rstrip('_').replace('_', '-')}",  # with_ is a word that Python has itself
            help=facts["description"],
            metavar=told,
            hidden=not facts.get("common"),
            show_default=False if facts.get("common") or default in (None, False) else str(default),
        )
        kind = str if text else _TYPES[next(iter(kinds))]
        yield _parameter(name, False if kind is bool else None, Annotated[kind if kind is bool else kind | None, option])


def hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter that ``--help`` does not show."""
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.hidden = True
    return parameter.replace(annotation=Annotated[kind, option])


def _parameter(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help_all() -> Any:
    return typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show every option, and exit.")


def _show_all(context: typer.Context, asked: bool) -> None:
    if not asked:
        return
    schema = _schema()
    for parameter in context.command.params:
        vars(parameter).update(hidden=False)
        if parameter.name in schema:
            vars(parameter).update(rich_help_panel=schema[parameter.name]["panel"])
    typer.echo(context.get_help())
    raise typer.Exit
