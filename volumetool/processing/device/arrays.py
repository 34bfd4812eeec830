"""The device that the network runs on, and arrays that live there.

The array work around the network is written once, against the functions that NumPy and CuPy share. This is the one module
that imports CuPy.
"""

from __future__ import annotations

import os
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ResourceError
from volumetool.processing.device.gpus import pin_gpus, why_none_is_given

if TYPE_CHECKING:
    import torch  # takes more than a second: functions import it, as commands that do not compute import this module, too

Array = Any
"""A NumPy array on the CPU or a CuPy array on the GPU; both have the operations used here."""

DeviceName = Literal["auto", "cpu", "cuda"]


def resolve_device(name: DeviceName) -> torch.device:
    """Return the torch device for a name; ``auto`` takes the GPU where there is one.

    Raises
    ------
    ResourceError
        ``resource.no-gpu`` where ``cuda`` was asked for and no usable GPU is there.
    """
    import torch

    missing = None if name == "cpu" else why_no_gpu()
    if name == "cuda" and missing is not None:
        raise ResourceError(
            "resource.no-gpu",
            f"--device cuda was asked for, but there is no usable NVIDIA GPU: {missing}",
            hint="check `nvidia-smi` and that torch was installed with CUDA, or run with --device cpu",
        )
    return torch.device("cpu" if name == "cpu" or missing is not None else "cuda")


def why_no_gpu() -> str | None:
    """Return why torch can use no GPU of this machine, None where it can."""
    import torch

    pin_gpus()  # before torch looks, which does so once
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    reason = str(said[0].message) if said else _refusal()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = reason.partition("\n")[0] + ("" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})")
    return told if (given := why_none_is_given()) is None else f"{told}; {given}"


def _refusal() -> str:
    """Return what torch says when it is made to begin with GPUs."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return "torch sees none"


def array_module(device: torch.device) -> ModuleType:
    """Return ``numpy`` for the CPU and ``cupy`` for a GPU.

    Raises
    ------
    ResourceError
        ``resource.no-cupy`` where CuPy is not installed.
    """
    if device.type == "cpu":
        return np
    try:
        import cupy
    except ImportError as error:
        raise ResourceError(
            "resource.no-cupy",
            "the GPU path needs CuPy, which is not installed",
            hint="pip install 'volumetool[cuda12]' or [cuda13]",
        ) from error
    module: ModuleType = cupy
    return module


def module_of(array: Array) -> ModuleType:
    """Return the module, ``numpy`` or ``cupy``, whose functions work on an array."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def as_array(tensor: torch.Tensor) -> Array:
    """Return a view of a tensor as an array of its device; no byte is copied."""
    return array_module(tensor.device).from_dlpack(tensor)


def to_host(array: Array) -> NDArray[Any]:
    """Return an array in the memory of the host; NumPy arrays pass as they are."""
    if isinstance(array, np.ndarray):
        return array
    host: NDArray[Any] = array.get()
    return host


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware, so that it is worth using."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # torch knows the CPU's instruction sets only through these private names; without them float32 is the safe answer.
    tests = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(test()) for test in tests if test is not None)
