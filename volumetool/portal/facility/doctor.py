"""What a portal finds on its machine, before and while it runs. Nothing is written but a file that is gone at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, func, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from volumetool.errors import ConfigError
from volumetool.listening.gate import is_loopback
from volumetool.machine import byte_limits, existing_folder, mount_of
from volumetool.notification import connect_to_mail
from volumetool.portal.accounts import hash_password
from volumetool.portal.facility.metrics import read_token
from volumetool.portal.queries import now, open_database, revisions
from volumetool.portal.serve import alone
from volumetool.portal.settings import PortalSettings
from volumetool.portal.tables import Account, Deed
from volumetool.redaction import redact
from volumetool.sites.doctor import CheckResult, Examination
from volumetool.units import show_bytes

NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p")
"""File systems of other machines: the write-ahead log of SQLite needs memory that all its users share."""

FASTEST, SLOWEST = 0.005, 1.0
"""Seconds within which a password should be hashed: long enough for who guesses, short enough for who waits."""

_CLOCK = 5.0
"""Seconds that the clocks of the machine and of its disk may differ."""

_PATIENCE = 10


def examine_portal(settings: PortalSettings) -> Examination:
    """Look at what a portal of these settings needs; the institution's login is not asked.

    Parameters
    ----------
    settings : PortalSettings
        From :func:`volumetool.portal.settings.read_settings`, which refuses what contradicts itself.
    """
    looked = (
        _folder(settings),
        *_running(settings),
        *_database(settings),
        *_roots(settings),
        _hashing(),
        _clock(settings),
        _reached(settings),
        *_metrics(settings),
        *_mail(settings),
        *_slurm(settings),
    )
    return Examination(looked)


def _folder(settings: PortalSettings) -> CheckResult:
    place = settings.data
    if not place.exists():
        above = existing_folder(place)
        if not os.access(above, os.W_OK | os.X_OK):
            return CheckResult("folder", "missing", f"{place}: {above} cannot be written to", "choose another `data`")
        return CheckResult("folder", "fine", f"{place} is not there yet", "volumetool serve makes it")
    mode = place.stat().st_mode & 0o077
    if mode or not os.access(place, os.W_OK | os.X_OK):
        why = f"open to others (mode {mode:03o} beyond its user)" if mode else "cannot be written to by this user"
        return CheckResult("folder", "missing", f"{place}: {why}", f"chmod 700 {place}, and chown it to the portal's user")
    return CheckResult("folder", "fine", f"{place} ({mount_of(place)[1]}), for its user alone")


def _running(settings: PortalSettings) -> Iterator[CheckResult]:
    if not (settings.data / "lock").exists():
        return
    try:
        with alone(settings):
            yield CheckResult("portal", "note", "none runs", "volumetool serve starts it; jobs that were left are found again")
    except (ConfigError, OSError) as error:
        yield CheckResult("portal", "fine", "one runs" if isinstance(error, ConfigError) else str(error))


def _database(settings: PortalSettings) -> Iterator[CheckResult]:
    url = make_url(settings.database_url)
    sqlite = url.get_backend_name() == "sqlite"
    place = Path(url.database or "")
    if sqlite and not place.exists():
        yield CheckResult("database", "fine", f"{place} is not there yet", "volumetool serve makes it")
        return
    if sqlite and (disk := mount_of(place)[1]) in NETWORK_DISKS:
        yield CheckResult(
            "disk", "missing", f"{place} lies on {disk}", "SQLite needs a disk of this machine; or use PostgreSQL"
        )
    try:
        engine = open_database(settings.database_url)
        yield _tables(engine)
        yield _room(engine, settings)
        engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        yield CheckResult("database", "missing", redact(str(error)).splitlines()[0], "see `database` in the settings")


def _tables(engine: Engine) -> CheckResult:
    known = revisions()
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite" and (said := connection.scalar(text("PRAGMA quick_check"))) != "ok":
            return CheckResult("database", "missing", f"it is damaged: {said}", "put a backup back: volumetool portal restore")
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    version = ".".join(map(str, engine.dialect.server_version_info or ()))
    told = f"{engine.dialect.name} {version}, tables of version {found}"
    if found not in known:
        return CheckResult("database", "missing", f"{told}, which this volumetool does not know", "install a newer one")
    old = found != known[0]
    means = f"volumetool serve brings them to {known[0]}: take a backup first" if old else ""
    return CheckResult("database", "note" if old else "fine", told, means)


def _room(engine: Engine, settings: PortalSettings) -> CheckResult:
    """Compare what accounts may have with what is left on the disk."""
    with engine.connect() as connection:
        accounts = int(connection.scalar(select(func.count()).select_from(Account.__table__).where(~Account.disabled)) or 0)
    left, whose = min(byte_limits(existing_folder(settings.data)), default=(0, "nobody"))
    asked = accounts * settings.quota
    told = f"{show_bytes(left)} left by {whose}; {accounts} accounts may have {show_bytes(settings.quota)} each"
    if asked > left:
        return CheckResult("room", "note", told, f"together {show_bytes(asked)}: the disk may be full before a quota is")
    return CheckResult("room", "fine", told)


def _roots(settings: PortalSettings) -> Iterator[CheckResult]:
    if not settings.roots:
        yield CheckResult("volumes", "note", "no folder is open to anybody", "name some in `roots`")
    for root in settings.roots:
        told = f"{root.path}, for {', '.join(root.accounts)}"
        if not root.path.is_dir() or not os.access(root.path, os.R_OK | os.X_OK):
            why = "cannot be read by this user" if root.path.is_dir() else "is not there"
            yield CheckResult("volumes", "note", f"{told}: it {why}", "jobs on its volumes are refused")
        elif settings.data.is_relative_to(root.path):
            yield CheckResult("volumes", "missing", told, "the portal's own folder lies in it: results of all would be open")
        else:
            yield CheckResult("volumes", "fine", told)


def _hashing() -> CheckResult:
    """Measure what a login costs, without and then with the price of the first one."""
    spent = []
    for _ in range(2):
        began = time.perf_counter()
        hash_password("how long does this take")
        spent.append(time.perf_counter() - began)
    told = f"{1000 * min(spent):.0f} ms of a core and 19 MiB for each login (argon2id)"
    if min(spent) > SLOWEST:
        return CheckResult("passwords", "note", told, "the machine is busy, or slow: logins wait for each other")
    if min(spent) < FASTEST:
        return CheckResult("passwords", "note", told, "quick for who guesses, too")
    return CheckResult("passwords", "fine", told)


def _clock(settings: PortalSettings) -> CheckResult:
    """Compare the machine's clock with the disk's, and with what the portal wrote last: logins and links end by it."""
    try:
        with tempfile.TemporaryFile(dir=existing_folder(settings.data)) as file:
            file.write(b"x")
            file.flush()
            apart = abs(os.fstat(file.fileno()).st_mtime - time.time())
    except OSError:
        apart = 0.0
    if apart > _CLOCK:
        return CheckResult("clock", "note", f"{apart:.0f} s apart from that of the disk", "let both ask a time server")
    last = _last_deed(settings)
    if last is not None and last > 60:
        return CheckResult("clock", "note", f"{last:.0f} s behind the last line of the audit log", "it was set back")
    return CheckResult("clock", "fine", f"{now():%Y-%m-%d %H:%M:%S} UTC")


def _last_deed(settings: PortalSettings) -> float | None:
    """Return by how many seconds the audit log is ahead."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None
    try:
        engine = open_database(settings.database_url)
        with engine.connect() as connection:
            last = connection.scalar(select(func.max(Deed.at)))
        engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError):
        return None  # said of the database already
    return None if last is None else (last - now()) / timedelta(seconds=1)


