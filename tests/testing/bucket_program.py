"""An S3 server that keeps its objects as files, and may kill itself at a request: see `BucketServer`.

The server is localbucket. It takes no notice of If-Match, which a job's owner needs; that is added here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import localbucket


class _Handler(localbucket.S3Handler):
    left: int
    after: bool
    lock = threading.Lock()
    dies = False
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Do nothing."""

    def _dispatch(self, answer: Callable[..., None]) -> None:
        with self.lock:
            type(self).left -= 1
            self.dies = self.left == 0
        if self.dies and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._dispatch(answer)

    def _write_object(self, bucket: str, key: str, write: Callable[..., str]) -> str:
        wanted = self.headers.get("If-Match")
        with self.lock:
            target = self._object_path(bucket, key)
            if wanted and not (target.is_file() and localbucket.etag_matches(wanted, localbucket.object_etag(target))):
                raise self._precondition_failed_error()
            written: str = super()._write_object(bucket, key, write)
            return written

    def _send_headers(self, *what: object) -> None:
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._send_headers(*what)


def main(folder: str, port: str, requests: str = "0", after: str = "0", host: str = "127.0.0.1") -> None:
    """Serve the folder until killed."""
    _Handler.data_root = Path(folder)
    _Handler.left, _Handler.after = int(requests), after == "1"
    ThreadingHTTPServer((host, int(port)), _Handler).serve_forever()


if __name__ == "__main__":
    folder, port, *told = sys.argv[1:]
    if told == ["later"]:  # all is loaded: what was said on stdin is done at once
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        told = sys.stdin.readline().split()
    main(folder, port, *told)
