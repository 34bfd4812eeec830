"""Filters: operations whose output voxel depends on the input voxels around it alone, not on where a patch begins.

Patches of a filter overlap by twice its reach and are cut in the middle, so every voxel comes from a patch that holds all that
it depends on: the output is that of the whole volume, whatever the patches are.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from volumetool.configuration import OutputChannel, explain
from volumetool.errors import ConfigError
from volumetool.geometry import PatchPlace, Triple
from volumetool.models.card import HistogramMatching, Normalisation, OperationCard
from volumetool.processing.device.arrays import Array, array_module
from volumetool.processing.spec import Numerics

TOGETHER = 2**18
"""Voxels that are filtered in one call: more leave the caches of a core, fewer take less time than to call."""

SIDE, FLAT_SIDE = 64, 256
"""Voxels of a patch along an axis, and of a single section along y and x, unless the filter reaches farther."""

GREY_VALUES = Normalisation(kind="none")
"""The filter gets the grey values as they are."""

DATA_WINDOW = Normalisation(kind="percentiles")
"""The filter gets values of which 0 and 1 are the 1st and the 99th percentile of the volume's sections."""

Read = TypeVar("Read", bound=BaseModel)


def _parse_channels(value: object) -> object:
    """Read ``NAME,NAME:VALUES,...`` or a sequence of such names; what is said of no values stays as it is."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return value
    parts = [name.partition(":") if isinstance(name, str) else name for name in names]
    return [{"name": part[0], "values": part[2] or "plain"} if isinstance(part, tuple) else part for part in parts]


def check_odd(size: int) -> int:
    """Return a number of voxels that has a middle; refuse another."""
    if size % 2 == 0:
        raise ValueError(f"{size} has no middle; take {size - 1} or {size + 1}")
    return size


Channels = Annotated[tuple[OutputChannel, ...], BeforeValidator(_parse_channels)]
"""Channels of an output as an option has them."""


def show_channels(channels: Sequence[OutputChannel]) -> str:
    """Return channels as the option has them."""
    return ",".join(f"{channel.name}:{channel.values}" for channel in channels)


class Filter(BaseModel):
    """A filter with its options, which are the fields of the subclass. Its docstring's first line is what a list shows.

    Attributes
    ----------
    kind : str
        Name of the operation.
    normalisation : Normalisation
        What the values are scaled to; `GREY_VALUES` or `DATA_WINDOW`.
    equalises : bool
        Sections get the volume's median contrast back instead of each its own.
    spares : bool
        A patch of one value stays as it is, see `OperationCard`.
    pointwise : bool
        Each voxel is computed for itself, see `OperationCard`.
    working_bytes : int
        Bytes of memory that it takes for each voxel of a patch; three copies, unless it says more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: ClassVar[str]
    normalisation: ClassVar[Normalisation] = GREY_VALUES
    equalises: ClassVar[bool] = False
    spares: ClassVar[bool] = True
    pointwise: ClassVar[bool] = False
    working_bytes: ClassVar[int] = 12

    @property
    @abstractmethod
    def reach(self) -> Triple:
        """Farthest input voxel, on one side, that an output voxel depends on, along z, y, x."""

    @property
    def reference(self) -> int:
        """Sections around each whose median contrast it gets, where sections are equalised; 0 for all."""
        return 0

    @property
    def matching(self) -> HistogramMatching | None:
        """What the histograms of sections are matched to, if they are."""
        return None

    @property
    def shrink(self) -> Triple:
        """Input voxels that become one, counted from the volume's origin; whole blocks alone."""
        return 1, 1, 1

    @property
    def granularity(self) -> Triple:
        """Voxels of a grid, counted from the volume's origin, on which the output depends; patches begin on it."""
        return self.shrink

    @abstractmethod
    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Filter patches.

        Parameters
        ----------
        patches : numpy.ndarray of float32, shape (n, z, y, x)
            Values as `normalisation` says; not to be changed.
        xp : module
            ``numpy`` or ``cupy``: whose array to return.

        Returns
        -------
        array of float32, shape (n, z, y, x), each axis divided by `shrink`
            Right where all voxels within `reach` are inside the patch; any value elsewhere.
        """

    def compute_at(self, patches: NDArray[np.float32], places: Sequence[PatchPlace], xp: ModuleType) -> Array:  # noqa: ARG002
        """Filter patches whose places in the volume are known; few filters ask.

        Parameters
        ----------
        patches : numpy.ndarray of float32, shape (n, z, y, x)
            As for `compute`.
        places : sequence of PatchPlace
            Where each of them lies.
        xp : module
            As for `compute`.
        """
        return self.compute(patches, xp)

    @property
    def facts(self) -> str:
        """All that decides its output, as a text: its options."""
        return self.spec

    @property
    def spec(self) -> str:
        """The name by which it is found again: ``KIND:OPTION=VALUE;...`` with all its options."""
        options = ";".join(f"{name}={_as_text(value)}" for name, value in self if value is not None)
        return f"{self.kind}:{options}"

    @classmethod
    def summary(cls) -> str:
        """Return what it does, in a line."""
        return inspect.getdoc(cls).partition("\n")[0]  # type: ignore[union-attr]  # each has one

    @classmethod
    def read(cls, spec: str) -> Self:
        """Return the filter of a name.

        Raises
        ------
        ConfigError
            ``config.option``: the name has an option that the filter lacks, or a value that it does not take.
        """
        return read_options(cls.kind, cls, spec.partition(":")[2])


class FilterOperation:
    """A filter as an operation on patches.

    Parameters
    ----------
    found : Filter
        The filter with its options.
    """

    def __init__(self, found: Filter) -> None:
        self.spec = found.spec
        self.identity = hashlib.sha256(found.facts.encode()).hexdigest()
        self._filter = found
        card = make_card(found.kind, Reach(found.reach, (1, 1, 1), found.shrink, found.granularity), found.normalisation)
        self.card = card.model_copy(
            update={
                "equalises": found.equalises,
                "reference": found.reference,
                "spares": found.spares and card.spares,
                "matching": found.matching,
                "pointwise": found.pointwise,
            }
        )

    def open(self, device: torch.device, _: Numerics) -> FilterFunction:
        """Make the filter ready; it computes in float32 whatever the numerics."""
        return FilterFunction(self._filter, array_module(device))

    def working_bytes(self, patch: Triple, _: str) -> int:
        """Return the bytes that the filter takes for a patch."""
        return self._filter.working_bytes * math.prod(patch)


class FilterFunction:
    """A filter on a device.

    Parameters
    ----------
    found : Filter
        The filter with its options.
    xp : module
        ``numpy`` or ``cupy``.
    """

    def __init__(self, found: Filter, xp: ModuleType) -> None:
        self._filter, self._xp = found, xp

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return filtered patches, float32 (n, z, y, x)."""
        return self._filter.compute(patches, self._xp)

    def at(self, patches: NDArray[np.float32], places: Sequence[PatchPlace]) -> Array:
        """Return filtered patches whose places are known, float32 (n, z, y, x)."""
        return self._filter.compute_at(patches, places, self._xp)

    def release(self) -> None:
        """Do nothing: no memory is held between calls."""


