"""The functions that users call to compute: `plan`, `run`, `enhance`, `apply`, with options by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from volumetool.configuration import explain, with_options
from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.geometry import Triple
from volumetool.jobs.arrays import enhance_array
from volumetool.jobs.clusters import plan
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.run import RunResult
from volumetool.jobs.run import run as run_plan
from volumetool.paths import AnyPlace
from volumetool.processing.device.malloc import keep_freed_memory
from volumetool.processing.operation import entry_name, operation_name
from volumetool.processing.operations.chain import ARROW, Entry, listed
from volumetool.processing.operations.function import FunctionOptions, hand_over

__all__ = ["apply", "enhance", "plan", "run"]


@overload
def enhance(input: NDArray[Any], *, observer: Observer = ignore, **options: Any) -> NDArray[Any]: ...


@overload
def enhance(
    input: AnyPlace,
    output: str | os.PathLike[str],
    *,
    observer: Observer = ignore,
    **options: Any,
) -> RunResult: ...


@with_options(Job)
def enhance(
    input: AnyPlace | NDArray[Any],  # noqa: A002  (the user's word)
    output: str | os.PathLike[str] | None = None,
    *,
    observer: Observer = ignore,
    **options: Any,
) -> RunResult | NDArray[Any]:
    """Enhance a volume; calling it again goes on where it stopped.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs of the volume to read and of the one to write. Or, without an output, a small array of NumPy with axes
        z, y, x (c in front, or y, x alone) and ``voxel_size``.
    observer : Observer, optional
        Told what happens, as by :func:`run`; ``observer=print`` prints it.
    **options
        Any field of :class:`volumetool.Job`, such as ``model="em-x4"`` or ``roi="0:64,:,:"``.

    Returns
    -------
    Outcome
        What is done by now; ``outcome.complete`` says whether all of it is. Of an array: an array of the voxels that the same
        job writes of a volume.

    Raises
    ------
    VolumetoolError
        With a stable ``code``; see :mod:`volumetool.errors`.
    """
    if isinstance(input, np.ndarray):
        if output is not None:
            raise ConfigError(
                "config.option",
                f"output = {output!r}, but the input is an array, of which an array is made",
                hint="leave the output away; or save the array, numpy.save('raw.npy', array), and give that file as the input",
            )
        return enhance_array(input, run, observer, options)
    if output is None:
        raise ConfigError("config.option", "output is missing", hint="vt.enhance('raw.zarr', 'out.zarr'); an array needs none")
    return run(make_job(input=input, output=output, **options), observer)


@with_options(Job, "model", observer=ignore)
def apply(
    operation: Any,
    input: AnyPlace | NDArray[Any],  # noqa: A002  (the user's word)
    output: str | os.PathLike[str] | None = None,
    *,
    halo: Triple = (0, 0, 0),
    scale: tuple[float, float, float] = (1, 1, 1),
    channels: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Apply an operation to a volume; calling it again goes on where it stopped.

    Parameters
    ----------
    operation : str, callable, torch.nn.Module or list
        A built-in operation with its options, such as ``"median:radius=0,1,1"``, or a model; or your own function, which gets
        float32 blocks (z, y, x) of grey values and returns blocks of the same shape, times `scale`; or a network, which gets
        (1, 1, z, y, x), or (1, 1, y, x) where the halo is 0 along z. A function runs in this process, with ``workers=1``.
        A list of these is a chain: one job, without volumes between its operations. So is the path of a YAML file. An entry
        with options is a mapping: ``{"median": {"radius": (0, 1, 1)}}``, ``{my_function: {"halo": (0, 1, 1)}}``.
    input, output
        As for :func:`enhance`.
    halo : tuple of int
        Of a function alone: voxels on each side that an output voxel depends on, along z, y, x.
    scale : tuple of int
        Of a function alone: output voxels per input voxel; (1, 1/2, 1/2) makes one of 2 by 2.
    channels : sequence of str
        Of a function alone: names of the channels that it returns, which come first: (channels, z, y, x). The output gets a c
        axis, and float32 unless `dtype` says another type.
    **options
        As for :func:`enhance`, ``observer`` too.

    Returns
    -------
    Outcome or numpy.ndarray
        As :func:`enhance`.

    Raises
    ------
    VolumetoolError
        With a stable ``code``; see :mod:`volumetool.errors`.

    Examples
    --------
    >>> vt.apply("clahe:clip=3", "raw.zarr", "even.zarr")  # doctest: +SKIP
    >>> vt.apply(lambda block: 255 - block, "raw.zarr", "turned.zarr")  # doctest: +SKIP
    >>> vt.apply(["destripe", "em-denoise", "em-x4"], "raw.zarr", "fine.zarr")  # doctest: +SKIP
    """
    name, own = _named(operation, FunctionOptions.read(halo, scale, channels))
    places: Any = (input, output)
    return enhance(*places, model=name, **own | options)


def _named(operation: Any, asked: FunctionOptions) -> tuple[str, dict[str, Any]]:
    """Return the name of an operation, and the options that a job with it has: what is handed over stays in this process."""
    if callable(operation):
        return hand_over(operation, asked), {"workers": 1}
    if asked != FunctionOptions():
        raise ConfigError(
            "config.option",
            f"{asked.text}, but {operation!r} is no function",
            hint="options of an operation stand in its name, FILE.py:FUNCTION;halo=0,1,1, or in a chain beside it, "
            "{function: {'halo': (0, 1, 1)}}",
        )
    if isinstance(operation, list | tuple):
        entries = list(listed(operation))
        name = ARROW.join(map(_entry_name, entries))
        return name, {"workers": 1} if any(callable(entry.operation) for entry in entries) else {}
    if isinstance(operation, str | os.PathLike):
        return operation_name(os.fspath(operation)), {}
    raise ConfigError(
        "config.option",
        f"{operation!r} is no operation",
        hint="give a name, a file, a function, a torch.nn.Module, or a list of them",
    )


def _entry_name(entry: Entry) -> str:
    if not callable(entry.operation):
        return entry_name(entry)
    try:
        return hand_over(entry.operation, FunctionOptions(**entry.options))
    except ValidationError as error:
        raise ConfigError(
            "config.chain",
            f"{entry.where}: {explain(error, FunctionOptions)}",
            hint="halo and scale are three numbers each, along z, y, x; channels are names",
        ) from error


def run(job: Job | Plan, observer: Observer = ignore) -> RunResult:
    """Run a job or a plan.

    Parameters
    ----------
    job : Job or Plan
        A plan is run as it is. What its job has done already is kept.
    observer : Observer, optional
        Told what happens, by the events of :mod:`volumetool.events`: `Waiting` for another run to give the output up,
        `RunStarted`, `RegionEnded` for each region, and `Progressed` for statistics and coarse levels.
    """
    keep_freed_memory()  # before planning: what it frees would lie in heaps that the workers' figure does not know
    return run_plan(job if isinstance(job, Plan) else plan(job, observer), observer)
