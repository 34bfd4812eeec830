"""``volumetool enhance``, the main job, and ``volumetool apply``, the same with any operation."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli._job_options import given, job_options
from volumetool.cli._json import print_json
from volumetool.cli._options import AllowHost, Json, Report, local_path, write_report
from volumetool.cli._progress import LogFormat, observing
from volumetool.cli._tables import print_lines, say, warn

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from volumetool.jobs.job import Job
    from volumetool.jobs.plan import Plan
    from volumetool.jobs.run import RunResult


@job_options(rare=("allow_host", "log_format", "report"))
def enhance(
    input: Annotated[str | None, typer.Argument(metavar="INPUT", help="Volume to read, of any format; path or URL.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Argument(metavar="OUTPUT", help="OME-Zarr volume to write; path or URL.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", parser=local_path, help="Job file, YAML; options win.")] = None,
    allow_host: AllowHost = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Print the plan; start nothing."),
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="auto: bars or plain lines; json: one line an event.")] = "auto",
    report: Report = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Enhance a volume. Run the same command again to go on after an interruption.

    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop it like Ctrl-C, with exit code 75: start me again.
    """
    _perform(
        _job(given({"input": input, "output": output, **options}), config, allow_host or []),
        dry_run,
        log_format,
        as_json,
        report,
    )


@job_options(rare=("log_format", "report"), without=("model", "trust"))
def apply(
    operation: Annotated[
        str | None, typer.Argument(metavar="OPERATION", help="Built-in, see --list; FILE.py:FUNCTION; or model.")
    ] = None,
    input: Annotated[str | None, typer.Argument(metavar="INPUT", help="Volume to read, of any format; path or URL.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Argument(metavar="OUTPUT", help="Volume to write; path or URL.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of the operation; may be repeated."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run code: FILE.py:FUNCTION or a TorchScript file.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Show the built-in operations, and exit.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Print the plan; start nothing."),
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="auto: bars or plain lines; json: one line an event.")] = "auto",
    report: Report = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Apply an operation to a volume: a filter or a network. Run the same command again to go on after an interruption."""
    if list_all:
        _print_operations(as_json)
        return
    from volumetool.errors import ConfigError
    from volumetool.jobs.job import make_job
    from volumetool.processing.operation import operation_name, trust_operation

    if operation is None or input is None or output is None:
        raise ConfigError(
            "config.option", "OPERATION, INPUT and OUTPUT are needed", hint="volumetool apply median INPUT OUTPUT, or --list"
        )
    model = operation_name(operation, option or [])
    if trust:
        trust_operation(model)
    _perform(
        make_job(**given({"input": input, "output": output, "model": model, **options})), dry_run, log_format, as_json, report
    )


def _perform(job: Job, dry_run: bool, log_format: LogFormat, as_json: bool, report: Path | None) -> None:
    """Plan a job and run it, print both, and exit with its code; plan it alone for a dry run."""
    from volumetool.jobs.clusters import plan
    from volumetool.jobs.run import run
    from volumetool.paths import replace_file

    table = _table_to_write(job) if dry_run else None
    with observing(log_format) as observer:
        decided = plan(job if table is None else job.model_copy(update={"statistics": None}), observer)
    if dry_run:
        _print_plan(decided, as_json=as_json)
        if table is not None:
            replace_file(table, decided.spec.statistics.to_csv().encode())
            say(f"{table}: the table of sections, to be edited; --statistics {table} takes it")
        return
    _begin(decided)
    with observing(log_format) as observer:
        try:
            outcome = run(decided, observer)
        except KeyboardInterrupt:
            say("\ninterrupted; what was finished is kept. Run the same command to go on.")
            raise
    _print_outcome(outcome, as_json=as_json)
    if report is not None:
        write_report(job.output, report)
    raise typer.Exit(outcome.exit_code)


def _table_to_write(job: Job) -> Path | None:
    """Return where a dry run writes the table of sections: the file of --statistics, unless there is one."""
    from volumetool.paths import absolute_path

    if job.statistics is None or (place := absolute_path(job.statistics)).exists():
        return None
    return place


def _job(options: dict[str, Any], config: Path | None, allow_hosts: list[str]) -> Job:
    from volumetool.errors import ConfigError
    from volumetool.jobs.job import make_job, read_job

    if config is not None:
        return read_job(config, allow_hosts, **options)
    if "input" not in options or "output" not in options:
        raise ConfigError(
            "config.option", "INPUT and OUTPUT are needed", hint="volumetool enhance INPUT OUTPUT, or --config job.yaml"
        )
    return make_job(**options)


def _begin(plan: Plan) -> None:
    """Print what begins: the model and why, what it makes of what, what is done already, and what to beware of."""
    from volumetool.jobs.planning.report import describe_box, describe_start
    from volumetool.jobs.records.plan_file import open_ledger

    lines = [describe_start(plan, 0 if plan.job.overwrite else open_ledger(plan).done)]
    lines += [f"box: {box}"] if (box := describe_box(plan)) else []
    say("\n".join(lines))
    for note in plan.notes:
        warn(f"warning: {note}")


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json("plan", plan.model_dump(mode="json"))
        return
    from volumetool.jobs.planning.report import describe_plan

    print_lines(describe_plan(plan))


def _print_outcome(outcome: RunResult, *, as_json: bool) -> None:
    job = outcome.plan.job
    if as_json:
        names = ("complete", "done", "failed", "regions", "ran", "output", "fingerprint")
        facts = {name: getattr(outcome, name) for name in names}
        print_json("run", facts | {"parts": [asdict(part) for part in outcome.parts]})
    for record in outcome.failures:
        box = outcome.plan.grid.region(record.region).box
        warn(f"region {record.region} ({box}) failed: {record.error.get('message')}")
        if record.error.get("hint"):
            warn(f"  {record.error['hint']}")
    if outcome.complete:
        say(f"complete: {job.output}, {outcome.done} regions. Next: volumetool verify {job.output}")
        return
    if job.part is not None:
        _print_parts(outcome)
        return
    words = f"{outcome.done} of {outcome.regions} regions done, {outcome.failed} failed."
    more = "Run the same command to go on." if outcome.exit_code else "The box is done; without --roi the rest follows."
    say(f"{words} {more}")


def _print_parts(outcome: RunResult) -> None:
    """Print what is left of a job whose part has ended, and who goes on."""
    job = outcome.plan.job
    for part in outcome.parts:
        say(f"part {part}")
    what = "what nobody else runs" if outcome.plan.part is None else f"part {job.part}"
    ended = "" if outcome.exit_code else f"{what} is done; "
    left = f"the whole job is not: {outcome.done} of {outcome.regions} regions, {outcome.failed} failed"
    say(f"{ended}{left}. Whoever ends last builds the coarse levels; --part any takes what nobody runs.")


def _print_operations(as_json: bool) -> None:
    from volumetool.processing.operation import filters

    found = filters()
    if as_json:
        schemas = {name: kind.model_json_schema() for name, kind in found.items()}
        print_json("operations", {"operations": schemas})
        return
    for name, kind in found.items():
        options = [(f"  {option}", f"{facts.description} {_default(facts)}") for option, facts in kind.model_fields.items()]
        print_lines([(name, kind.summary()), *options], sys.stdout)


def _default(facts: FieldInfo) -> str:
    return "Must be given." if facts.is_required() else f"Default {facts.default}."
