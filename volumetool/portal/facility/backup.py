"""Backups of a portal: what its database says, and its folder, in one file; taken while it runs, put back while it does not."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from sqlalchemy import make_url, select
from sqlalchemy.exc import DatabaseError

from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.jobs.inspection import status
from volumetool.portal.queries import ALIVE, CANCELLED, COMPLETE, PLANNED, Database, now, open_database, revisions
from volumetool.portal.serve import alone
from volumetool.portal.settings import PortalSettings, make_folder
from volumetool.portal.supervisor import OUTPUT
from volumetool.portal.tables import Account, Table
from volumetool.redaction import redact
from volumetool.version import __version__

_log = logging.getLogger(__name__)

ABOUT, DATABASE, DATA = "backup.json", "database", "data"
"""In a backup: what it is, the database, and files of the portal's folder."""

RESULTS = (OUTPUT, f"{OUTPUT}.job", "uploads")
"""Folders that are large, and that a backup holds where they are asked for."""

GONE = "Its results were not in the backup. Going on computes them again."

_SMALL = 2**24
"""Bytes of a file that is read whole before it is packed: it may become shorter meanwhile."""

_LONGEST = 3600
"""Seconds that a program of PostgreSQL may take."""


@dataclass(frozen=True)
class Restored:
    """What a backup brought back.

    Attributes
    ----------
    taken : str
        When it was taken.
    jobs, complete : int
        Jobs that the portal knows now, and how many of them are complete.
    without_results : tuple of str
        Jobs that were complete, and whose results are not there.
    unknown : tuple of str
        Folders of jobs that were asked for after the backup; they stay where they are.
    former : str or None
        Where the database that was there before is kept.
    ended : dict of str to int
        Logins, invitations, tokens and links of the backup, all of which end: which were ended since, it does not know.
    disabled : tuple of str
        Accounts that were disabled since, as the database says that was there before; they stay so.
    """

    taken: str
    jobs: int
    complete: int
    without_results: tuple[str, ...]
    unknown: tuple[str, ...]
    former: str | None
    ended: dict[str, int]
    disabled: tuple[str, ...]


def back_up(settings: PortalSettings, file: Path, *, results: bool = False) -> dict[str, Any]:
    """Write a backup of a portal, which may run meanwhile; return what it is.

    The database is that of one moment. Files of jobs are as old as it, or newer: a job that ends meanwhile is found ended when
    the backup is put back.

    Parameters
    ----------
    settings : PortalSettings
        The portal's.
    file : Path
        The backup, a tar file. It appears when it is whole, and only its user may read it.
    results : bool
        Pack the volumes that jobs wrote and that were uploaded, too.

    Raises
    ------
    OutputError
        ``output.exists``, ``output.unwritable``.
    ConfigError
        ``config.database``: there is none, or ``pg_dump`` fails.
    """
    if file.exists():
        raise OutputError("output.exists", f"{file} is there already", hint="name another file")
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as made:
            about = {"kind": "volumetool-portal", "version": __version__, "taken": now().isoformat(), "results": results}
            about |= _dump(settings, Path(made) / DATABASE)
            packed = Path(made) / "packed.tar"
            with tarfile.open(packed, "w") as tar:  # the folder is open to its user alone
                _add(tar, ABOUT, json.dumps(about).encode())
                tar.add(Path(made) / DATABASE, DATABASE)
                for place in _files(settings, results=results):
                    _pack(tar, place, f"{DATA}/{place.relative_to(settings.data)}")
            packed.chmod(0o600)
            os.link(packed, file)
    except OSError as error:
        raise OutputError(
            "output.unwritable", f"the backup {file} cannot be written: {error}", hint="choose another place"
        ) from error
    return about | {"file": str(file), "bytes": file.stat().st_size}


