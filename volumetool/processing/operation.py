"""Operations: what is done to a patch. Planning, the engine and the pipeline know them by this protocol alone.

A network is one, a filter another. An operation knows nothing of volumes, chunks, regions or blending.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.errors import ConfigError, ModelError
from volumetool.geometry import PatchPlace, Triple
from volumetool.models import OperationCard, load_model
from volumetool.models.package import builtin_names, placed_model
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.chain import ARROW, Entry, is_chain, listed, read_chain
from volumetool.processing.spec import Numerics

if TYPE_CHECKING:
    from volumetool.processing.operations.filter import Filter


class PatchFunction(Protocol):
    """An operation that was opened on a device. It is called from several threads at once.

    It sees one channel of the volume at a time. Where its card names channels, its output has a channel axis in their order;
    an axis of length one where there is one. They are stored after each other: of a volume of two channels, an operation of
    three makes six, the first three of the first.
    """

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return the outputs of a batch.

        Parameters
        ----------
        patches : numpy.ndarray of float32, shape (n, depth, y, x)
            Normalised input of one channel. Depth is sections, in 2D with the z context of one section. Where the card says
            two inputs, (n, 2, depth, y, x): the second volume's voxels come as they are.

        Returns
        -------
        array of float32, shape (n, z, y, x), or (n, channels, z, y, x) where the card names channels
            On the device. An output depends on its own patch alone.
        """

    def release(self) -> None:
        """Free the memory that is not needed between two calls."""


@runtime_checkable
class PlacedFunction(PatchFunction, Protocol):
    """One whose output depends on where a patch lies, too. Called without, it takes each patch for a volume of its own."""

    def at(self, patches: NDArray[np.float32], places: Sequence[PatchPlace]) -> Array:
        """Return the outputs of a batch of patches, of which each has its place; shapes are as those of a call."""


class Operation(Protocol):
    """What is done to a patch."""

    @property
    def spec(self) -> str:
        """The name by which :func:`open_operation` finds it again, in any process."""

    @property
    def card(self) -> OperationCard:
        """Scale, patch, overlap, trim, granularity, receptive field, normalisation, channels."""

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides its output; part of a job's fingerprint."""

    def open(self, device: torch.device, numerics: Numerics) -> PatchFunction:
        """Return the function that computes it on a device."""

    def working_bytes(self, patch: Triple, precision: str) -> int:
        """Return the bytes of memory that computing one patch takes, beside its input and output."""


def _function(spec: str) -> Operation:
    from volumetool.processing.operations.function import open_function

    return open_function(spec)


def _handed(spec: str) -> Operation:
    from volumetool.processing.operations.function import open_handed

    return open_handed(spec)


OPERATIONS: dict[str, Callable[[str], Operation]] = {"python": _function, "handed": _handed}
"""Openers of operations other than networks and filters, by what stands before the colon of a name. Code alone adds one."""


def filters() -> dict[str, type[Filter]]:
    """Return the built-in filters by their names."""
    from volumetool.processing.operations import blocks, contrast, crappify, match, smoothing

    kinds: tuple[type[Filter], ...] = (
        smoothing.GaussianFilter,
        smoothing.Median,
        smoothing.NonLocalMeans,
        smoothing.Unsharp,
        smoothing.Destripe,
        contrast.Clahe,
        contrast.Equalise,
        match.Match,
        contrast.Rescale,
        contrast.Threshold,
        contrast.Tissue,
        contrast.CastValues,
        blocks.Bin,
        blocks.Project,
        crappify.Crappify,
    )
    return {kind.kind: kind for kind in kinds}


