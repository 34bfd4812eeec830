"""What tells a function or a network that was handed over from others: its code, the values that it holds, its weights.

What it looks up elsewhere, such as names of its module, does not count.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch

from volumetool.errors import ConfigError

_REGISTERED = ("_parameters", "_buffers", "_modules")
_OF_TRAINING = (
    "training",
    "_backward",
    "_full_backward",
    "_is_full_backward",
    "_state_dict",
    "_load_state_dict",
    "_non_persistent",
)
"""How attributes of a network begin that do not change its output."""


def digest_function(function: Any) -> str:
    """Return the SHA-256 of what tells a function or a network from others.

    Raises
    ------
    ConfigError
        ``config.option``: it cannot be told from others, because it holds values of a type that is not known here.
    """
    digest = hashlib.sha256()
    for part in _network(function) if isinstance(function, torch.nn.Module) else _function(function):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _network(network: torch.nn.Module) -> Iterator[bytes]:
    """Yield the code, the attributes and the weights of a network and all its layers."""
    for name, layer in network.named_modules():
        yield f"{name} {type(layer).__module__}.{type(layer).__qualname__}".encode()
        if not type(layer).__module__.startswith("torch."):
            yield _source(type(layer))
        for attribute, value in vars(layer).items():
            if attribute not in _REGISTERED and not attribute.startswith(_OF_TRAINING):
                yield attribute.encode()
                yield from _value(value, f"{name}.{attribute}".lstrip("."))
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        yield name.encode()
        yield from _value(tensor, name)


def _function(function: Any) -> Iterator[bytes]:
    """Yield the code of a function and the values that it was defined with."""
    if not isinstance(function, FunctionType):
        raise ConfigError(
            "config.option",
            f"{function!r} is no plain function: what it holds is not known, so it cannot be told from others",
            hint="write a `def` that does it, or a file: apply FILE.py:FUNCTION",
        )
    yield _source(function)
    yield from _code(function.__code__)
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    for value in [*held, *(function.__defaults__ or ()), function.__kwdefaults__]:
        yield from _value(value, function.__name__)


def _code(code: CodeType) -> Iterator[bytes]:
    """Yield what code does: two lambdas of one line have the same source."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:  # a set has no order of its own
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()


def _value(value: Any, where: str) -> Iterator[bytes]:
    """Yield what tells a value from others, with its type."""
    yield type(value).__name__.encode()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (*_value(key, where), *_value(each, where))
    elif isinstance(value, tuple | list):
        yield str(len(value)).encode()
        for each in value:
            yield from _value(each, where)
    elif isinstance(value, FunctionType):
        yield from _function(value)
    elif isinstance(value, BuiltinFunctionType) and inspect.ismodule(getattr(value, "__self__", None) or inspect):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, bool | int | float | complex | str | bytes | np.generic | torch.dtype | torch.device | None):
        yield repr(value).encode()
    else:
        raise ConfigError(
            "config.option",
            f"{where} holds a value of type {type(value).__name__}, by which it cannot be told from others",
            hint="let it hold numbers, texts and arrays alone, or write it in a file: apply FILE.py:FUNCTION",
        )


def _source(code: Any) -> bytes:
    try:
        return inspect.getsource(code).encode()
    except (OSError, TypeError) as error:
        raise ConfigError(
            "config.option",
            f"the source text of {code!r} is not known, so neither is whether a run that goes on has the same function",
            hint="write it as `def` in a file or a notebook",
        ) from error
