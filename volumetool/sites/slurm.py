"""A job on a SLURM site: a script whose elements run parts of it, and start again until the ledger says done.

There is no scheduler of our own, no port and no ``srun``: an element is one process on one node that ends by itself.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from volumetool.errors import ClusterError, ConfigError
from volumetool.jobs.job import Job
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.sites.site import Site, seconds
from volumetool.version import __version__

LONGEST_WARNING = 120
"""Seconds before the end at which an element is told to stop: enough for one that waits for a slow file system."""

PATIENCE = 30
"""Seconds that a program of SLURM may take to answer."""


def array_script(job: Job, site: Site) -> str:
    """Return the script that runs a job at a site.

    Parameters
    ----------
    job : Job
        What is asked for. Paths may be relative to this folder.
    site : Site
        Where, and what each element asks for.

    Raises
    ------
    ConfigError
        ``config.array``: more elements than the site allows. ``config.site``: memory is asked for where nodes come whole.
    """
    _check_elements(site)
    if site.mem is not None and not site.node_memory:
        raise ConfigError(
            "config.site",
            f"--mem {site.mem}, but this site gives nodes whole (node_memory: false)",
            hint="leave --mem out; --memory bounds what a job plans for",
        )
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={job_name(job.placed.output)}",
        *(f"#SBATCH {option}" for option in _asked(site)),
        f"# Written by volumetool {__version__}. {_how_to_start(site)}",
        "",
        f"parts={site.array}",
        f"attempts={site.attempts}",
        *(f"module load {shlex.quote(name)}" for name in site.modules),
        *([f'export TMPDIR="{site.scratch}"'] if site.scratch else []),
        "# shellcheck disable=SC2016  # a path may hold a dollar",
        f"job=({_command(job, site)})",
    ]
    return "\n".join(lines) + "\n" + resources.files(__package__).joinpath("element.sh").read_text(encoding="utf-8")


def job_name(output: str) -> str:
    """Return the name that a job has in SLURM: that of its output, by which its elements find each other."""
    return f"volumetool-{hashlib.sha256(output.encode()).hexdigest()[:8]}"


def _command(job: Job, site: Site) -> str:
    """Return the command of an element, but for its part."""
    if site.gpus > 1 and job.cluster == "local":
        job = job.model_copy(update={"cluster": "cuda"})
    command = resume_command(job.placed)
    if job.roi is not None and not job.crop:
        command += f" --roi={shlex.quote(str(job.roi))}"
    if job.notify is not None:
        command += f" --notify={shlex.quote(job.notify)}"
    if site.container is not None:
        return f'apptainer exec {"--nv " if site.gpus else ""}"{site.container}" {command}'
    program = Path(sys.executable).with_name("volumetool")  # whatever PATH a node has
    return f"{shlex.quote(str(program))} {command.partition(' ')[2]}" if program.exists() else command


def _asked(site: Site) -> list[str]:
    """Return what an element asks SLURM for."""
    warning = max(10, min(LONGEST_WARNING, seconds(site.time) // 4))
    given = {
        "partition": site.partition,
        "account": site.account,
        "constraint": site.constraint,
        "cpus-per-task": site.cpus,
        "gpus-per-node": site.gpus or None,  # not per task: sites differ in what a task then sees
        "mem": site.mem,
    }
    return [
        *([f"--array=0-{site.array - 1}"] if site.arrays else []),
        "--nodes=1",
        "--ntasks=1",
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
        f"--time={site.time}",
        f"--signal=B:USR1@{warning}",
        "--requeue",
        "--open-mode=append",  # a log goes on after a restart
        f"--output=volumetool-{'%A_%a' if site.arrays else '%j'}.log",
    ]


def _how_to_start(site: Site) -> str:
    if site.arrays:
        return "Submit it with sbatch; again, to go on."
    return f"For each part from 0 to {site.array - 1}: sbatch --export=ALL,VOLUMETOOL_PART=0 FILE; again, to go on."


def _check_elements(site: Site) -> None:
    """Refuse more elements than the site, or its scheduler, allows."""
    bounds = [] if site.most is None else [(site.most, "the table of sites")]
    bounds += [(limit, f"{name} of this SLURM") for name, limit in scheduler_limits().items()]
    most, whose = min(bounds, default=(site.array, ""))
    if site.array > most:
        raise ConfigError(
            "config.array",
            f"{site.array} elements are asked for, at most {most} are allowed by {whose}",
            hint=f"--array {most} or fewer; each element then runs longer, and goes on after its --time",
        )


def scheduler_limits() -> dict[str, int]:
    """Return how many elements and jobs the SLURM of this machine allows; empty where there is none that answers."""
    if shutil.which("scontrol") is None:
        return {}
    command = ["scontrol", "show", "config"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    found = dict(re.findall(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)", told.stdout, re.MULTILINE))
    return {name: int(limit) for name, limit in found.items()}


def submit(script: str, site: Site) -> list[str]:
    """Submit a script, and return the numbers of its jobs: one of an array, else one for each part.

    Parameters
    ----------
    script : str
        From :func:`array_script`.
    site : Site
        Whether it takes arrays, and how many parts there are.

    Raises
    ------
    ClusterError
        ``cluster.no-slurm``: there is no ``sbatch`` here. ``cluster.submit``: it refuses the script; jobs before it run.
    """
    parts = [""] if site.arrays else [str(part) for part in range(site.array)]
    return [_submit(script, part) for part in parts]


def _submit(script: str, part: str) -> str:
    command = ["sbatch", "--parsable", *([f"--export=ALL,VOLUMETOOL_PART={part}"] if part else [])]
    try:
        told = subprocess.run(command, input=script, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise ClusterError(
            "cluster.no-slurm",
            "there is no sbatch on this machine",
            hint="leave --submit out, and submit what is printed on a login node of the site",
        ) from error
    if told.returncode:
        raise ClusterError(
            "cluster.submit",
            f"sbatch refused the script: {told.stderr.strip()}",
            hint="see `volumetool slurm --help` for what an element asks for, and `sinfo` for what the site has",
        )
    return told.stdout.strip().partition(";")[0]
