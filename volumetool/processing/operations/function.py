"""Operations that are a function of the user's own: from a Python file, or handed over in this process.

A file is code, and runs with the user's rights. So it runs only where its SHA-256 stands in ``VOLUMETOOL_TRUST``:
``volumetool apply --trust`` writes it there, and processes that this one starts get it. Whoever starts workers elsewhere sets
it there. A job file, a plan or a volume cannot.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.configuration import parse_numbers
from volumetool.errors import ConfigError, ModelError, NumericsError
from volumetool.geometry import Triple
from volumetool.paths import absolute_path
from volumetool.processing.device.arrays import Array, array_module
from volumetool.processing.operations.filter import GREY_VALUES, Reach, make_card
from volumetool.processing.spec import Numerics

TRUSTED = "VOLUMETOOL_TRUST"
"""Environment variable: SHA-256 of the Python files that may run, with commas between."""

FARTHEST = 256
"""Largest halo along an axis, in voxels."""

LARGEST_SCALE = 16

Floats = NDArray[np.float32]
BlockFunction = Callable[[Floats], Any]
"""Gets a block of grey values, float32 (z, y, x), with its halo, and returns as many voxels, or `scale` times as many."""

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
    reach : Reach
        Halo and scale.
    """

    def __init__(self, function: BlockFunction, name: str, spec: str, identity: str, reach: Reach) -> None:
        self._function, self._name, self._scale = function, name, reach.scale
        self.spec = spec
        self.identity = hashlib.sha256(f"{identity} {reach}".encode()).hexdigest()
        self.card = make_card("function", reach, GREY_VALUES)

    def open(self, device: torch.device, _: Numerics) -> FunctionOperation:
        """Return the function itself: it runs on the CPU, in float32."""
        self._xp = array_module(device)
        return self

    def working_bytes(self, patch: Triple, _: str) -> int:
        """Return the bytes of four copies of an output patch: nobody knows what the function takes."""
        return 4 * 4 * math.prod(patch) * math.prod(self._scale)

    def __call__(self, patches: Floats) -> Array:
        """Return the function's blocks, float32 (n, z, y, x).

        Raises
        ------
        NumericsError
            ``numerics.function``: it raised an error, or returned another shape.
        """
        return self._xp.asarray(np.stack([self._block(patch) for patch in patches]))  # (n, z*fz, y*fy, x*fx)

    def release(self) -> None:
        """Do nothing: no memory is held between calls."""

    def _block(self, patch: Floats) -> Floats:
        try:
            made = np.asarray(self._function(patch.copy()), np.float32)
        except Exception as error:
            raise NumericsError(
                "numerics.function",
                f"{self._name} raised {type(error).__name__}: {error}",
                hint=f"it was given a float32 array of shape {patch.shape} (z, y, x); mend it, and run the same command again",
            ) from error
        wanted = tuple(size * factor for size, factor in zip(patch.shape, self._scale, strict=True))
        if made.shape != wanted:
            raise NumericsError(
                "numerics.function",
                f"{self._name} made a block of shape {made.shape} from one of {patch.shape} (z, y, x), wanted {wanted}",
                hint="it must keep the block's shape, halo included, times its scale",
            )
        return made


def trust_operation(spec: str) -> None:
    """Let the Python file of an operation run, as it is now, in this process and in those that it starts.

    Raises
    ------
    ConfigError
        ``config.option``: the operation is no function of a file, and needs no trust.
    """
    if not spec.startswith("python:"):
        raise ConfigError("config.option", f"--trust, but {spec} runs no code of a file", hint="leave --trust out")
    known = [digest for digest in os.environ.get(TRUSTED, "").split(",") if digest]
    os.environ[TRUSTED] = ",".join([*known, _digest(_read(_place(spec)[0]))])


