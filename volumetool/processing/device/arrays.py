"""The device that the network runs on, and arrays that live there.

The array work around the network is written once, against the functions that NumPy and CuPy share. This is the one module
that imports CuPy.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ResourceError
from volumetool.processing.device.gpus import DeviceName, pin_gpus, why_none_is_given

if TYPE_CHECKING:
    import torch  # takes more than a second: functions import it, as commands that do not compute import this module, too

Array = Any
"""A NumPy array on the CPU or a CuPy array on the GPU; both have the operations used here."""

KINDS: dict[DeviceName, tuple[str, str]] = {
    "cuda": ("NVIDIA GPU", "check `nvidia-smi` and that torch was installed with CUDA, or run with --device cpu"),
    "rocm": ("AMD GPU", "check `rocminfo` and that torch was installed for ROCm, or run with --device cpu"),
    "mps": ("GPU of Apple", "it takes a Mac with macOS 14 or later, or run with --device cpu"),
    "xpu": ("GPU of Intel", "check `xpu-smi` and that torch was installed with XPU, or run with --device cpu"),
}
"""What each device is, and what to do where there is none."""


def resolve_device(name: DeviceName) -> torch.device:
    """Return the torch device for a name; ``auto`` takes a GPU of NVIDIA or AMD where there is one, and no other.

    Raises
    ------
    ResourceError
        ``resource.no-gpu`` where another device than the CPU was asked for and no usable one is there.
    """
    import torch

    if name == "cpu" or (name == "auto" and why_no_gpu() is not None):
        return torch.device("cpu")
    if name != "auto" and (missing := why_absent(name)) is not None:
        what, hint = KINDS[name]
        raise ResourceError(
            "resource.no-gpu", f"--device {name} was asked for, but there is no usable {what}: {missing}", hint=hint
        )
    return torch.device({"auto": "cuda", "rocm": "cuda"}.get(name, name))  # torch calls AMD's GPUs cuda, too


def why_absent(name: DeviceName) -> str | None:
    """Return why torch can use no device of a name, None where it can.

    Parameters
    ----------
    name : {"cuda", "rocm", "mps", "xpu"}
        A kind of GPU.
    """
    import torch

    built = f"torch {torch.__version__} was built"
    if name == "mps":
        if not torch.backends.mps.is_built():
            return f"{built} without MPS, which it has on Macs alone"
        return None if torch.backends.mps.is_available() else "macOS shows torch no device of Metal"
    if name == "xpu":
        if not torch.xpu._is_compiled():
            return f"{built} without XPU"
        return None if torch.xpu.is_available() else _refusal(torch.xpu.init)
    if (name == "rocm") != (torch.version.hip is not None):
        return f"{built} without ROCm" if name == "rocm" else f"{built} for ROCm, which is --device rocm"
    return why_no_gpu()


def why_no_gpu() -> str | None:
    """Return why torch can use no GPU of NVIDIA or AMD in this machine, None where it can."""
    import torch

    pin_gpus()  # before torch looks, which does so once
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA"
    reason = str(said[0].message) if said else _refusal(torch.cuda.init)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = reason.partition("\n")[0] + ("" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})")
    return told if torch.version.hip or (given := why_none_is_given()) is None else f"{told}; {given}"


def _refusal(begin: Callable[[], None]) -> str:
    """Return what torch says when it is made to begin with GPUs."""
    try:
        begin()
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return "torch sees none"


def array_module(device: torch.device) -> ModuleType:
    """Return ``cupy`` for a GPU of NVIDIA, else ``numpy``: arrays around the network then are in the memory of the host.

    Raises
    ------
    ResourceError
        ``resource.no-cupy`` where CuPy is not installed.
    """
    import torch

    if device.type != "cuda" or torch.version.hip is not None:
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
    """Return a tensor as an array of :func:`array_module`; on the CPU and on GPUs of NVIDIA as a view of it."""
    module = array_module(tensor.device)
    return module.from_dlpack(tensor.cpu() if module is np else tensor)


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
    if device.type != "cpu":
        return False  # not measured there: --precision bfloat16 asks for it
    # torch knows the CPU's instruction sets only through these private names; without them float32 is the safe answer.
    tests = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(test()) for test in tests if test is not None)


def device_title(device: torch.device) -> str:
    """Return the name of a device, such as that of the GPU, for measurements that hold for it alone."""
    import torch

    if device.type in ("cuda", "xpu"):
        title: str = torch.get_device_module(device).get_device_name()
        return title
    return device.type