def _dump(settings: PortalSettings, file: Path) -> dict[str, Any]:
    """Write the database, as it is at one moment, into a file."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        there = Path(url.database or "")
        if not there.is_file():
            raise ConfigError("config.database", f"there is no database {there}", hint="see `data` in the settings")
        with closing(sqlite3.connect(f"file:{there}?mode=ro", uri=True)) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)
            schema = target.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return {"database": "sqlite", "schema": schema}
    schema = _schema(settings)  # as it is: a backup brings no table up to date
    if schema is None:
        raise ConfigError("config.database", "the database has no tables of a portal", hint="see `database` in the settings")
    _postgresql(["pg_dump", "--format=custom", f"--file={file}"], settings)
    return {"database": "postgresql", "schema": schema}


def _postgresql(command: list[str], settings: PortalSettings) -> None:
    """Run a program of PostgreSQL; the password stands in its environment, not in the list of processes."""
    url = make_url(settings.database_url)
    given: dict[str, object] = {"PGHOST": url.query.get("host", url.host), "PGPORT": url.port, "PGDATABASE": url.database}
    given |= {"PGUSER": url.username, "PGPASSWORD": url.password}
    environment = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    typed = f"{' '.join(command)} (of the database {url.database})"
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=_LONGEST)  # noqa: S603
    except FileNotFoundError as error:
        raise ConfigError(
            "config.database", f"{command[0]} is not installed here", hint=f"install PostgreSQL's programs; needed is {typed}"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            "config.database", f"{command[0]} says: {redact(error.stderr.strip()[-500:])}", hint=f"see {typed}"
        ) from error


def _files(settings: PortalSettings, *, results: bool) -> Iterator[Path]:
    """Yield the files of the portal's folder; of a job its ledger before its volume, of which it then tells nothing untrue."""
    for folder, folders, names in os.walk(settings.data):
        folders[:] = [name for name in folders if results or name not in RESULTS]
        folders.sort(key=lambda name: (not name.endswith(".job"), name))
        if Path(folder) == settings.data:
            folders[:] = [name for name in folders if not name.startswith(".")]  # backups and restorations in work
            names = [
                name
                for name in names
                if not name.startswith(("portal.sqlite", "portal.postgresql", "lock")) and not name.endswith(".tar")
            ]
        yield from (Path(folder) / name for name in sorted(names))


def _pack(tar: tarfile.TarFile, place: Path, name: str) -> None:
    try:
        if place.is_symlink() or not place.is_file():
            return
        if place.stat().st_size < _SMALL:
            _add(tar, name, place.read_bytes(), place.stat().st_mode)
        else:
            tar.add(place, name)
    except FileNotFoundError:
        return  # its job was removed meanwhile


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o600) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), mode & 0o777, int(now().timestamp())
    tar.addfile(member, io.BytesIO(data))


def restore(settings: PortalSettings, file: Path) -> Restored:
    """Put a backup back.

    Files of jobs that are there stay: they are newer than the backup. Which jobs are complete, their ledgers say. All logins,
    invitations, tokens and links end; accounts that are disabled stay so. The database that was there is kept.

    Parameters
    ----------
    settings : PortalSettings
        The portal's.
    file : Path
        From :func:`back_up`.

    Raises
    ------
    ConfigError
        ``config.running``: the portal runs. ``config.backup``: it is of a newer version, or of another database, or would
        replace tables of a newer version.
    InputError
        ``input.backup``: it is none, or torn.
    """
    make_folder(settings)
    with alone(settings), tempfile.TemporaryDirectory(dir=settings.data, prefix=".restore-") as made:
        about = _unpack(file, Path(made))
        _check(about, settings)
        shut = _disabled(settings)
        former = _put_back(settings, Path(made) / DATABASE)
        if (Path(made) / DATA).is_dir():
            _merge(Path(made) / DATA, settings.data)
        database = Database(settings)
        ended = database.end_everything()
        for name in shut:
            database.change_account(name, disabled=True)
        told = _agree_with_ledgers(database, settings)
        database.engine.dispose()
    return Restored(about["taken"], *told, former, ended, shut)


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    try:
        with tarfile.open(file, "r:") as tar:
            _take_out(tar, folder)
        about = json.loads((folder / ABOUT).read_text())
        if about["kind"] != "volumetool-portal" or not (folder / DATABASE).is_file():
            raise ValueError("it holds no database")
    except (OSError, tarfile.TarError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            "input.backup",
            f"{file} is no backup of a portal, or not whole: {error}",
            hint="name one of `volumetool portal backup`",
        ) from error
    return dict(about)