def function_name(operation: str, options: dict[str, str]) -> str:
    """Return the name by which a function in a file is found again.

    Parameters
    ----------
    operation : str
        ``FILE.py:FUNCTION``.
    options : dict of str
        ``halo`` and ``scale``, three numbers each.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    path, _, function = operation.rpartition(":")
    reach = _read_reach(options)
    return f"python:{absolute_path(path)}:{function};halo={_joined(reach.halo)};scale={_joined(reach.scale)}"


def open_function(spec: str) -> FunctionOperation:
    """Open a function of a file by the name that `function_name` gave it.

    Raises
    ------
    ModelError
        ``model.untrusted``: nobody said that the file may run; ``model.unknown``: it has no such function.
    """
    path, name, reach = _place(spec)
    text = _read(path)
    digest = _digest(text)
    if digest not in os.environ.get(TRUSTED, "").split(","):
        raise ModelError(
            "model.untrusted",
            f"{path} is code, which would run with your rights, and nobody said that it may",
            hint=f"read it, then run `volumetool apply` with --trust; workers elsewhere are started with {TRUSTED}={digest}",
            where=str(path),
        )
    function = getattr(_load(path, text), name, None)
    if not callable(function):
        raise ModelError("model.unknown", f"{path} has no function {name}", hint="write FILE.py:FUNCTION", where=str(path))
    return FunctionOperation(function, f"{path}:{name}", spec, digest, reach)


def hand_over(function: Any, halo: Triple, scale: Triple) -> str:
    """Make a function, or a network, known to this process, and return the name by which it is found here.

    Parameters
    ----------
    function : callable or torch.nn.Module
        See `BlockFunction`. A network gets (1, 1, z, y, x), or (1, 1, y, x) where the halo is 0 along z. It is known by its
        source text, a network by its parameters, too: what it looks up elsewhere does not count.
    halo : tuple of int
        Voxels on each side that an output voxel depends on, along z, y, x.
    scale : tuple of int
        Output voxels per input voxel.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    reach = _read_reach({"halo": _joined(halo), "scale": _joined(scale)})
    digest = hashlib.sha256()
    try:
        digest.update(inspect.getsource(type(function) if isinstance(function, torch.nn.Module) else function).encode())
    except (OSError, TypeError) as error:
        raise ConfigError(
            "config.option",
            f"the source text of {function!r} is not known, so neither is whether a run that goes on has the same function",
            hint="write it as `def` in a file or a notebook",
        ) from error
    if isinstance(function, torch.nn.Module):
        for name, value in sorted(function.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        function = _module_function(function.eval(), flat=not halo[0])
    _handed[digest.hexdigest()] = function
    return f"handed:{digest.hexdigest()};halo={_joined(reach.halo)};scale={_joined(reach.scale)}"


def open_handed(spec: str) -> FunctionOperation:
    """Open a function by the name that `hand_over` gave it.

    Raises
    ------
    ModelError
        ``model.unknown``: this process was not handed that function.
    """
    digest, _, options = spec.partition(":")[2].partition(";")
    reach = _read_reach(dict(option.partition("=")[::2] for option in options.split(";")))
    if digest not in _handed:
        raise ModelError(
            "model.unknown",
            "the function of this job lives in the process that began it",
            hint="call volumetool.apply with it again, with workers=1; several workers want a file: apply FILE.py:FUNCTION",
        )
    return FunctionOperation(_handed[digest], getattr(_handed[digest], "__name__", "the function"), spec, digest, reach)


def _module_function(module: torch.nn.Module, *, flat: bool) -> BlockFunction:
    def call(block: Floats) -> Floats:
        x = torch.from_numpy(block)[None] if flat else torch.from_numpy(block)[None, None]  # (1, 1, [z,] y, x)
        with torch.inference_mode():
            y: torch.Tensor = module(x)  # (1, 1, [z,] y, x)
        made: Floats = (y[0] if flat else y[0, 0]).numpy()  # (z, y, x)
        return made

    call.__name__ = type(module).__name__
    return call


def _place(spec: str) -> tuple[Path, str, Reach]:
    """Return file, function and reach of a name that `function_name` gave."""
    place, _, options = spec.partition(":")[2].partition(";")
    path, _, name = place.rpartition(":")
    return Path(path), name, _read_reach(dict(option.partition("=")[::2] for option in options.split(";")))


def _read_reach(options: dict[str, str]) -> Reach:
    unknown = sorted(set(options) - {"halo", "scale"})
    halo, scale = (_triple(options.get(name, default)) for name, default in (("halo", "0,0,0"), ("scale", "1,1,1")))
    if unknown or halo is None or scale is None or max(halo) > FARTHEST or not 1 <= min(scale) <= max(scale) <= LARGEST_SCALE:
        raise ConfigError(
            "config.option",
            f"a function of your own takes no {', '.join(unknown) or options}",
            hint=f"halo: three numbers, 0 to {FARTHEST}; scale: three numbers, 1 to {LARGEST_SCALE}; such as --set halo=0,2,2",
        )
    return Reach(halo, scale)


def _triple(text: str) -> Triple | None:
    try:
        z, y, x = (int(part) for part in parse_numbers(text))  # type: ignore[attr-defined]  # of a text it makes a list
    except ValueError:
        return None
    return None if min(z, y, x) < 0 else (z, y, x)


def _joined(numbers: Triple) -> str:
    return ",".join(map(str, numbers))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            "model.unknown", f"{path} cannot be read: {error.strerror}", hint="write FILE.py:FUNCTION", where=str(path)
        ) from error


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


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
    loader = _Text(path, text)
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        loader.exec_module(module)
    except Exception as error:
        raise ModelError(
            "model.broken", f"{path} raised {type(error).__name__}: {error}", hint="mend it, and try again", where=str(path)
        ) from error
    return module
