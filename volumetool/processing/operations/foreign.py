"""The operation that is a network of other software: how it is cut follows from what was measured on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from volumetool.configuration import cache_folder, models_folder, parse_numbers
from volumetool.errors import ConfigError, ModelError, OutputError
from volumetool.geometry import Triple
from volumetool.models import Normalisation, OperationCard
from volumetool.models.foreign.bioimageio import NO_STEP, BioImageProgram
from volumetool.models.foreign.measure import RULES, Measured, Seam, measure, measure_seam
from volumetool.models.foreign.processing_steps import Pointwise, UnknownStepError, after_network
from volumetool.models.foreign.program import ENDS, Forward, Program, open_program, unusable
from volumetool.models.foreign.resunet import ResUNetProgram
from volumetool.paths import absolute_path, make_folder, replace_file
from volumetool.processing.device.arrays import Array, as_array
from volumetool.processing.device.device_errors import kind_of
from volumetool.processing.operations.filter import Channels, read_options
from volumetool.processing.spec import Numerics

PATCH = {2: (1, 256, 256), 3: (64, 64, 64)}
"""Patch of a network that looks less far than a quarter of it, in voxels along z, y, x."""

LARGEST = {2: 512, 3: 128}
"""Longest side of a patch that is taken so that a network sees all it looks at; one that looks farther is blended."""

PATCHES_MAY_SHOW = "the network's output depends on the whole patch, which was accepted: patches may show"

NORMALISATIONS = {
    "none": Normalisation(kind="none"),
    "range": Normalisation(kind="range"),
    "percentiles": Normalisation(),
    "standard": Normalisation(kind="standard"),
}

TAKES = {
    "none": "grey values as they are",
    "range": "0 to 1 over the range of the data type",
    "percentiles": "0 to 1 between the percentiles {0.low:g} and {0.high:g} of a section",
    "standard": "values of mean 0 and standard deviation 1 in a section",
}

NAME = re.compile(r"[a-z0-9][a-z0-9.\-]*")
"""Names of imported models."""

Far = Annotated[int, Field(ge=0)]
Kept = TypeVar("Kept", bound=BaseModel)


class ForeignOptions(BaseModel):
    """What a user says of a network that its file does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    normalise: Literal["none", "range", "percentiles", "standard"] | None = None
    """Values that it takes: grey values as they are (none, unless its package says another), 0 to 1 over the range of an
    integer type (range; a ResUNet of PSSR2, unless another is said), 0 and 1 at the 1st and 99th percentile of the volume's
    sections (percentiles), or mean 0 and standard deviation 1 (standard)."""
    restore: bool | None = None
    """The output goes back to grey values the same way; no, as for packages: it is a mask, a probability or the like."""
    halo: Annotated[tuple[Far, Far, Far], BeforeValidator(parse_numbers)] | None = None
    """How far it looks, in voxels along z, y, x, instead of what was measured."""
    channel: int = Field(0, ge=0)
    """Channel of its output that is kept."""
    channels: Channels = ()
    """Names for all channels of its output, which are then kept, stored as they are in float32; ``mean:grey`` says of one that
    it goes back to grey values, ``error:difference`` that it is a difference of such."""
    accept_whole_tile: bool = False
    """Run a network whose output depends on the whole patch: patches may show."""


def imported_file(name: str) -> Path | None:
    """Return the file of an imported model, in the folder of models; None where there is none of that name."""
    files = (models_folder() / f"{name}{end}" for end in ENDS)
    return next((file for file in files if NAME.fullmatch(name) and file.is_file()), None)


def foreign_file(spec: str) -> Path | None:
    """Return the file of a name ``FILE;OPTION=VALUE;...`` of a network of other software; None for other names.

    FILE may also be the name of an imported model.
    """
    file = spec.partition(";")[0]
    path = absolute_path(file)
    if file.lower().endswith(ENDS):
        return path if path.is_file() else None
    return imported_file(file)


