"""How an option is declared: once, with its default, its help, its panel and whether it decides bytes.

The command line, the JSON Schema, the docstring and the list of what a job's output depends on are made from that declaration.
"""

from __future__ import annotations

import inspect
import textwrap
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field


class Kind(Enum):
    """The role of an option in the fingerprint of a job."""

    SEMANTIC = "changes voxels or layout: another value is another job"
    RUNTIME = "changes only how the same bytes come about: may differ from run to run"


def semantic(default: Any, panel: str, help: str, *, metavar: str | None = None, common: bool = False) -> Any:  # noqa: A002
    """Declare an option that decides bytes of the output.

    Parameters
    ----------
    default : object
        Value where none is given; ``...`` where one must be given.
    panel : str
        Title of the group in which it is shown.
    help : str
        What it does, in one or two sentences.
    metavar : str, optional
        How its value is written on a command line, such as ``Z,Y,X``.
    common : bool
        Most people need it: ``--help`` shows it, and not only ``--help-all``.
    """
    return _option(Kind.SEMANTIC, default, help, panel=panel, metavar=metavar, common=common)


def runtime(default: Any, panel: str, help: str, *, metavar: str | None = None, common: bool = False) -> Any:  # noqa: A002
    """Declare an option that decides no byte of the output.

    Parameters
    ----------
    default, panel, help, metavar, common
        As for :func:`semantic`.
    """
    return _option(Kind.RUNTIME, default, help, panel=panel, metavar=metavar, common=common)


def told_once(default: Any, panel: str, help: str, *, metavar: str | None = None) -> Any:  # noqa: A002
    """Declare an option that decides no byte, and that is written nowhere: it may be a secret, and is meant for one run.

    Parameters
    ----------
    default, panel, help, metavar
        As for :func:`semantic`.
    """
    extra = _extra(Kind.RUNTIME, panel=panel, metavar=metavar)
    return Field(default, description=help, json_schema_extra=extra, exclude=True, repr=False)


def _option(kind: Kind, default: Any, words: str, **shown: Any) -> Any:
    return Field(default, description=words, json_schema_extra=_extra(kind, **shown))


def _extra(kind: Kind, **shown: Any) -> dict[str, Any]:
    return {"kind": kind.name.lower(), **{name: value for name, value in shown.items() if value}}


def kinds(model: type[BaseModel]) -> dict[str, Kind]:
    """Return for every option of a model whether it decides bytes.

    Raises
    ------
    TypeError
        A field is not declared as an option.
    """
    found = {}
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "kind" not in extra:
            raise TypeError(f"{model.__name__}.{name} is declared neither as semantic nor as runtime")
        found[name] = Kind[str(extra["kind"]).upper()]
    return found


def document(model: type[BaseModel]) -> None:
    """Add the options of a model to its docstring, as its numpydoc section of parameters."""
    lines = [inspect.cleandoc(model.__doc__ or ""), "", "Parameters", "----------"]
    for name, field in model.model_fields.items():
        given = "" if field.is_required() or field.default is None else f", default {field.default!r}"
        lines.append(f"{name} : {_type_name(field.annotation)}{given}")
        lines += textwrap.wrap(field.description or "", 100, initial_indent="    ", subsequent_indent="    ")
    model.__doc__ = "\n".join(lines)


def _type_name(annotation: Any) -> str:
    """Return a type as numpydoc writes it."""
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return "{" + ", ".join(f'"{part}"' for part in parts) + "}"
    if NoneType in get_args(annotation):
        return f"{_type_name(parts[0])}, optional"
    return f"tuple of {parts[0].__name__}" if get_origin(annotation) is tuple else str(annotation.__name__)
