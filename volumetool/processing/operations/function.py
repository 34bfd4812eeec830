"""Operations that are a function of the user's own: from a Python file, or handed over in this process.

A file is code, and runs with the user's rights: only where it is trusted, see `volumetool.models.foreign.trust`.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import inspect
import math
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from volumetool.configuration import explain, parse_numbers
from volumetool.errors import ConfigError, ModelError, NumericsError
from volumetool.geometry import Triple
from volumetool.models.foreign.program import digest_of
from volumetool.models.foreign.trust import require_trust, trust
from volumetool.paths import absolute_path, open_file
from volumetool.processing.device.arrays import Array, array_module
from volumetool.processing.operations.filter import GREY_VALUES, Channels, Reach, make_card, read_options, show_channels
from volumetool.processing.operations.identity import digest_function
from volumetool.processing.spec import Numerics

FARTHEST = 256
"""Largest halo along an axis, in voxels."""

LARGEST_SCALE = 16

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

LARGEST_FILE = 2**22
"""Bytes of a file of code."""


Far = Annotated[int, Field(ge=0, le=FARTHEST)]


def _times(value: object) -> Fraction:
    """Read a whole number or a part of one, such as 2, 1/2 or 0.5."""
    times = Fraction(str(value).strip()).limit_denominator(LARGEST_SCALE)
    if 1 not in (times.numerator, times.denominator) or not Fraction(1, LARGEST_SCALE) <= times <= LARGEST_SCALE:
        raise ValueError(f"{value} is neither a whole number up to {LARGEST_SCALE} nor one part of it, such as 1/2")
    return times


Times = Annotated[Fraction, BeforeValidator(_times)]


class FunctionOptions(BaseModel):
    """What a function needs to be cut and put together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    halo: Annotated[tuple[Far, Far, Far], BeforeValidator(parse_numbers)] = (0, 0, 0)
    """Voxels on each side that an output voxel depends on, along z, y, x."""
    scale: Annotated[tuple[Times, Times, Times], BeforeValidator(parse_numbers)] = (Fraction(1), Fraction(1), Fraction(1))
    """Output voxels per input voxel; 1,1/2,1/2 makes one voxel of 2 by 2."""
    channels: Channels = ()
    """Names of the channels that it returns, such as ``mean,error``; it then returns (channels, z, y, x). They are stored as
    they are, in float32 unless the job says another type; ``mean:grey`` says that a channel is grey values."""

    @classmethod
    def read(cls, halo: object, scale: object, channels: object) -> Self:
        """Return the options of three values, whatever they are.

        Parameters
        ----------
        halo, scale, channels : object
            What a user gave for these fields.

        Raises
        ------
        ConfigError
            ``config.option``.
        """
        try:
            return cls.model_validate({"halo": halo, "scale": scale, "channels": channels})
        except ValidationError as error:
            raise ConfigError(
                "config.option",
                f"a function of your own: {explain(error, cls)}",
                hint="halo and scale are three numbers each, along z, y, x; channels are names",
            ) from error

    @property
    def text(self) -> str:
        """The options as `read_options` reads them."""
        channels = f";channels={show_channels(self.channels)}" if self.channels else ""
        return f"halo={_joined(self.halo)};scale={_joined(self.scale)}{channels}"


Floats = NDArray[np.float32]
BlockFunction = Callable[..., Any]
"""Gets a block of grey values, float32 (z, y, x), with its halo, and returns as many voxels, or `scale` times as many; where it
has `channels`, (channels, z, y, x) of them. One of two arguments gets the same block of a second volume, too."""

_handed: dict[str, BlockFunction] = {}
"""Functions that were handed over in this process, by their identity."""