def operation_name(operation: str, options: Sequence[str] = ()) -> str:
    """Return the name of an operation with its options, or of a chain.

    Parameters
    ----------
    operation : str
        A name of `filters` or the file of a network of other software, with options or without, ``FILE.py:FUNCTION``, or what
        :func:`volumetool.models.load_model` takes; several of them with ``->`` between them, or the YAML file of a chain.
    options : sequence of str
        Texts ``NAME=VALUE``.

    Raises
    ------
    ConfigError
        ``config.option``: an option that the operation does not have or a value that it does not take.
    """
    from volumetool.models.foreign.program import ENDS
    from volumetool.processing.operations.filter import read_options
    from volumetool.processing.operations.foreign import foreign_file
    from volumetool.processing.operations.network import NetworkOptions, split_name

    if is_chain(operation) or ARROW in operation:
        entries = list(read_chain(operation) if is_chain(operation) else listed([operation]))
        if options:
            raise ConfigError(
                "config.option",
                f"{operation} is a chain, so it takes no option {options[0]}",
                hint="write it beside its operation: `- median: {radius: [0, 1, 1]}` in the file, or `median:radius=0,1,1`",
            )
        return ARROW.join(map(entry_name, entries))
    kind, _, own = operation.partition(":")
    if operation.partition(";")[0].rpartition(":")[0].endswith(".py"):
        from volumetool.processing.operations.function import function_name

        return function_name(operation, ";".join(options))
    if (found := filters().get(kind)) is not None:
        return found.read(f"{kind}:{';'.join([own, *options])}").spec
    if options and foreign_file(operation) is not None:
        return ";".join([operation, *options])
    model, said = split_name(operation)
    if (said or options) and (model in builtin_names() or Path(model).suffix == ".safetensors"):
        return model + read_options(model, NetworkOptions, ";".join([said, *options])).said
    if options and Path(operation).suffix.lower() in ENDS:
        raise ModelError("model.unknown", f"there is no file {operation}", hint="check the spelling", where=operation)
    if options:
        raise ConfigError(
            "config.option",
            f"{operation} is no built-in operation, so it takes no option {options[0]}",
            hint=f"operations with options: {', '.join(filters())}; see `volumetool apply --list`",
        )
    return operation


def entry_name(entry: Entry) -> str:
    """Return the name of an operation of a chain.

    Raises
    ------
    ConfigError
        ``config.chain``: says which entry is wrong, and why.
    """
    try:
        return operation_name(entry.operation, entry.texts)
    except (ConfigError, ModelError) as error:
        if error.code == "config.chain":
            raise
        raise ConfigError("config.chain", f"{entry.where}: {error.message}", hint=error.hint) from error


def trust_operation(spec: str) -> None:
    """Let the code of an operation, or of a chain, run as it is now, in this process and in those that it starts.

    Raises
    ------
    ConfigError
        ``config.option``: the operation is no code, and needs no trust.
    ModelError
        ``model.unknown``, ``model.broken``: its file cannot be read.
    """
    from volumetool.models.foreign.program import PACKAGE, trust_program
    from volumetool.models.foreign.trust import is_code
    from volumetool.processing.operations.foreign import foreign_file
    from volumetool.processing.operations.function import trust_function

    code = False
    for each in spec.split(ARROW):
        file = foreign_file(each)
        if each.startswith("python:"):
            trust_function(each)
        elif file is not None and (is_code(file) or file.suffix.lower() == PACKAGE):
            trust_program(file)
        else:
            continue
        code = True
    if not code:
        raise ConfigError("config.option", f"--trust, but {spec} runs no code of a file", hint="leave --trust out")


def open_operation(spec: str) -> Operation:
    """Open an operation by its name.

    Parameters
    ----------
    spec : str
        ``KIND:OPTION=VALUE;...`` with a name of `filters` or `OPERATIONS`, or ``MODEL;OPTION=VALUE;...`` with the file of a
        network of other software or what :func:`volumetool.models.load_model` takes.

    Raises
    ------
    ModelError
        As :func:`volumetool.models.load_model`.
    ConfigError
        ``config.option``: the options are not those of this kind.
    """
    from volumetool.processing.operations.filter import FilterOperation, read_options
    from volumetool.processing.operations.foreign import ForeignOperation, foreign_file
    from volumetool.processing.operations.network import NetworkOperation, NetworkOptions, split_name

    kind = spec.partition(":")[0]
    if kind in OPERATIONS:
        return OPERATIONS[kind](spec)
    if foreign_file(spec) is not None:
        return ForeignOperation(spec)
    found = filters().get(kind)
    if found is not None:
        return FilterOperation(found.read(spec))
    model, said = split_name(spec)
    return NetworkOperation(load_model(model), read_options(model, NetworkOptions, said))


