"""One process per device, all on this machine, heard by nobody else."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning_fabric.strategies.ddp import DDPStrategy


class OneMachine(DDPStrategy):
    """Data-parallel training whose processes meet in a file and talk over the loopback interface.

    By default they would meet at a port that listens on every interface of the machine, where anyone may speak to it.

    Parameters
    ----------
    meeting : Path
        File of this run alone, in a folder that exists.
    """

    def __init__(self, meeting: Path) -> None:
        super().__init__(start_method="spawn")
        self._meeting = meeting

    def setup_environment(self) -> None:
        """Join the other processes."""
        for library in ("GLOO", "NCCL"):
            os.environ[f"{library}_SOCKET_IFNAME"] = _loopback()
        cuda = self.root_device.type == "cuda"
        device: dict[str, Any] = {"device_id": self.root_device} if cuda else {}
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo",
            store=torch.distributed.FileStore(str(self._meeting), self.num_processes),  # type: ignore[attr-defined]  # stubs lack it
            rank=self.local_rank,
            world_size=self.num_processes,
            **device,
        )
        atexit.register(_leave)
        super().setup_environment()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _loopback() -> str:
    """Return the name of the loopback interface: ``lo`` on Linux."""
    return next(name for name, each in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in each))