class FunctionOperation:
    """A function of blocks as an operation on patches.

    Parameters
    ----------
    function : callable
        See `BlockFunction`. It sees single sections, (1, y, x), where the halo is 0 along z.
    name : str
        What errors call it.
    spec : str
        The name by which it is found again.
    identity : str
        SHA-256 of its code.
    options : FunctionOptions
        Halo and scale.
    """

    def __init__(self, function: BlockFunction, name: str, spec: str, identity: str, options: FunctionOptions) -> None:
        self._function, self._name, self._channels = function, name, len(options.channels)
        self.spec = spec
        self.identity = hashlib.sha256(f"{identity};{options.text}".encode()).hexdigest()
        self._scale = _whole(each.numerator for each in options.scale)
        self._shrink = _whole(each.denominator for each in options.scale)
        reach = Reach(options.halo, self._scale, self._shrink, self._shrink)
        card = make_card("function", reach, GREY_VALUES)
        update = {"channels": options.channels, "spares": False, "inputs": _arguments(function)}
        self.card = card.model_copy(update=update)

    def open(self, device: torch.device, _: Numerics) -> FunctionOperation:
        """Return the function itself: it runs on the CPU, in float32."""
        self._xp = array_module(device)
        return self

    def working_bytes(self, patch: Triple, _: str) -> int:
        """Return the bytes of four copies of an output patch: nobody knows what the function takes."""
        return 4 * 4 * math.prod(patch) * math.prod(self._scale) * (self._channels or 1)

    def __call__(self, patches: Floats) -> Array:
        """Return the function's blocks, float32 (n, [channels,] z, y, x).

        Raises
        ------
        NumericsError
            ``numerics.function``: it raised an error, or returned another shape.
        """
        return self._xp.asarray(np.stack([self._block(patch) for patch in patches]))  # (n, [channels,] z*fz, y*fy, x*fx)

    def release(self) -> None:
        """Do nothing: no memory is held between calls."""

    def _block(self, patch: Floats) -> Floats:
        try:
            blocks = patch.copy()  # (z, y, x), of two inputs (2, z, y, x)
            made = np.asarray(self._function(blocks) if blocks.ndim == 3 else self._function(*blocks), np.float32)
        except (Exception, SystemExit) as error:
            raise NumericsError(
                "numerics.function",
                f"{self._name} raised {type(error).__name__}: {error}",
                hint=f"it was given a float32 array of shape {patch.shape} (z, y, x); mend it, and run the same command again",
            ) from error
        leading = (self._channels,) if self._channels else ()
        wanted = (*leading, *(n // s * f for n, s, f in zip(patch.shape[-3:], self._shrink, self._scale, strict=True)))
        if made.shape != wanted:
            raise NumericsError(
                "numerics.function",
                f"{self._name} made a block of shape {made.shape} from one of {patch.shape} (z, y, x), wanted {wanted}",
                hint="it must keep the block's shape, halo included, times its scale; channels come first, where it has any",
            )
        return made


def function_name(operation: str, options: str) -> str:
    """Return the name by which a function in a file is found again.

    Parameters
    ----------
    operation : str
        ``FILE.py:FUNCTION``, with options or without.
    options : str
        ``OPTION=VALUE;...`` with the options of `FunctionOptions`.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    place, _, own = operation.partition(";")
    file, _, function = place.rpartition(":")
    path, asked = absolute_path(file), read_options(place, FunctionOptions, f"{own};{options}")
    if ";" in f"{path}{function}":
        raise ConfigError("config.option", f"{path}:{function} has a semicolon", hint="call the file and its folders otherwise")
    return f"python:{path}:{function};{asked.text}"


def trust_function(spec: str) -> None:
    """Let the file of a name that `function_name` gave run, as it is now, in this process and in those that it starts.

    Raises
    ------
    ModelError
        ``model.unknown``: there is no such file.
    """
    trust(digest_of(_read(Path(_place(spec)[0].rpartition(":")[0]))))


def open_function(spec: str) -> FunctionOperation:
    """Open a function of a file by the name that `function_name` gave it.

    Raises
    ------
    ModelError
        ``model.untrusted``: nobody said that the file may run; ``model.unknown``: it has no such function.
    """
    place, options = _place(spec)
    file, _, name = place.rpartition(":")
    path = Path(file)
    text = _read(path)
    digest = digest_of(text)
    require_trust(path, digest)
    function = getattr(_load(path, text), name, None)
    if not callable(function):
        raise ModelError("model.unknown", f"{path} has no function {name}", hint="write FILE.py:FUNCTION", where=str(path))
    return FunctionOperation(function, f"{path}:{name}", spec, digest, options)


def hand_over(function: Any, options: FunctionOptions) -> str:
    """Make a function, or a network, known to this process, and return the name by which it is found here.

    Parameters
    ----------
    function : callable or torch.nn.Module
        See `BlockFunction`. A network gets (1, 1, z, y, x), or (1, 1, y, x) where the halo is 0 along z.
    options : FunctionOptions
        Its halo, scale and channels.

    Raises
    ------
    ConfigError
        ``config.option``: it cannot be told from others.
    """
    digest = digest_function(function)
    if isinstance(function, torch.nn.Module):
        function = _module_function(function.eval(), flat=not options.halo[0], channels=bool(options.channels))
    _handed[digest] = function
    return f"handed:{digest};{options.text}"


def open_handed(spec: str) -> FunctionOperation:
    """Open a function by the name that `hand_over` gave it.

    Raises
    ------
    ModelError
        ``model.unknown``: this process was not handed that function.
    """
    digest, options = _place(spec)
    if digest not in _handed:
        raise ModelError(
            "model.unknown",
            "the function of this job lives in the process that began it",
            hint="call volumetool.apply with it again, with workers=1; several workers want a file: apply FILE.py:FUNCTION",
        )
    return FunctionOperation(_handed[digest], getattr(_handed[digest], "__name__", "the function"), spec, digest, options)


def _arguments(function: BlockFunction) -> Literal[1, 2]:
    """Return how many blocks a function takes: those of its arguments that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of code that is no Python nothing is known
        return 1
    needed = [each for each in parameters if each.kind in _POSITIONAL and each.default is each.empty]
    return 2 if len(needed) == 2 else 1


def _module_function(module: torch.nn.Module, *, flat: bool, channels: bool) -> BlockFunction:
    def call(block: Floats) -> Floats:
        x = torch.from_numpy(block)[None] if flat else torch.from_numpy(block)[None, None]  # (1, 1, [z,] y, x)
        with torch.inference_mode():
            y: torch.Tensor = module(x)[0]  # (c, [z,] y, x)
        if flat:
            y = y[:, None]  # (c, 1, y, x)
        made: Floats = (y if channels or len(y) > 1 else y[0]).numpy()  # ([c,] z, y, x)
        return made

    call.__name__ = type(module).__name__
    return call


def _place(spec: str) -> tuple[str, FunctionOptions]:
    """Return what stands between kind and options of a name, and the options."""
    place, _, text = spec.partition(":")[2].partition(";")
    return place, read_options("a function of your own", FunctionOptions, text)


def _joined(numbers: Iterable[object]) -> str:
    return ",".join(map(str, numbers))


def _whole(numbers: Iterable[int]) -> Triple:
    z, y, x = numbers
    return z, y, x


def _read(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ModelError(
            "model.unknown", f"{path} cannot be read: {error.strerror}", hint="write FILE.py:FUNCTION", where=str(path)
        ) from error
    if len(text) > LARGEST_FILE:
        raise ModelError("model.unknown", f"{path} has more than {LARGEST_FILE} bytes", hint="write FILE.py:FUNCTION")
    return text


class _Text(importlib.abc.SourceLoader):
    """Loads the text of a file that was looked at, whatever stands in the file by now."""

    def __init__(self, path: Path, text: bytes) -> None:
        self._path, self._text = path, text

    def get_filename(self, _: str) -> str:
        """Return the path."""
        return str(self._path)

    def get_data(self, _: str | bytes) -> bytes:
        """Return the text."""
        return self._text


def _load(path: Path, text: bytes) -> ModuleType:
    module = ModuleType(f"volumetool.own.{digest_of(text)[:16]}")  # a name that no other module has
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look their own module up
    try:
        _Text(path, text).exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(
            "model.broken", f"{path} raised {type(error).__name__}: {error}", hint="mend it, and try again", where=str(path)
        ) from error
    return module
