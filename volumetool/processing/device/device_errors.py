"""What a device's error means for the process that met it: it passes, it wants fewer patches, or the process must go.

After some errors a CUDA context answers every call with the same error, or worse, with wrong numbers. No function brings it
back; a new process does. Such errors are told from others by type and by their words, as no library has a code for all of them.
"""

from __future__ import annotations

import re
import sys
from typing import Literal

import torch

Kind = Literal["memory", "lost", "other"]

_LOST = re.compile(
    "|".join(
        (
            "illegal memory access",
            "illegal address",
            "illegal instruction",
            "misaligned address",
            "invalid address space",
            "invalid program counter",
            "device-side assert",
            "unspecified launch failure",
            "launch failure",
            "launch timed out",
            "launch failed",
            "hardware stack error",
            "uncorrectable (ECC|NVLink)",
            "ECC error",
            "context is destroyed",
            "driver shutting down",
            "initialization error",
            "no CUDA-capable device",
            "device(s)? (is|are) (busy or unavailable|unavailable)",
            "fallen off the bus",
            "GPU is lost",
            r"\bXid\b",
            "NVML",
            "cudaErrorSystemDriverMismatch",
            "unknown error",
            "CUDNN_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR)",
            "CUBLAS_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR)",
            "CUDA_ERROR_(ILLEGAL|LAUNCH|ECC|ASSERT|MISALIGNED|HARDWARE|CONTEXT_IS_DESTROYED|DEVICE_UNAVAILABLE|UNKNOWN)",
        )
    ),
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation"
    r"|DefaultCPUAllocator: (can't|not enough)|NVML_SUCCESS == r INTERNAL ASSERT",
    re.IGNORECASE,
)
_DEVICE = re.compile(r"CUDA|\bHIP\b|\bXPU\b|\bMPS\b|CUDNN|CUBLAS|NVML|\bXid\b|\bGPU\b|\bECC\b", re.IGNORECASE)


def kind_of(error: BaseException) -> Kind:
    """Return what an error means: too little memory, a device that is lost to this process, or anything else.

    Parameters
    ----------
    error : BaseException
        From the network or from array work on the device.
    """
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return "memory"
    ours = isinstance(error, RuntimeError) or "cupy" in text
    return "lost" if ours and _DEVICE.search(text) and _LOST.search(text) else "other"


def free_memory(device: torch.device) -> None:
    """Give unused memory back to the device, so that the next try finds it in one piece."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
        if (cupy := sys.modules.get("cupy")) is not None:
            cupy.get_default_memory_pool().free_all_blocks()
