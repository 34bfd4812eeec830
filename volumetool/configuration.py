"""Configuration files: YAML and option texts in, plain values out, and errors that name the option."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from volumetool.errors import ConfigError
from volumetool.paths import ZarrNode, absolute_path, open_file, place_text
from volumetool.redaction import redact
from volumetool.units import parse_bytes

P = ParamSpec("P")
T = TypeVar("T")

_MOST_PROBLEMS = 20
"""That are named at once."""

_MOST_BYTES = 2**18
_DEEPEST = 20
_MOST_NUMBER = 2**63
"""Limits of a configuration file: bytes, depth of mappings and lists, and largest whole number."""

NO_YAML = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, yaml.YAMLError)
"""What `parse_yaml` raises: yaml has other errors than its own over texts whose tags or numbers make no sense."""

FACE = 2**62
"""Stop of a box that goes on to the volume's face, wherever that is."""


def cache_folder() -> Path:
    """Return the folder for what can be found out again: ``VOLUMETOOL_CACHE``, or ``volumetool`` in the user's cache folder."""
    if own := os.environ.get("VOLUMETOOL_CACHE"):
        return absolute_path(own)
    return absolute_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "volumetool"


def models_folder() -> Path:
    """Return the folder of imported models: ``VOLUMETOOL_MODELS``, or ``volumetool/models`` in the user's folder of data."""
    if own := os.environ.get("VOLUMETOOL_MODELS"):
        return absolute_path(own)
    return absolute_path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "volumetool" / "models"


def parse_numbers(value: object) -> object:
    """Read ``"1,4,4"`` as numbers; anything else passes to pydantic."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def parse_rising(value: object) -> object:
    """Read ``"1200,31000"`` as two rising, finite numbers."""
    parts = parse_numbers(value)
    try:
        low, high = (float(part) for part in parts)  # type: ignore[attr-defined]  # anything else is a TypeError
    except (TypeError, ValueError):
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{value!r} is not two rising numbers, such as 1200,31000")
    return low, high


def parse_box(value: object) -> object:
    """Read ``"z0:z1,y0:y1,x0:x1"`` as a box; an empty end stands for the volume's face."""
    if not isinstance(value, str):
        return value
    parts = [part.split(":") for part in value.split(",")]
    if len(parts) != 3 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{value!r} is no box; write z0:z1,y0:y1,x0:x1 in input voxels, such as 0:64,100:300,:")
    start, stop = zip(*((int(a or 0), int(b) if b.strip() else FACE) for a, b in parts), strict=True)
    return {"start": start, "stop": stop}


def _as_text(place: object) -> object:
    known = isinstance(place, os.PathLike | ZarrNode) or hasattr(place, "__array__")
    return place_text(place) if known else place  # type: ignore[arg-type]  # which says of an array that it is none


def _require_positive(value: tuple[float, ...]) -> tuple[float, ...]:
    if min(value) <= 0:
        raise ValueError(f"{value}: every axis must be above 0")
    return value


def _parse_bandwidth(value: object) -> object:
    return parse_bytes(value.removesuffix("/s") if isinstance(value, str) else value)


Place = Annotated[str, BeforeValidator(_as_text)]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(parse_bytes, json_schema_input_type=int | str)]
Bandwidth = Annotated[int, Field(ge=1), BeforeValidator(_parse_bandwidth, json_schema_input_type=int | str)]
Rising = Annotated[tuple[float, float], BeforeValidator(parse_rising, json_schema_input_type=tuple[float, float] | str)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Numbers = Annotated[tuple[int, int, int], BeforeValidator(parse_numbers, json_schema_input_type=tuple[int, int, int] | str)]
Lengths = Annotated[Numbers, AfterValidator(_require_positive)]
Nanometres = Annotated[
    tuple[float, float, float],
    BeforeValidator(parse_numbers, json_schema_input_type=tuple[float, float, float] | str),
    AfterValidator(_require_positive),
]


class Options(BaseModel):
    """The options of a command, checked when they are given: what cannot be is a `ConfigError` that names the option."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    told_by: ClassVar[str] = "--help"
    """What tells a user more about the options."""

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, options: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(options)
        except ValidationError as error:
            raise ConfigError("config.option", explain(error, cls), hint=f"see {cls.told_by}") from error

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Give what is not at its default."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name is not None and value != fields[name].default:
                yield name, redact(value) if isinstance(value, str) else value


def read_options(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping of options; ``$schema``, which is for editors, is left out.

    Raises
    ------
    ConfigError
        ``config.file``: the file is missing or no YAML mapping.
    """
    path = absolute_path(path)
    content = _read(path, "a configuration is YAML: one `option: value` a line")[1]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(
            "config.file",
            f"{path} holds {'names that are no text' if isinstance(content, dict) else type(content).__name__}, not options",
            hint="write one `option: value` a line",
        )
    content.pop("$schema", None)
    return content


def read_list(path: Path) -> tuple[list[int], list[Any]]:
    """Read a YAML file that holds one list.

    Returns
    -------
    list of int, list
        For each entry the line on which it begins, from 1; the entries.

    Raises
    ------
    ConfigError
        ``config.file``: the file is missing or no YAML list.
    """
    how = "write one entry a line, each after `- `"
    text, content = _read(path, how)
    if not isinstance(content, list):
        raise ConfigError("config.file", f"{path} holds {type(content).__name__}, not a list", hint=how)
    nodes = yaml.compose(text, yaml.SafeLoader)
    return [node.start_mark.line + 1 for node in nodes.value] if nodes is not None else [], content


def _read(path: Path, how: str) -> tuple[bytes, Any]:
    """Return the text of a YAML file and what it holds; `how` says what should stand there."""
    try:
        with open_file(path) as file:
            text = file.read(_MOST_BYTES + 1)
        return text, parse_yaml(text)
    except (OSError, *NO_YAML) as error:
        raise ConfigError("config.file", f"{path} cannot be read: {error}", hint=how) from error


def parse_yaml(text: bytes) -> Any:
    """Read YAML that is no larger, deeper or more tangled than a configuration.

    Aliases are refused: a few lines of them stand for a billion values.

    Raises
    ------
    NO_YAML
        It is none.
    """
    if len(text) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes are no configuration")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has the alias *{event.anchor}; write the values out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels inside each other")
    content = yaml.safe_load(text)
    _check_numbers(content)
    return content


