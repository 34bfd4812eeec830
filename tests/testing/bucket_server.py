"""An S3 server that dies and comes back, with all that it stored: `bucket_program.py`, in a process of its own."""

from __future__ import annotations

import signal
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
        self._spare: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True, name="bucket-server")

    def __enter__(self) -> BucketServer:
        self._process = self._start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._process.kill()
        self._thread.join()
        if self._spare is not None:
            with self._spare as spare:
                spare.kill()

    def kill(self) -> None:
        """Kill the server; another one, which has been loaded already, takes its place at once."""
        self._spare = self._spare or self._load()
        self._process.kill()

    def _load(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(self.folder), str(self._port), "later"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def _start(self) -> subprocess.Popen[str]:
        process, self._spare = self._spare or self._load(), None
        assert process.stdin is not None
        process.stdin.write(f"{self.requests} {self.deaths % 2}\n")
        process.stdin.close()
        self._wait_for(process)
        if self.requests:  # it will die, and clients wait a second or so
            self._spare = self._load()
        return process

    def _wait_for(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as knocking:
                if knocking.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.01)
        if process.poll() != -signal.SIGKILL:  # clients that waited may have had all its requests before this thread looked
            raise TimeoutError(self.url)

    def _keep_alive(self) -> None:
        while True:
            with self._process as process:  # until it dies
                process.wait()
            if self._ended.is_set():
                return
            self.deaths += 1
            self._process = self._start()
            if self._ended.is_set():  # meanwhile
                self._process.kill()
