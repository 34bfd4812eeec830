"""Whether a package of the BioImage Model Zoo makes here, of its own test tensor, what it says that it makes."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.errors import ModelError
from volumetool.geometry.levels import plan_levels
from volumetool.jobs.api import enhance
from volumetool.models.foreign.bioimageio import BioImageProgram
from volumetool.models.foreign.program import open_program
from volumetool.processing.operation import operation_name, trust_operation
from volumetool.processing.operations.foreign import ForeignOperation, foreign_file
from volumetool.processing.spec import Numerics
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.open import open_volume

TOLERANCE = 1e-3
"""Relative and absolute difference that the specification allows."""

ALONE = Numerics("float32", 1, pad=False)
VOXEL_SIZE = (30.0, 8.0, 8.0)
"""Nanometres; a tensor has none."""


@dataclass(frozen=True)
class ModelCheck:
    """How a package's network, in this engine, differs from its test tensor.

    Parameters
    ----------
    model : str
        Its name.
    ok : bool
        Every difference, apart from those at faces, is at most a thousandth, and a thousandth of the value.
    one_pass : float
        Largest difference of the network on the whole tensor at once.
    inside : float
        Largest difference of a job on that tensor as a volume, farther from its faces than the network looks; NaN where it
        looks farther than the tensor reaches.
    faces : float
        Largest difference of that job anywhere: it mirrors the volume at its faces, where the network may see zeros.
    """

    model: str
    ok: bool
    one_pass: float
    inside: float
    faces: float


def check_model(model: str | os.PathLike[str], *, trust: bool = False) -> ModelCheck:
    """Run a package of the BioImage Model Zoo on its own test tensor: at once, and as a job on a volume.

    Parameters
    ----------
    model : str or path
        Name of an imported model or a package, with options or without (``NAME;restore=yes``).
    trust : bool
        Load a TorchScript program, which is code.

    Raises
    ------
    ModelError
        ``model.no-test``: it has no test tensors; others as for running it.
    """
    spec = operation_name(os.fspath(model))
    if trust:
        trust_operation(spec)
    file = foreign_file(spec)
    program = None if file is None else open_program(file)
    tensors = program.test_tensors(file) if file is not None and isinstance(program, BioImageProgram) else None
    if tensors is None:
        raise ModelError(
            "model.no-test",
            f"{os.fspath(model)} has no test tensors",
            hint="packages of the BioImage Model Zoo have them: volumetool model import PACKAGE",
        )
    given, wanted = tensors  # (1, c, [z,] y, x)
    operation = ForeignOperation(spec)
    card, kept = operation.card, operation.kept
    volume = given[0, 0] if card.dims == 3 else given[0]  # (z, y, x): channels of 2D are sections
    volume = volume.astype(np.float32) if volume.dtype.name not in ("uint8", "uint16", "int8", "int16") else volume
    with tempfile.TemporaryDirectory() as folder:
        made, zero, span = _as_a_job(volume, spec, Path(folder))
    scaled = torch.from_numpy((volume - zero) / span)
    with torch.inference_mode():
        at_once = operation.open(torch.device("cpu"), ALONE).compute(scaled[None, None] if card.dims == 3 else scaled[None])
    middle = card.z_context * card.scale[0]
    made = made if card.dims == 3 else made[..., middle, :, :]  # ([c,] [z,] y, x)
    expected = wanted[0, kept].astype(np.float64)
    edge = tuple(far * scale for far, scale in zip(card.receptive_field, card.scale, strict=True))[3 - card.dims :]
    inner: tuple[Any, ...] = (
        ...,
        *(slice(far, size - far) for far, size in zip(edge, expected.shape[-card.dims :], strict=True)),
    )
    once, job = (np.abs(each.astype(np.float64) - expected) for each in (at_once[0, kept].numpy(), made))
    allowed = TOLERANCE * (1 + np.abs(expected))
    ok = bool((once <= allowed).all() and (job[inner] <= allowed[inner]).all())
    inside = float(job[inner].max()) if job[inner].size else math.nan
    return ModelCheck(card.name, ok, float(once.max()), inside, float(job.max()))


def _as_a_job(volume: NDArray[Any], spec: str, folder: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the output of a job, ([c,] z, y, x), and what normalised each section, (z, 1, 1) twice."""
    layout = VolumeLayout(volume.dtype.name, plan_levels(volume.shape, VOXEL_SIZE, (0.0, 0.0, 0.0), (1, 64, 64))[:1])
    create_volume(str(folder / "in.zarr"), layout, {})
    open_for_writing(str(folder / "in.zarr"), layout, 0)[...].write(volume).result()
    done = enhance(
        folder / "in.zarr", folder / "out.zarr", model=spec, dtype="float32", workers=1, device="cpu", force_voxel_size=True
    )
    zero, span = (part[:, None, None] for part in done.plan.spec.input_scale(0))
    output = open_volume(str(folder / "out.zarr"))
    channels = [np.asarray(output.open(0, number).read().result()) for number in range(output.channels or 1)]
    return np.stack(channels) if output.channels else channels[0], zero, span
