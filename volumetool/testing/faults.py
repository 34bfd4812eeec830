"""What a fake network does wrong on purpose: the troubles of real networks and devices, where and as often as a test says.

A fault is brought about by the voxels: a call whose patches hold the grey value `Fault.at` goes wrong, on whatever worker and
in whatever order. So the regions that it hits are known beforehand, and planning, which asks the network about noise between 0
and 1, passes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

FaultKind = Literal["none", "nan", "inf", "error", "memory", "sticky", "segfault", "kill", "hang"]

STICKY = "CUDA error: an illegal memory access was encountered"
"""Message of torch for a context that is broken for good."""

_poisoned = threading.Event()  # of this process: what a sticky error leaves behind


def _split(value: Any) -> Any:
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


class Fault(BaseModel):
    """A trouble, and when it comes.

    Parameters
    ----------
    fault : {"none", "nan", "inf", "error", "memory", "sticky", "segfault", "kill", "hang"}
        ``nan`` and ``inf`` give that value in place of the voxels that brought the fault about. ``error`` raises.
        ``memory`` raises torch's out-of-memory error for every call of more voxels than the device has room for, whatever
        their values. ``sticky`` raises a CUDA error that no later call of the process survives. ``segfault``
        and ``kill`` end the process, ``hang`` never returns.
    at : float
        The grey value that brings the fault about.
    times : int
        Number of calls that go wrong; 0 for all.
    tally : str
        An empty folder in which occurrences are counted, one file each, over all processes. Without it each process counts
        for itself.
    room : tuple of int
        Input voxels that the first, second, ... call may have with ``memory``; the last number holds for all that follow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: FaultKind = "none"
    at: float = Field(255.0, allow_inf_nan=False)
    times: int = Field(0, ge=0)
    tally: str = ""
    room: Annotated[tuple[int, ...], BeforeValidator(_split)] = ()

    @model_validator(mode="after")
    def _check_room(self) -> Fault:
        if (self.fault == "memory") != bool(self.room):
            raise ValueError(f"the fault memory, and no other, needs room: fault={self.fault}, room={self.room}")
        return self


class Trouble:
    """A fault at work in one network.

    Parameters
    ----------
    config : Fault
        The fault, and the calls at which it happens.
    """

    def __init__(self, config: Fault) -> None:
        self.config = config
        self._calls = 0
        self._seen = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, _: dict[int, object]) -> Trouble:
        """Return trouble that has not begun: a lock cannot be copied."""
        return Trouble(self.config)

    def before(self, x: Tensor) -> None:
        """Go wrong before a call that is due for it.

        Raises
        ------
        RuntimeError
            Where the fault is one that raises.
        """
        if _poisoned.is_set():
            raise RuntimeError(STICKY)
        if self.config.fault == "memory":
            self._fill(x.numel())
        elif (act := _ACTS.get(self.config.fault)) is not None and bool((x == self.config.at).any()) and self._due():
            act()

    def after(self, centre: Tensor, result: Tensor) -> Tensor:
        """Return the answer with NaN or infinity where the centre section holds the value, if that is the fault.

        Parameters
        ----------
        centre, result : Tensor
            Input voxels of the centre section, and the answer for them before it is enlarged; of one shape.
        """
        if self.config.fault not in ("nan", "inf"):
            return result
        hit = centre == self.config.at
        return result.masked_fill(hit, float(self.config.fault)) if bool(hit.any()) and self._due() else result

    def _fill(self, voxels: int) -> None:
        with self._lock:
            room = self.config.room[min(self._calls, len(self.config.room) - 1)]
            self._calls += 1
        if voxels > room and self._due():
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to hold {voxels} voxels where there is room for {room}.")

    def _due(self) -> bool:
        """Return whether the fault is to happen, and count it."""
        with self._lock:
            if not self.config.tally:
                self._seen += 1
                return not self.config.times or self._seen <= self.config.times
            number = 0
            while not self.config.times or number < self.config.times:
                try:
                    with Path(self.config.tally, str(number)).open("x") as file:
                        file.write(str(os.getpid()))
                except FileExistsError:
                    number += 1
                else:
                    return True
            return False


def _raise() -> None:
    raise RuntimeError("the fake network fails on purpose")


def _poison() -> None:
    _poisoned.set()
    raise RuntimeError(STICKY)


_ACTS: dict[FaultKind, Callable[[], Any]] = {
    "error": _raise,
    "sticky": _poison,
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: threading.Event().wait(),
}