def _check_numbers(content: Any) -> None:
    """Refuse whole numbers beyond 64 bits, which no option takes and few things can even write down."""
    if isinstance(content, int) and not -_MOST_NUMBER <= content < _MOST_NUMBER:
        raise ValueError(f"it has a whole number of {content.bit_length()} bits; at most 63 are read")
    inside = (
        (*content, *content.values())
        if isinstance(content, dict)
        else content
        if isinstance(content, list | tuple | set)
        else ()
    )
    for each in inside:
        _check_numbers(each)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe each problem in a line: the field, its value, and for a typo the nearest name."""
    lines = []
    for problem in error.errors()[:_MOST_PROBLEMS]:
        name = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        meant = f"; did you mean {near[0]}?" if problem["type"] == "extra_forbidden" and near else ""
        value = "" if problem["type"] == "missing" else f" = {_shown(problem['input'])}"  # the input is all that was given
        where = f"{name}{value}: " if name else ""  # of options that do not go together, the message names values itself
        lines.append(f"{where}{problem['msg'].removeprefix('Value error, ')}{meant}")
    if error.error_count() > len(lines):
        lines.append(f"and {error.error_count() - len(lines)} more")
    return "\n".join(lines)


def with_options(model: type[Options], *without: str, **more: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that names, in the signature of a function of ``**options``, the options that they may be.

    Those of `model` that the function does not name itself, but for `without`, and `more` with their defaults.
    """

    def name(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=field.annotation, default=_default(field))
            for name, field in model.model_fields.items()
            if name not in signature.parameters and name not in without
        ]
        others = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in more.items()]
        vars(function)["__signature__"] = signature.replace(parameters=[*own, *others, *options])
        return function

    return name


def _default(field: FieldInfo) -> Any:
    return inspect.Parameter.empty if field.is_required() else field.get_default()


def naming_options(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that answers an option that it does not have, or lacks, with `ConfigError` instead of TypeError."""
    takes = inspect.signature(function)

    @functools.wraps(function)
    def call(*given: P.args, **options: P.kwargs) -> T:
        try:
            takes.bind(*given, **options)
        except TypeError as error:
            unknown = [name for name in options if name not in takes.parameters]
            near = difflib.get_close_matches(unknown[0], takes.parameters, n=1) if unknown else []
            raise ConfigError(
                "config.option",
                f"{function.__name__}(): {error}{f'; did you mean {near[0]}?' if near else ''}",
                hint=f"it takes {', '.join(takes.parameters)}",
            ) from error
        return function(*given, **options)

    return call


class _Showing(reprlib.Repr):
    """Shortens values. Secrets in a URL are taken out first: of half a URL nobody could tell which half is one."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)


_SHOWING = _Showing()


def _shown(value: object) -> str:
    """Return a value as it is shown: not more of it than fits, and not at all a number of more digits than Python writes."""
    try:
        return _SHOWING.repr(value)
    except ValueError:
        return "a number of thousands of digits"


class OutputChannel(BaseModel):
    """One of several channels that an operation makes of each input channel.

    Parameters
    ----------
    name : str
        What a viewer calls it.
    values : {"grey", "difference", "plain"}
        ``grey``: the values go back to grey values by the normalisation. ``difference``: they are differences of such values,
        which are scaled and not shifted, such as an expected error. ``plain``: they stay as they are, such as probabilities.
    block : tuple of int
        Voxels of the output for which there is one value, their mean, z, y, x: a divisor of the operation's scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    values: Literal["grey", "difference", "plain"] = "grey"
    block: tuple[int, int, int] = Field((1, 1, 1), exclude_if=lambda block: block == (1, 1, 1))


def planes_of(channels: Sequence[OutputChannel]) -> list[tuple[int, tuple[int, int, int]]]:
    """Return where an operation lays its channels: in which array of its output's shape, at which voxel of each block there.

    Those of one value for each voxel have an array each. The others, which stand behind them and have blocks of one shape,
    share the arrays that follow: the first fills the first voxel of each block, the next the next.
    """
    fine = [channel for channel in channels if max(channel.block) == 1]
    found = [(number, (0, 0, 0)) for number in range(len(fine))]
    for number, channel in enumerate(channels[len(fine) :]):
        (_, wide, long), size = channel.block, math.prod(channel.block)
        plane, place = divmod(number, size)
        found.append((len(fine) + plane, (place // (wide * long), place // long % wide, place % long)))
    return found
