"""A cluster of PostgreSQL of its own, on a socket in a temporary folder, for as long as the tests run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, text

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian puts the programs of servers
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=", "max_connections=60")
USER = "volumetool"


def missing() -> str | None:
    """Return why there is no PostgreSQL here, None where there is one."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None if _program("initdb") and _program("postgres") else "there is no PostgreSQL (Debian: postgresql)"


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, _PLACES)))


@contextmanager
def cluster() -> Iterator[URL]:
    """Run PostgreSQL while the block runs; yield the URL of its first database.

    It refuses to run as root: root starts it as nobody.
    """
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: names of sockets have at most 107 bytes
    data = folder / "data"
    try:
        if user:
            shutil.chown(folder, "nobody", "nogroup")
        make = [
            str(_program("initdb")),
            f"--pgdata={data}",
            f"--username={USER}",
            "--auth=trust",
            "--no-sync",
            "--locale=C.UTF-8",
        ]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, timeout=250, **user)
        options = [f"-c{option}" for option in (*_FAST, f"unix_socket_directories={folder}")]
        with (folder / "log").open("wb") as log:
            run = [str(_program("postgres")), "-D", str(data), *options]
            server = subprocess.Popen(run, stdout=log, stderr=log, cwd=folder, **user)
        try:
            _wait(server, data, folder / "log")
            yield URL.create("postgresql+psycopg", USER, database="postgres", query={"host": str(folder)})
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no client
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Wait until the server has written that it is ready."""
    pid = data / "postmaster.pid"
    while not (pid.exists() and [line.strip() for line in pid.read_text().splitlines()[-1:]] == ["ready"]):  # it may be empty
        assert server.poll() is None, log.read_text()
        try:
            server.wait(0.02)
        except subprocess.TimeoutExpired:
            continue


def new_database(of: URL, name: str) -> URL:
    """Return the URL of a new, empty database of a cluster."""
    engine = create_engine(of, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return of.set(database=name)
