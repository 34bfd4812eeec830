"""The program ``volumetool``: its commands, and how every error ends."""

from __future__ import annotations

import copy
import io
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException
from typer.main import get_command
from volumetool.cli import (
    bench,
    check,
    convert,
    crappify,
    demo,
    enhance,
    evaluate,
    info,
    live,
    model,
    pyramid,
    site,
    train,
    view,
)
from volumetool.cli._json import print_json
from volumetool.cli._logging import LogTo, Quiet, Verbose, logged, speak, speaking
from volumetool.cli._preemption import TRY_AGAIN, Stopped, stoppable
from volumetool.cli._tables import say, warn

from volumetool.errors import VolumetoolError
from volumetool.events.bars import NARROW
from volumetool.processing.device.malloc import keep_freed_memory
from volumetool.redaction import redact

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

AGAIN = "Run the same command to go on."
BUG = "This is a bug in volumetool. Run it with --log-file FILE to see where, and please report it."

_log = logging.getLogger(__name__)

app = typer.Typer(
    name="volumetool",
    help="Super-resolution of whole-brain electron-microscopy volumes: seamless, resumable, chunk by chunk.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(logged(demo.demo))
app.command("info")(logged(info.info))
app.command("convert")(logged(convert.convert))
app.command("pyramid")(logged(pyramid.pyramid))
app.command("crappify")(logged(crappify.crappify))
app.command("try")(logged(evaluate.try_))
app.command("enhance")(logged(enhance.enhance))
app.command("apply")(logged(enhance.apply))
app.command("status")(logged(check.status))
app.command("verify")(logged(check.verify))
app.command("attest")(logged(check.attest))
app.command("clean")(logged(check.clean))
app.command("view")(logged(view.view))
app.command("publish")(logged(view.publish))
app.command("live")(logged(live.live))
app.command("serve")(logged(site.serve))
app.command("train")(logged(train.train))
app.command("evaluate")(logged(evaluate.evaluate))
app.command("advise")(logged(evaluate.advise))
app.command("rescan")(logged(evaluate.rescan))
app.command("validate")(logged(check.validate))
app.command("bench")(logged(bench.bench))
app.command("slurm")(logged(site.slurm))
app.command("doctor")(logged(site.doctor))
app.command("schema")(logged(info.schema))
app.add_typer(model.app, name="model")
app.add_typer(site.portal, name="portal")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_file: LogTo = None,
) -> None:
    if version:
        from volumetool import __version__

        print(__version__)
        raise typer.Exit
    speak(verbose, quiet, log_file)


class _Commands(Mapping[str, Any]):
    """The commands by name. Each is made as it is asked for: to make all of them takes longer than many of them run."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        names = [*(each.name for each in app.registered_commands), *(each.name for each in app.registered_groups)]
        self._names = [str(name) for name in names]

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _program_of(name).commands[name]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _program_of(*names: str) -> TyperGroup:
    """Return the program with some of its commands."""
    part = copy.copy(app)
    part.registered_commands = [each for each in app.registered_commands if each.name in names]
    part.registered_groups = [each for each in app.registered_groups if each.name in names]
    return cast("TyperGroup", get_command(part))


def _program() -> TyperGroup:
    program = _program_of()
    program.commands = _Commands()  # type: ignore[assignment]  # nobody adds one
    return program


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit with its code.

    0 done, 1 failed or nobody reads stdout, 2 usage, 3 partial, 4 not conformant or a check failed, 75 told to stop,
    130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    keep_freed_memory()  # before there are threads: each takes a heap of its own, and memory that is kept in many heaps grows
    app.rich_markup_mode = "rich" if shutil.get_terminal_size().columns >= NARROW else None
    try:
        with speaking(arguments):
            code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone
        _forget(sys.stdout)
        code = 1
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    as_json = "--json" in arguments
    try:
        with stoppable():
            code = _program()(arguments, standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer makes Ctrl-C an exit code
            raise KeyboardInterrupt
        return int(code)
    except TyperException as error:
        return _report_usage(error, as_json=as_json)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except VolumetoolError as error:
        return _report(error, as_json=as_json)
    except Stopped as stopped:
        message = f"{stopped}: told to stop; what was finished is kept."
        say(f"\n{message} {AGAIN}")
        return _print_error(TRY_AGAIN, {"code": "stopped", "message": message, "hint": AGAIN}, as_json=as_json)
    except (Abort, KeyboardInterrupt):
        return _print_error(INTERRUPTED, {"code": "interrupted", "message": "interrupted", "hint": AGAIN}, as_json=as_json)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  (the last resort: no user should meet a traceback)
        return _report_bug(error, as_json=as_json)


class _Patient(io.FileIO):
    """Stderr: once its reader has gone, what is said there is lost, and the work goes on."""

    def write(self, said: Any, /) -> int:
        try:
            return super().write(said)
        except BrokenPipeError:
            _forget(self)
            return len(said)


def _forget(stream: io.FileIO | TextIO) -> None:
    """Let a stream lead nowhere, for libraries and child processes, too."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _open_streams() -> None:
    """Make the standard streams fit to be used, however the program was started.

    Those that the caller closed lead to the null device: otherwise the next file that is opened would get their number, and
    what libraries write there. Characters that a console does not know are shown as question marks.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(_null(number), mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if number == 2 and stream is sys.__stderr__:  # nobody has put another one in its place
                raw = io.BufferedWriter(_Patient(number, mode, closefd=False))
                sys.stderr = io.TextIOWrapper(raw, stream.encoding, "replace", line_buffering=True)


def _null(number: int) -> int:
    """Open the null device; under a number that is free, under that one."""
    opened = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(opened, number)
        os.close(opened)
        return number
    return opened


def _report_usage(error: TyperException, *, as_json: bool) -> int:
    """Tell what is wrong with the words of a command, in a box where there is room for one."""
    from typer.rich_utils import rich_format_error

    message = error.format_message()
    if app.rich_markup_mode is None:
        warn(f"error [config.usage]: {message}\n  see --help")
    else:
        rich_format_error(error)  # type: ignore[arg-type]  # every such error of a command line is one that it knows
    told = {"code": "config.usage", "message": message, "hint": "see --help"}
    return _print_error(error.exit_code, told, as_json=as_json)


def _report(error: VolumetoolError, *, as_json: bool) -> int:
    warn(f"error [{error.code}]: {error}")
    _log.debug("where it was raised", exc_info=error)
    return _print_error(error.exit_code, error.as_dict(), as_json=as_json)


def _report_bug(error: Exception, *, as_json: bool) -> int:
    message = redact(f"{type(error).__name__}: {error}")
    warn(f"error [internal]: {message}")
    _log.debug("where it was raised", exc_info=error)
    if os.environ.get("VOLUMETOOL_TRACEBACK"):
        warn(redact("".join(traceback.format_exception(error))))
    else:
        warn(f"  {BUG}")
    return _print_error(1, {"code": "internal", "message": message, "hint": BUG}, as_json=as_json)


def _print_error(exit_code: int, told: dict[str, str], *, as_json: bool) -> int:
    """Print an error for programs, where they asked for it, and return its exit code."""
    if as_json:
        print_json("error", {"exit_code": exit_code, "error": told})
    return exit_code


if __name__ == "__main__":
    main()
