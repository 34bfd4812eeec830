"""What the program says on stderr, and in a log: ``-v``, ``-q`` and ``--log-file``, of the program and of each command."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from volumetool.cli._job_options import hidden
from volumetool.cli._options import local_path
from volumetool.cli._tables import SCREEN

_log = logging.getLogger(__name__)

PANEL = "What it says"

Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Say more; twice: what libraries say, too.",
        rich_help_panel=PANEL,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what is wrong.", rich_help_panel=PANEL)]
LogTo = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        envvar="VOLUMETOOL_LOG_FILE",
        show_envvar=False,
        parser=local_path,
        help="Append all that happens to this file.",
        rich_help_panel=PANEL,
    ),
]
OPTIONS: dict[str, tuple[Any, Any]] = {"verbose": (Verbose, 0), "quiet": (Quiet, False), "log_file": (LogTo, None)}
"""The options by name, each with its annotation and default."""


def logged(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; where ``--help`` shows few, ``--help-all`` shows them."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def call(*given: Any, verbose: int, quiet: bool, log_file: Path | None, **options: Any) -> None:
        speak(verbose, quiet, log_file)
        command(*given, **options)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in OPTIONS.items()
    ]
    if "help_all" in signature.parameters:
        added = [hidden(parameter) for parameter in added]
    vars(call)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), *added])
    return call


class _OnScreen(logging.Handler):
    """Says on stderr what modules log: of libraries errors alone, unless more is asked for."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record that the screen is to show; what commands say themselves they have said."""
        from volumetool.logs import is_ours

        if record.name.startswith("volumetool.cli"):
            return
        least = min(SCREEN.level, logging.WARNING)
        if not is_ours(record):
            least = logging.ERROR if SCREEN.level > logging.DEBUG else logging.INFO
        if record.levelno >= least:
            print(self.format(record), file=sys.stderr, flush=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is logging's)
        """Let go what nobody reads."""


@contextmanager
def speaking(arguments: list[str]) -> Iterator[None]:
    """Say on stderr what is logged while a command runs, and leave logging as it was found."""
    from volumetool.logs import LOG_FILE, OURS, LogFile, LogFormatter

    root, ours = logging.getLogger(), logging.getLogger(OURS)
    before = (list(root.handlers), root.level, ours.level, SCREEN.level, os.environ.get(LOG_FILE))
    SCREEN.command = " ".join(["volumetool", *_without_targets(arguments)])
    screen = _OnScreen()
    screen.setFormatter(LogFormatter("%(message)s", traces=False))
    root.addHandler(screen)
    logging.captureWarnings(True)  # those of Python are for who writes a program: into the log with them
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in list(root.handlers):
            if handler is screen or (isinstance(handler, LogFile) and handler not in before[0]):
                root.removeHandler(handler)
                handler.close()
        root.setLevel(before[1])
        ours.setLevel(before[2])
        SCREEN.level = before[3]
        os.environ.pop(LOG_FILE, None)
        if before[4] is not None:
            os.environ[LOG_FILE] = before[4]


def say_json() -> None:
    """Say on stderr all that modules log, one line of JSON each."""
    from volumetool.logs import OURS, JsonFormatter

    for handler in logging.getLogger().handlers:
        if isinstance(handler, _OnScreen):
            handler.setFormatter(JsonFormatter())
    SCREEN.level = min(SCREEN.level, logging.INFO)
    ours = logging.getLogger(OURS)
    ours.setLevel(min(logging.INFO, ours.level or logging.INFO))


def _without_targets(arguments: list[str]) -> list[str]:
    """Return what was typed without whom to tell that a run ended: the address of a webhook is a secret."""
    from volumetool.notification import target_name

    shown = list(arguments)
    for number, word in enumerate(arguments):
        if word == "--notify":
            shown[number + 1 : number + 2] = map(target_name, arguments[number + 1 : number + 2])
        elif word.startswith("--notify="):
            shown[number] = "--notify=" + target_name(word.removeprefix("--notify="))
    return shown


def speak(verbose: int, quiet: bool, log_file: Path | None) -> None:
    """Say as much as is asked for, and begin the log."""
    from volumetool.errors import ConfigError
    from volumetool.logs import OURS, log_to
    from volumetool.version import __version__

    if quiet and verbose:
        raise ConfigError("config.option", "--quiet and --verbose contradict each other", hint="leave one away")
    if quiet:
        SCREEN.level = logging.WARNING
    elif verbose:
        SCREEN.level = logging.DEBUG if verbose > 1 else logging.INFO
        logging.getLogger(OURS).setLevel(min(SCREEN.level, logging.getLogger(OURS).level or SCREEN.level))
        logging.getLogger().setLevel(logging.WARNING if verbose == 1 else logging.INFO)
    if log_file is not None:
        log_to(log_file)
        _log.info("%s (version %s)", SCREEN.command, __version__)
