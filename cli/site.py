"""``volumetool doctor``, ``slurm`` and ``serve``: what a machine or a site gives to a job, and how jobs run there."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from volumetool.cli._job_options import given, job_options
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, local_path
from volumetool.cli._serve import end_like_ctrl_c
from volumetool.cli._tables import print_lines, say

from volumetool.errors import ConfigError

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
    if as_json:
        print_json("examination", found.as_dict())
    else:
        for finding in found.findings:
            state = "" if finding.state == "fine" else f"{finding.state}: "
            print_lines([(finding.name, f"{state}{finding.found}")], sys.stdout)
            print_lines([("", f"-> {finding.means}")] if finding.means else [], sys.stdout)
    say("a job can run here" if found.ok else "no job can run here: see what is missing")
    raise typer.Exit(0 if found.ok else 1)


def serve(
    config: Annotated[Path | None, typer.Option(metavar="FILE", parser=local_path, help="Settings, YAML.")] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the database, of results and logs.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Serve the web platform: accounts, jobs on volumes that they may read, and how far these are. Ctrl-C ends.

    Jobs are processes of their own: they go on meanwhile, and are found again at the next start.
    """
    try:
        import alembic  # noqa: F401
        import argon2  # noqa: F401
        import authlib  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "config.extra", f"the portal needs {error.name}, which is not installed", hint="pip install 'volumetool[portal]'"
        ) from error
    from volumetool.portal.serve import serve as serve_portal
    from volumetool.portal.settings import read_settings

    end_like_ctrl_c()
    with serve_portal(read_settings(config, data=data, host=host, port=port)) as served:
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