class ForeignOperation:
    """A network of other software as an operation on patches.

    Parameters
    ----------
    spec : str
        ``FILE;OPTION=VALUE;...`` with the options of `ForeignOptions`.

    Raises
    ------
    ModelError
        ``model.broken``, ``model.unreadable``, ``model.geometry``, ``model.slow``; ``model.whole-tile``: its output depends on
        the whole patch, and that was not accepted.
    ConfigError
        ``config.option``.
    """

    def __init__(self, spec: str) -> None:
        file, _, text = spec.partition(";")
        path = (foreign_file(file) or absolute_path(file)).resolve()
        if ";" in str(path):
            raise ModelError("model.unknown", f"{path} has a semicolon", hint="call the file and its folders otherwise")
        self._options = read_options(path.name, ForeignOptions, text)
        self._program = open_program(path)
        self._around = _Around(path, self._program, self._options)
        halo = self._options.halo
        name = self._program.sha256 if halo is None else f"{self._program.sha256}-{'-'.join(map(str, halo))}"
        measured = _recall(name, Measured, lambda: measure(self._program, halo))
        if any(measured.whole) and not self._options.accept_whole_tile:
            raise _whole_tile(path, self._program, measured)
        if self._options.channel >= measured.channels:
            raise ModelError(
                "model.geometry",
                f"{path} gives {measured.channels} channels, so there is no channel {self._options.channel}",
                hint="channels count from 0: --set channel=0",
            )
        if self._options.channels and len(self._options.channels) != measured.channels:
            raise ModelError(
                "model.geometry",
                f"{path} gives {measured.channels} channels, but {len(self._options.channels)} are named",
                hint="name all of them, in order: --set channels=NAME,NAME; or keep one: --set channel=0",
            )
        self.spec = ";".join([str(path), *filter(None, [text])])
        card = _card(path, measured, self._options, self._around)
        options = self._options.model_dump(mode="json", exclude=None if self._options.channels else {"channels"})
        facts = {"file": self._program.sha256, "options": options, "card": card.model_dump(mode="json")}
        self.identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self._seam = seam = _recall(self.identity, Seam, lambda: measure_seam(self._program, card))
        self.card = card.model_copy(update={"about": _about(self._program, measured, card, seam)})

    def open(self, device: torch.device, _: Numerics) -> ForeignFunction:
        """Return the network on a device; it computes in float32 whatever the numerics."""
        return ForeignFunction(self._program.open(device), device, self.card, self.kept, self._around)

    @property
    def kept(self) -> int | slice:
        """The channel of its output that is kept, or all of them."""
        return slice(None) if self.card.channels else self._options.channel

    def working_bytes(self, patch: Triple, _: str) -> int:
        """Return the bytes of the weights and of the features of one patch, by what patches took that were computed."""
        return self._program.weight_bytes + math.ceil(self._seam.bytes_per_voxel * math.prod(patch))


class _Around:
    """What stands around a network: steps of its package, and how its values come and go.

    Attributes
    ----------
    normalisation : Normalisation
        How grey values become its values.
    restores : bool
        Its output goes back to grey values.
    before, after : list of callable
        Steps on its input and its output.
    least : tuple of int
        Least patch, in voxels along z, y, x.
    """

    def __init__(self, path: Path, program: Program, options: ForeignOptions) -> None:
        usual = "range" if isinstance(program, ResUNetProgram) else "none"
        self.normalisation = NORMALISATIONS[options.normalise or usual]
        self.restores, self.least = options.restore is not False, (1, 1, 1)
        self.before: list[Pointwise] = []
        self.after: list[Pointwise] = []
        if not isinstance(program, BioImageProgram):
            return
        if options.normalise is not None:
            raise ConfigError(
                "config.option",
                f"{path.name} is a package, which says itself which values its network takes, so it takes no normalise",
                hint="leave normalise out; or run the ONNX file of the package alone",
            )
        declared = program.declared
        self.normalisation, self.before, self.least = declared.normalisation, declared.before, declared.least
        self.restores = options.restore is True
        try:
            self.after = after_network(declared.after, program.layouts[0][0] - 2, restored=self.restores)
        except UnknownStepError as error:
            raise unusable(path, f"its step {error}", NO_STEP) from error