def with_trust(operation: Operation, *, spread: bool = False, means: Triple = (1, 1, 1), steps: bool = False) -> Operation:
    """Return a network of ours that makes the channels of a trust volume, too: all that it can say of its output.

    Parameters
    ----------
    operation : Operation
        A network of ours.
    spread : bool
        Also how far its outputs of the turned and mirrored patch spread, for which it runs 8 times.
    means : tuple of int
        Voxels of the output, z, y, x, that become one of that volume: as far as they divide the scale, these channels are
        their means.
    steps : bool
        Also the error expected of each voxel, by which the steps of stored voxels go.

    Raises
    ------
    ConfigError
        ``config.option``: the operation is no network of ours.
    """
    from volumetool.processing.operations.network import NetworkOperation, NetworkOptions

    if not isinstance(operation, NetworkOperation):
        raise ConfigError(
            "config.option",
            f"--trust, but {operation.card.name} is no network of volumetool's: nothing says what its output should be held to",
            hint="leave --trust out, or take one of `volumetool model list`",
        )
    known = operation.model.card.architecture.expected_error
    z, y, x = (math.gcd(n, times) for n, times in zip(means, operation.card.scale, strict=True))
    apart = steps and max(z, y, x) > 1
    asked = NetworkOptions(expected_error=known, spread=spread, consistency=True, block=(z, y, x), steps=apart)
    return NetworkOperation(operation.model, asked)


def with_steps(operation: Operation) -> Operation:
    """Return a network of ours that makes the error that it expects, too, by which the steps of stored voxels go.

    Raises
    ------
    ConfigError
        ``config.option``: the operation is no network of ours, expects no error, or makes several channels to store.
    """
    from volumetool.processing.operations.network import NetworkOperation, NetworkOptions

    known = isinstance(operation, NetworkOperation) and operation.model.card.architecture.expected_error
    if not isinstance(operation, NetworkOperation) or not known:
        raise ConfigError(
            "config.option",
            f"--store-error, but {operation.card.name} says no error that it expects, by which steps would go",
            hint="leave it out, or take a model whose `volumetool model show` says expected_error, such as em-x4",
        )
    if operation.card.channels:
        raise ConfigError(
            "config.option",
            f"--store-error, but {operation.spec} makes several channels, which are stored in float32 as they are",
            hint=f"take {operation.model.spec} without options, and --trust PLACE for the other channels",
        )
    return NetworkOperation(operation.model, NetworkOptions(expected_error=True))


def reopen_operation(spec: str, identity: str) -> Operation:
    """Open an operation again, and refuse it if it is no longer the one of that identity.

    Raises
    ------
    ModelError
        ``model.changed``; also as :func:`open_operation`.
    """
    operation = open_operation(spec)
    if operation.identity != identity:
        raise ModelError(
            "model.changed",
            f"{spec} holds the model {operation.identity[:12]}, wanted {identity[:12]}",
            hint="the file was replaced while it was in use; give each version a name of its own",
            where=spec,
        )
    return operation


def placed_operation(spec: str) -> str:
    """Return the name of the same operation in another directory: of a model file, its absolute path."""
    from volumetool.processing.operations.foreign import foreign_file
    from volumetool.processing.operations.network import split_name

    if (file := foreign_file(spec)) is not None:
        return ";".join([str(file.resolve()), *spec.split(";")[1:]])
    kind = spec.partition(":")[0]
    if kind in OPERATIONS or kind in filters():
        return spec
    model, said = split_name(spec)
    return placed_model(model) + said
