"""What a SLURM site needs: from the table of the package or from a user's own, and from options."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from volumetool.configuration import Natural, Options, Positive, read_options
from volumetool.errors import ConfigError


def _check_word(text: str) -> str:
    """Refuse what could be more than one word in a line of ``#SBATCH``."""
    if not re.fullmatch(r"[\w.,:+*&|=@/()\[\]-]+", text):
        raise ValueError(f"{text!r} has characters that no option of SLURM has")
    return text


def _check_place(text: str) -> str:
    """Refuse what the shell would take for a command; variables such as ``$WORK`` are its to fill in."""
    if not re.fullmatch(r"(?:[\w./+@%=, -]|\$\w+|\$\{\w+\})+", text):
        raise ValueError(f"{text!r} is no path, with or without variables such as $WORK")
    return text


def _check_time(text: object) -> object:
    """Refuse what is no time; YAML takes 8:00:00 without quotes for a number."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is a number; put the time in quotes, such as '8:00:00'")
    seconds(text)
    return text


def seconds(time: str) -> int:
    """Return the seconds of a time as SLURM writes it: ``90`` minutes, ``30:00``, ``8:00:00``, ``2-12``, ``2-12:00:00``.

    Raises
    ------
    ValueError
        It is no such time, or none at all.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not found:
        raise ValueError(f"{time!r} is no time; write minutes, or 8:00:00, or 2-12:00:00")
    days, *parts = (int(part or 0) for part in found.groups())
    given = [part for part in found.groups()[1:] if part is not None]
    if found[1] is not None or len(given) == 3:
        hours, minutes, rest = parts
    else:
        hours, minutes, rest = 0, parts[0], parts[1]
    if not (whole := ((days * 24 + hours) * 60 + minutes) * 60 + rest):
        raise ValueError(f"{time!r} is no time to compute in")
    return whole


Word = Annotated[str, AfterValidator(_check_word)]
SitePath = Annotated[str, AfterValidator(_check_place)]


class Site(Options):
    """A SLURM site, and what each element of an array asks it for.

    Parameters
    ----------
    about : str
        What it is, in a sentence.
    partition, account, constraint : str, optional
        As ``sbatch`` takes them.
    time : str
        Longest time of an element, as ``sbatch`` takes it; it goes on as often as need be.
    gpus : int
        GPUs of an element's node.
    cpus : int, optional
        Cores of an element.
    mem : str, optional
        Memory of an element, such as ``64G``.
    array : int
        Elements: parts of the job, each with a driver of its own.
    attempts : int
        How often an element is started.
    modules : tuple of str
        Loaded first, by ``module load``.
    container : str, optional
        Apptainer file that holds volumetool; without it, the program of this environment runs.
    scratch : str, optional
        Folder on the node for temporary files.
    arrays : bool
        The site takes job arrays; else each element is a job of its own.
    node_memory : bool
        The site takes ``--mem``; else nodes come with all they have.
    most : int, optional
        Elements that the site allows at once.
    """

    told_by = "`volumetool slurm --help`"

    about: str = ""
    partition: Word | None = None
    account: Word | None = None
    constraint: Word | None = None
    time: Annotated[str, BeforeValidator(_check_time)] = "8:00:00"
    gpus: Natural = 0
    cpus: Positive | None = None
    mem: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = None
    array: Positive = 4
    attempts: Positive = 20
    modules: tuple[Word, ...] = ()
    container: SitePath | None = None
    scratch: SitePath | None = None
    arrays: bool = True
    node_memory: bool = True
    most: Positive | None = None


def read_site(name: str = "generic", file: Path | None = None, **options: Any) -> Site:
    """Return a site of the table.

    Parameters
    ----------
    name : str
        Its name there.
    file : Path, optional
        A user's own table, YAML, which is looked at first.
    **options
        Fields of :class:`Site` that win over the table's; None stands for none given.

    Raises
    ------
    ConfigError
        ``config.file``: the user's table is no mapping of names to sites. ``config.site``: neither table has the name.
        ``config.option``: a field that cannot be.
    """
    packaged = resources.files(__package__).joinpath("sites.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(packaged) | ({} if file is None else read_options(file))
    if name not in table:
        raise ConfigError(
            "config.site",
            f"there is no site {name!r}; the table has {', '.join(sorted(table))}",
            hint="describe yours in a file, as volumetool/sites/sites.yaml does, and give it with --sites FILE",
        )
    entry = table[name]
    if not isinstance(entry, dict):
        raise ConfigError(
            "config.site",
            f"the site {name!r} is {entry!r}, and no mapping of fields",
            hint="volumetool/sites/sites.yaml has some",
        )
    return Site(**entry | {field: value for field, value in options.items() if value is not None})