class ForeignFunction:
    """A network of other software on its device.

    Parameters
    ----------
    forward : callable
        The network.
    device : torch.device
        Where it computes.
    card : OperationCard
        Card of the operation.
    kept : int or slice
        Channel of its output that is kept, or all of them.
    around : _Around
        Steps before and after it.
    """

    def __init__(self, forward: Forward, device: torch.device, card: OperationCard, kept: int | slice, around: _Around) -> None:
        self._forward, self._device, self._card, self._kept, self._around = forward, device, card, kept, around

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return outputs, float32 (n, [c,] z, y, x). Each patch is a call of its own: a network may mix images of a batch."""
        outputs = []
        with torch.inference_mode():
            for patch in patches:
                x = torch.from_numpy(patch).to(self._device)  # (depth, y, x): sections are channels in 2D
                x = x[None, None] if self._card.dims == 3 else x[None]  # (1, c, [z,] y, x)
                y = self.compute(x)[0, self._kept]  # ([c,] [z,] y, x)
                outputs.append(y if self._card.dims == 3 else y.unsqueeze(-3))  # ([c,] z, y, x)
            return as_array(torch.stack(outputs).float().contiguous())

    def compute(self, x: Tensor) -> Tensor:
        """Return the whole output for a patch of shape (1, c, [z,] y, x), with the steps before and after the network.

        Raises
        ------
        ModelError
            ``model.failed``: the network ended with an error, though it takes other images.
        """
        for step in self._around.before:
            x = step(x)
        try:
            y = self._forward(x)
        except ModelError:
            raise
        except Exception as error:
            if kind_of(error) != "other":  # the engine takes smaller batches, or the job starts again elsewhere
                raise
            sizes, why = " x ".join(map(str, x.shape[2:])), str(error).strip().partition("\n")[0][:300]
            raise ModelError(
                "model.failed",
                f"the network {self._card.name} failed on a patch of {sizes} voxels: {type(error).__name__}: {why}",
                hint="another patch may do (--patch Z,Y,X); else run the network on such an image where it was made",
            ) from error
        for step in self._around.after:
            y = step(y)
        return y

    def release(self) -> None:
        """Do nothing: no memory is held between calls."""


def _recall(name: str, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
    """Return what was found out about a network, from the cache folder or anew.

    It decides bytes: a worker that finds something else has another identity, and is refused.
    """
    cache = cache_folder() / "networks" / f"{name}-{RULES}.json"
    try:
        return kind.model_validate_json(cache.read_bytes())
    except (OSError, ValidationError):
        made = make()
    with contextlib.suppress(OutputError):  # found out again the next time: slower, not wrong
        make_folder(cache.parent)
        replace_file(cache, made.model_dump_json().encode())
    return made


def _card(path: Path, measured: Measured, options: ForeignOptions, around: _Around) -> OperationCard:
    """Return the card that follows from what was measured: an exact cut where that is affordable, else blended patches."""
    dims, grain = measured.dims, measured.granularity
    field = options.halo or measured.receptive_field
    flat = 3 - dims
    patch, overlap, trim = [1, 1, 1], [0, 0, 0], [0, 0, 0]
    most = [-(-LARGEST[dims] // g) * g for g in grain]
    exact = all(4 * _up(far, g) <= m for far, g, m in list(zip(field, grain, most, strict=True))[flat:]) and not (
        any(measured.whole) and options.halo is None
    )
    for axis in range(flat, 3):
        g = grain[axis]
        margin = _up(field[axis], g)
        if exact:
            least = _up(max(PATCH[dims][axis], around.least[axis]), g)
            patch[axis], overlap[axis], trim[axis] = max(least, 4 * margin), 2 * margin, margin
        else:
            overlap[axis] = _up(most[axis] // 4, g)
            most[axis] = max(most[axis], 2 * overlap[axis], _up(around.least[axis], g))
            patch[axis], trim[axis] = most[axis], overlap[axis] // 4
    return OperationCard(
        name=_name(path),
        dims=dims,
        scale=measured.scale,
        z_context=measured.z_context,
        patch=(patch[0], patch[1], patch[2]),
        overlap=(overlap[0], overlap[1], overlap[2]),
        trim=(trim[0], trim[1], trim[2]),
        granularity=grain,
        receptive_field=field,
        normalisation=around.normalisation,
        restores=around.restores,
        channels=options.channels,
        spares=around.restores and not options.channels,
        caution=PATCHES_MAY_SHOW if any(measured.whole) else "",
    )


def _up(length: int, grain: int) -> int:
    return -(-length // grain) * grain


def _name(path: Path) -> str:
    """Return the name of a file as cards write names."""
    return re.sub(r"[^a-z0-9.\-]", "-", path.stem.lower()).strip(".-") or "network"


def _about(program: Program, measured: Measured, card: OperationCard, seam: Seam) -> str:
    """Return what the network is and how it is cut, in words."""
    seen = ["everything" if whole else str(far) for whole, far in zip(measured.whole, measured.receptive_field, strict=True)]
    how = "as --set halo says: to measure it took too long" if measured.said else "measured"
    looks = f"it looks {' x '.join(seen)} voxels far (z, y, x; {how})"
    if card.receptive_field != measured.receptive_field:
        looks += f", as --set halo says {' x '.join(map(str, card.receptive_field))}"
    cut = "patches are cut where all that it looks at is inside" if card.exact_cut else "patches are blended"
    values = TAKES[card.normalisation.kind].format(card.normalisation)
    return (
        f"{program.kind} in {measured.dims}D, {program.weight_bytes / 2**20:.1f} MiB, takes {values}; {looks}; {cut}; "
        f"seams differ from one pass by at most {seam.largest:.2g} of the output's range"
    )


def _whole_tile(path: Path, program: Program, measured: Measured) -> ModelError:
    axes = ", ".join(axis for axis, whole in zip("zyx", measured.whole, strict=True) if whole)
    return ModelError(
        "model.whole-tile",
        f"the {program.kind} {path} looks at the whole image along {axes}: its output changes with whatever is in the patch "
        "(instance norm, attention and global pooling do that), so that patches may show",
        hint="--set accept_whole_tile=yes runs it in large blended patches; with --set halo=Z,Y,X beside it, "
        "patches are cut as if it looked so far",
        where=str(path),
    )
