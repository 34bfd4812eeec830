"""``volumetool doctor``, ``slurm``, ``serve`` and ``portal``: what a machine gives to a job, and how jobs run there."""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from volumetool.cli._job_options import given, job_options
from volumetool.cli._json import print_json
from volumetool.cli._logging import logged, say_json
from volumetool.cli._options import Json, local_path
from volumetool.cli._progress import LogFormat
from volumetool.cli._serve import end_like_ctrl_c
from volumetool.cli._tables import print_lines, say

from volumetool.errors import ConfigError

if TYPE_CHECKING:
    from volumetool.portal.settings import PortalSettings
    from volumetool.sites.doctor import Examination

RUN_ONCE = ("overwrite", "part", "retry_quarantined", "recompute_changed")
"""Options of a job that parts which start again must not have."""


@job_options(without=RUN_ONCE)
def slurm(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Volume to read, as for `volumetool enhance`.")],  # noqa: A002
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Volume to write.")],
    array: Annotated[int | None, typer.Option(metavar="K", min=1, help="Elements: parts that run side by side.")] = None,
    time: Annotated[str | None, typer.Option(help="Longest time of an element, such as 8:00:00; then it goes on.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features of a node, such as a100.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of an element.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of an element.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of an element, such as 64G.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="How often an element is started at most.")] = None,
    site: Annotated[str, typer.Option(metavar="NAME", help="Site of the table: modules, container, limits.")] = "generic",
    sites: Annotated[Path | None, typer.Option(metavar="FILE", parser=local_path, help="Table of your own, YAML.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit the script instead of printing it.")] = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Print a SLURM script that runs a job in parts, each of which starts again until it is done.

    An element is told to stop before its time is over, and goes back into the queue. The last one finishes the volume.
    """
    from volumetool.jobs.job import make_job
    from volumetool.sites.site import read_site
    from volumetool.sites.slurm import array_script
    from volumetool.sites.slurm import submit as submit_script

    asked: dict[str, Any] = {"array": array, "time": time, "partition": partition, "account": account, "constraint": constraint}
    where = read_site(site, sites, **asked, gpus=gpus, cpus=cpus, mem=mem, attempts=attempts)
    script = array_script(make_job(input=input, output=output, **given(options)), where)
    submitted = submit_script(script, where) if submit else []
    if as_json:
        print_json("slurm-script", {"script": script, "parts": where.array, "submitted": submitted})
    elif not submit:
        print(script, end="")
    if submitted:
        say(f"submitted {', '.join(submitted)}. How far it is: volumetool status {output}", sys.stdout if not as_json else None)


def doctor(
    output: Annotated[str | None, typer.Argument(metavar="OUTPUT", help="Where a job would write.")] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine gives to a job, what that means, and what is missing; exit code 1 if no job can run."""
    from volumetool.sites.doctor import examine

    found = examine(output)
    _tell(found, as_json=as_json)
    say("a job can run here" if found.ok else "no job can run here: see what is missing")
    raise typer.Exit(0 if found.ok else 1)


def _tell(found: Examination, *, as_json: bool) -> None:
    if as_json:
        print_json("examination", found.as_dict())
        return
    for finding in found.findings:
        state = "" if finding.state == "fine" else f"{finding.state}: "
        print_lines([(finding.name, f"{state}{finding.found}")], sys.stdout)
        print_lines([("", f"-> {finding.means}")] if finding.means else [], sys.stdout)


Config = Annotated[Path | None, typer.Option(metavar="FILE", parser=local_path, help="Settings, YAML.")]
Data = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the database, of results and logs.")]


def serve(
    config: Config = None,
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    log_format: Annotated[LogFormat, typer.Option(help="json: one line a request, on stderr.")] = "auto",
    as_json: Json = False,
) -> None:
    """Serve the web platform: accounts, jobs on volumes that they may read, and how far these are. Ctrl-C ends.

    Jobs are processes of their own: they go on meanwhile, and are found again at the next start.
    """
    settings = _settings(config, data=data, host=host, port=port)
    from volumetool.portal.serve import serve as serve_portal

    if log_format == "json":
        say_json()
    end_like_ctrl_c()
    with serve_portal(settings) as served:
        if as_json:
            print_json("portal", {"url": served.url, "invitation": served.invitation})
        else:
            say(served.url)
            if served.invitation:
                say(f"Make the first account, once, at {served.invitation}")
            say("Ctrl-C ends")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("")


def _settings(config: Path | None, **given: object) -> PortalSettings:
    """Return the portal's settings, where its extra is installed."""
    try:
        import alembic  # noqa: F401
        import argon2  # noqa: F401
        import authlib  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "config.extra", f"the portal needs {error.name}, which is not installed", hint="pip install 'volumetool[portal]'"
        ) from error
    from volumetool.portal.settings import read_settings

    return read_settings(config, **given)


portal = typer.Typer(help="Look after the web platform: its health, accounts, backups.", no_args_is_help=True)


@portal.command("doctor")
@logged
def portal_doctor(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Say what the portal finds here, what that means, and what is missing; exit code 1 if it cannot run."""
    settings = _settings(config, data=data)
    from volumetool.portal.facility.doctor import examine_portal

    found = examine_portal(settings)
    _tell(found, as_json=as_json)
    say("a portal can run here" if found.ok else "no portal can run here: see what is missing")
    raise typer.Exit(0 if found.ok else 1)


@portal.command("users")
@logged
def portal_users(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """List the accounts."""
    settings = _settings(config, data=data)
    from volumetool.portal.facility.people import list_accounts

    found = list_accounts(settings)
    if as_json:
        print_json("accounts", {"accounts": [asdict(account) for account in found]})
        return
    print_lines([(account.name, account.words) for account in found], sys.stdout)


@portal.command("user")
@logged
def portal_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the account.")],
    role: Annotated[Literal["user", "operator", "admin"] | None, typer.Option(help="What it may do; user at first.")] = None,
    mail: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Who is told how its jobs end; '' for nobody.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Whether it may log in.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Print a link by which its owner chooses another password.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Add an account, or change one; the portal may run meanwhile.

    Of a new one a link is printed, by which its owner chooses a password, once.
    """
    settings = _settings(config, data=data)
    from volumetool.portal.facility.people import set_account

    found = set_account(settings, name, {"role": role, "mail": mail, "disabled": disabled}, link=link)
    if as_json:
        print_json("account", asdict(found))
        return
    print_lines([(found.name, found.words)], sys.stdout)
    if found.link:
        say(f"Give this link to {found.name} alone; it can be used once: {found.link}", sys.stdout)


@portal.command("backup")
@logged
def portal_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=local_path, help="Backup to write, such as monday.tar.")],
    results: Annotated[bool, typer.Option("--results", help="With the volumes that jobs wrote and people uploaded.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a backup of accounts, jobs and their logs; the portal may run meanwhile."""
    settings = _settings(config, data=data)
    from volumetool.portal.facility.backup import back_up
    from volumetool.units import show_bytes

    made = back_up(settings, file, results=results)
    if as_json:
        print_json("backup", made)
    else:
        say(f"wrote {file}: {show_bytes(made['bytes'])}, {'with' if results else 'without'} results", sys.stdout)


@portal.command("restore")
@logged
def portal_restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=local_path, help="Backup to put back.")],
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Put a backup back; the portal must not run.

    What jobs wrote since then stays, and counts. All logins, invitations, tokens and links end.
    """
    settings = _settings(config, data=data)
    from volumetool.portal.facility.backup import restore

    done = restore(settings, file)
    if as_json:
        print_json("restored", asdict(done))
        return
    say(f"put back what was taken at {done.taken}: {done.jobs} jobs, {done.complete} of them complete", sys.stdout)
    say(f"ended: {', '.join(f'{count} {name}' for name, count in done.ended.items())}; everybody logs in again", sys.stdout)
    listed = {"results are not there": done.without_results, "asked for since, left alone": done.unknown}
    for words, places in (listed | {"accounts that stay disabled": done.disabled}).items():
        if places:
            say(f"{words}: {', '.join(places)}", sys.stdout)
    if done.former:
        say(f"the former database is {done.former}", sys.stdout)