def _reached(settings: PortalSettings) -> CheckResult:
    local = is_loopback(settings.host)
    if settings.url is None:
        return CheckResult("reached", "fine", f"{settings.host}, by this machine alone", "for others: a proxy, and `url`")
    if settings.url.startswith("http://"):
        return CheckResult("reached", "fine", f"{settings.url}, by this machine alone")
    told = f"{settings.url}, by a proxy that asks {settings.host}:{settings.port}"
    if not local:
        return CheckResult("reached", "note", told, "this port speaks no TLS: let the proxy's machine alone reach it")
    return CheckResult("reached", "fine", told, "the proxy hands on Host, and sets X-Forwarded-For")


def _metrics(settings: PortalSettings) -> Iterator[CheckResult]:
    if settings.metrics is not None:
        try:
            read_token(settings.metrics)
            yield CheckResult("metrics", "fine", f"/metrics, for who shows the token in {settings.metrics}")
        except ConfigError as error:
            yield CheckResult("metrics", "missing", error.message, error.hint)


def _mail(settings: PortalSettings) -> Iterator[CheckResult]:
    if settings.mail is not None:
        try:
            with connect_to_mail(settings.mail.server) as connection:
                told = "sendmail" if connection is None else connection.noop()[1].decode(errors="replace")
            yield CheckResult("mail", "fine", f"the server answers: {told}; mails come from {settings.mail.sender}")
        except (OSError, ValueError) as error:
            yield CheckResult("mail", "note", redact(str(error)), "nobody is told how jobs end: see `mail` in the settings")


def _slurm(settings: PortalSettings) -> Iterator[CheckResult]:
    if settings.slurm is None:
        return
    lacking = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if lacking:
        yield CheckResult("SLURM", "missing", f"{', '.join(lacking)}: not here", "run the portal on a login node of the site")
        return
    try:
        done = subprocess.run(
            ["scontrol", "ping"],  # noqa: S607  (as the user's shell would find it)
            capture_output=True, text=True, timeout=_PATIENCE, check=False,
        )  # fmt: skip
        told = " ".join((done.stdout or done.stderr).split())
    except (OSError, subprocess.TimeoutExpired) as error:
        yield CheckResult("SLURM", "missing", str(error), "jobs cannot be submitted")
        return
    fine = done.returncode == 0 and "UP" in told
    yield CheckResult("SLURM", "fine" if fine else "missing", told, "" if fine else "jobs cannot be submitted")