def _take_out(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files of a backup below a folder, and nothing elsewhere."""
    for member in tar:  # `extractall` knows safe filters from Python 3.11.4 on, which Debian 12 does not have
        place, data = folder / member.name, tar.extractfile(member) if member.isreg() else None
        if data is None or not place.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{member.name} is no file of one")
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            shutil.copyfileobj(data, file)
        place.chmod((member.mode & 0o755) | 0o600)


def _check(about: dict[str, Any], settings: PortalSettings) -> None:
    here = make_url(settings.database_url).get_backend_name()
    if about["database"] != here:
        raise ConfigError(
            "config.backup",
            f"the backup is of {about['database']}, the settings name {here}",
            hint="see `database` in the settings",
        )
    if about["schema"] not in revisions():
        raise ConfigError(
            "config.backup",
            f"the backup is of volumetool {about['version']}; its tables, {about['schema']}, are not known to {__version__}",
            hint="install that version or a newer one",
        )


def _put_back(settings: PortalSettings, dumped: Path) -> str | None:
    """Put the database in its place; return where the former one is."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        return _put_back_into_postgresql(settings, dumped)
    place, former = Path(url.database or ""), None
    if place.exists():
        former = place.with_name(f"{place.name}.before-{now():%Y%m%dT%H%M%S}")
        try:
            with closing(sqlite3.connect(place)) as source, closing(sqlite3.connect(former)) as target:
                source.backup(target)  # with what its journal holds
        except sqlite3.DatabaseError:
            shutil.copyfile(place, former)  # damaged, as it may be where a backup is needed
        former.chmod(0o600)
    fresh = place.with_name(f"{place.name}.restored")
    shutil.copyfile(dumped, fresh)  # it may lie on another disk
    fresh.chmod(0o600)
    for end in ("-wal", "-shm", "-journal"):
        place.with_name(place.name + end).unlink(missing_ok=True)
    fresh.replace(place)
    return None if former is None else str(former)


def _put_back_into_postgresql(settings: PortalSettings, dumped: Path) -> str | None:
    """Put the tables in the place of all that are there, in one transaction; return where the former ones are."""
    there, former = _schema(settings), None
    if there is not None and there not in revisions():
        raise ConfigError(
            "config.backup",
            f"the database has the tables {there} of a newer volumetool, unknown to {__version__}: they would stay",
            hint="name an empty database in `database`, or install that version or a newer one",
        )
    if there is not None:
        former = settings.data / f"portal.postgresql.before-{now():%Y%m%dT%H%M%S}"
        _postgresql(["pg_dump", "--format=custom", f"--file={former}"], settings)
        former.chmod(0o600)
    drop, fill = dumped.with_name("drop.sql"), dumped.with_name("fill.sql")
    names = ("alembic_version", *Table.metadata.tables)
    drop.write_text("".join(f'DROP TABLE IF EXISTS "{name}" CASCADE;\n' for name in names))  # those of newer steps, too
    _postgresql(["pg_restore", "--no-owner", f"--file={fill}", str(dumped)], settings)
    quiet = ["psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    _postgresql([*quiet, f"--file={drop}", f"--file={fill}"], settings)
    return None if former is None else str(former)


def _schema(settings: PortalSettings) -> str | None:
    """Return the version of the tables of a database; None where it has none."""
    engine = open_database(settings.database_url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def _disabled(settings: PortalSettings) -> tuple[str, ...]:
    """Return the accounts that are disabled now; none without a database, nor, with a warning, of one that cannot be read."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return ()
    engine = open_database(url)
    try:
        with engine.connect() as connection:
            return tuple(connection.scalars(select(Account.name).where(Account.disabled).order_by(Account.name)))
    except DatabaseError:
        _log.warning("the database that is there cannot be read: disable again the accounts that you disabled since the backup")
        return ()
    finally:
        engine.dispose()


def _merge(source: Path, target: Path) -> None:
    """Move what is not there: a job's folder as a whole, anything else file by file."""
    for place in sorted(source.iterdir()):
        there = target / place.name
        if not there.exists():
            shutil.move(place, there)
        elif place.is_dir() and place.parent.name != "jobs":
            _merge(place, there)


def _agree_with_ledgers(database: Database, settings: PortalSettings) -> tuple[int, int, tuple[str, ...], tuple[str, ...]]:
    """Let the database say of each job what its ledger says; jobs that had a process are left to the supervisor."""
    lost, jobs = [], database.all_jobs()
    for job in jobs:
        output = settings.data / "jobs" / job.id / OUTPUT
        ended = _is_complete(output)
        if job.state == COMPLETE and not ended:
            lost.append(job.id)
            database.change(job.id, (COMPLETE,), state=CANCELLED, reason=GONE)
        elif job.state not in (*ALIVE, COMPLETE, PLANNED) and ended:
            database.change(job.id, (job.state,), state=COMPLETE, reason=None)
    known = {job.id for job in jobs}
    folders = sorted((settings.data / "jobs").iterdir()) if (settings.data / "jobs").is_dir() else []
    unknown = tuple(str(folder) for folder in folders if folder.name not in known)
    return len(jobs), sum(job.state == COMPLETE for job in database.all_jobs()), tuple(lost), unknown


def _is_complete(output: Path) -> bool:
    try:
        return status(output).state == "complete"
    except (InputError, OutputError):
        return False
