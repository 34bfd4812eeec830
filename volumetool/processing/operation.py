"""Operations: what is done to a patch. Planning, the engine and the pipeline know them by this protocol alone.

A network is one, a filter another. An operation knows nothing of volumes, chunks, regions or blending.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.errors import ModelError
from volumetool.geometry import Triple
from volumetool.models import OperationCard, load_model
from volumetool.models.package import placed_model
from volumetool.processing.device.arrays import Array
from volumetool.processing.spec import Numerics


class PatchFunction(Protocol):
    """An operation that was opened on a device. It is called from several threads at once."""

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return the outputs of a batch.

        Parameters
        ----------
        patches : numpy.ndarray of float32, shape (n, depth, y, x)
            Normalised input of one channel. Depth is sections, in 2D with the z context of one section.

        Returns
        -------
        array of float32, shape (n, z, y, x)
            On the device. An output depends on its own patch alone.
        """

    def release(self) -> None:
        """Free the memory that is not needed between two calls."""


class Operation(Protocol):
    """What is done to a patch."""

    @property
    def spec(self) -> str:
        """The name by which :func:`open_operation` finds it again, in any process."""

    @property
    def card(self) -> OperationCard:
        """Scale, patch, overlap, trim, granularity, receptive field, normalisation."""

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides its output; part of a job's fingerprint."""

    def open(self, device: torch.device, numerics: Numerics) -> PatchFunction:
        """Return the function that computes it on a device."""

    def working_bytes(self, patch: Triple, precision: str) -> int:
        """Return the bytes of memory that computing one patch takes, beside its input and output."""


def _gaussian(spec: str) -> Operation:
    from volumetool.processing.operations.gaussian import read_gaussian

    return read_gaussian(spec)


OPERATIONS: dict[str, Callable[[str], Operation]] = {"gaussian": _gaussian}
"""Openers by what stands before the colon of a name; any other name is a network's. Code alone adds one: no file, option or
variable does, so a job file names no code."""


def open_operation(spec: str) -> Operation:
    """Open an operation by its name.

    Parameters
    ----------
    spec : str
        ``KIND:OPTIONS`` with a kind of `OPERATIONS`, or what :func:`volumetool.models.load_model` takes.

    Raises
    ------
    ModelError
        As :func:`volumetool.models.load_model`.
    ConfigError
        ``config.option``: the options are not those of this kind.
    """
    from volumetool.processing.operations.network import NetworkOperation

    opener = OPERATIONS.get(spec.partition(":")[0])
    return NetworkOperation(load_model(spec)) if opener is None else opener(spec)


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
    return spec if spec.partition(":")[0] in OPERATIONS else placed_model(spec)