@dataclass(frozen=True)
class Reach:
    """What an output voxel depends on, and how many there are.

    Attributes
    ----------
    halo : tuple of int
        Farthest input voxel, on one side, along z, y, x.
    scale : tuple of int
        Output voxels per input voxel.
    shrink : tuple of int
        Input voxels per output voxel.
    grid : tuple of int
        Voxels of a grid, counted from the volume's origin, on which patches begin.
    """

    halo: Triple
    scale: Triple = (1, 1, 1)
    shrink: Triple = (1, 1, 1)
    grid: Triple = (1, 1, 1)


def make_card(name: str, reach: Reach, normalisation: Normalisation) -> OperationCard:
    """Return the card of an operation whose patches are cut, not blended: they share twice what it reaches.

    Parameters
    ----------
    name : str
        Name of the operation.
    reach : Reach
        What an output voxel depends on.
    normalisation : Normalisation
        What values are scaled to.
    """
    trim = _per_axis(lambda halo, grain: -(-halo // grain) * grain, reach.halo, reach.grid)
    flat = not reach.halo[0] and reach.shrink[0] == 1
    side = FLAT_SIDE if flat and max(reach.scale) == 1 else SIDE
    patch = _per_axis(lambda cut, grain: max(-(-side // grain) * grain, 4 * cut), trim, reach.grid)  # at most two may meet
    patch = (1, *patch[1:]) if flat else patch
    return OperationCard(
        name=name,
        dims=2 if flat else 3,
        scale=reach.scale,
        patch=patch,
        overlap=_per_axis(lambda cut, _: 2 * cut, trim, reach.grid),
        trim=trim,
        granularity=reach.grid,
        receptive_field=reach.halo,
        normalisation=normalisation,
        shrink=reach.shrink,
        spares=max(reach.shrink) == 1,
        together=max(1, TOGETHER // math.prod(patch)),
    )


def _per_axis(function: Callable[[int, int], int], first: Triple, second: Triple) -> Triple:
    z, y, x = (function(a, b) for a, b in zip(first, second, strict=True))
    return z, y, x


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return ",".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def read_options(name: str, kind: type[Read], text: str) -> Read:
    """Return the options of an operation that a text ``OPTION=VALUE;...`` gives.

    Parameters
    ----------
    name : str
        What the operation is called in messages.
    kind : type
        What declares the options.
    text : str
        The options that are given.

    Raises
    ------
    ConfigError
        ``config.option``: there is no such option, or it does not take that value.
    """
    options: dict[str, Any] = {}
    for part in filter(None, text.split(";")):
        option, _, value = part.partition("=")
        options[option.strip()] = value.strip()
    try:
        return kind(**options)
    except ValidationError as error:
        names = ", ".join(kind.model_fields) or "none"
        raise ConfigError(
            "config.option",
            f"{name}: {explain(error, kind)}",
            hint=f"its options: {names}; see `volumetool apply --list`",
        ) from error
