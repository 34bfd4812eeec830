"""An S3 server that dies and comes back, with all that it stored: `bucket_program.py`, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import pytest
from ports import lasting_ports

PROGRAM = Path(__file__).with_name("bucket_program.py")


def reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 be reached at a server, with credentials."""
    for name, value in (
        ("ENDPOINT_URL", endpoint),
        ("ACCESS_KEY_ID", "test"),
        ("SECRET_ACCESS_KEY", "test"),
        ("REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)


class BucketServer:
    """Runs the server while its context lasts, and starts it again on the same port whenever it dies.

    Parameters
    ----------
    folder : Path
        Folder of the buckets: ``s3://bucket/key`` is the file ``folder/bucket/key``.
    requests : int
        Number of requests after which the server kills itself, in turns before and after one takes effect; 0 for never.

    Attributes
    ----------
    url : str
        Value of ``AWS_ENDPOINT_URL``.
    deaths : int
        Number of times that the server died.
    requests : int
        May be changed; holds from the next start.
    """

    def __init__(self, folder: Path, requests: int = 0) -> None:
        self.folder, self.requests = folder, requests
        (self._port,) = lasting_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self.deaths = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True, name="bucket-server")

    def __enter__(self) -> BucketServer:
        self._process = self._start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self.kill()
        self._thread.join()

    def kill(self) -> None:
        """Kill the server; it is started again at once."""
        self._process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        told = (self.folder, self._port, self.requests, self.deaths % 2)
        process = subprocess.Popen([sys.executable, str(PROGRAM), *map(str, told)])
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as knocking:
                if knocking.connect_ex(("127.0.0.1", self._port)) == 0:
                    return process
            time.sleep(0.01)
        raise TimeoutError(self.url)

    def _keep_alive(self) -> None:
        while self._process.wait() is not None and not self._ended.is_set():
            self.deaths += 1
            self._process = self._start()
