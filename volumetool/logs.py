"""The log: a line for whatever happens, with its time, the worker, and the module that says it.

Modules log under their own names, and set nothing up: as of any library, who wants a log says where it goes. The command line
calls `log_to`; workers of this machine append to the same file, which they find in the environment.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from contextlib import suppress

from volumetool.errors import OutputError
from volumetool.paths import absolute_path
from volumetool.redaction import printable, redact

LOG_FILE = "VOLUMETOOL_LOG_FILE"
"""Environment variable that names the log."""

OURS = "volumetool"
"""Name of the logger above all of volumetool's."""


class LogFormatter(logging.Formatter):
    """Writes a record as it may be shown: no secret, and control characters shown, not obeyed.

    Parameters
    ----------
    form : str
        What a line says, as for `logging.Formatter`.
    traces : bool
        Say where errors were raised, too; else their sentence alone.
    """

    def __init__(self, form: str, *, traces: bool) -> None:
        super().__init__(form)
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record; further lines of it are indented."""
        if not self._traces and record.exc_info:
            record = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None})
        return printable(redact(super().format(record))).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: Unix time, level, who says it, what, and the `facts` that it was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; it holds no secret."""
        told = {"time": round(record.created, 3), "level": record.levelname, "logger": record.name}
        told["message"] = printable(redact(record.getMessage()))
        if record.exc_info:
            told["error"] = printable(redact(self.formatException(record.exc_info)))
        return json.dumps(told | getattr(record, "facts", {}))


class LogFile(logging.FileHandler):
    """Appends to a file; once that fails, says so, and the work goes on without a log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002  (the name is logging's)
        """Give up the log."""
        logging.getLogger().removeHandler(self)
        reason = sys.exc_info()[1]
        with suppress(OSError):
            self.close()
        print(f"warning: {self.baseFilename}, the log, cannot be written: {reason}", file=sys.stderr)  # noqa: T201


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether volumetool says this, and not a library."""
    return record.name.partition(".")[0] == OURS


def log_to(file: str | os.PathLike[str]) -> LogFile:
    """Append to a file all that volumetool says, in this process and in workers that it starts, and what libraries warn of.

    Parameters
    ----------
    file : str or path
        The log. It is made where it is not there; several processes may append to it.

    Returns
    -------
    LogFile
        The handler, which the root logger has.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    place, root = absolute_path(file), logging.getLogger()
    for there in root.handlers:
        if isinstance(there, LogFile) and there.baseFilename == str(place):
            return there
    try:
        handler = LogFile(place, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutputError(
            "output.unwritable",
            f"the log {place} cannot be written: {error.strerror}",
            hint="name another file with --log-file",
            where=str(place),
        ) from error
    worker = f"{socket.gethostname()}:{os.getpid()}"
    handler.setFormatter(LogFormatter(f"%(asctime)s %(levelname)s {worker} %(name)s: %(message)s", traces=True))
    handler.addFilter(lambda record: is_ours(record) or record.levelno >= logging.WARNING)
    root.addHandler(handler)
    logging.getLogger(OURS).setLevel(logging.DEBUG)
    os.environ[LOG_FILE] = str(place)
    return handler


def join_log() -> None:
    """Append to the log that the environment names, if it names one."""
    if named := os.environ.get(LOG_FILE):
        log_to(named)
