"""The database: how it is opened, brought up to date, and what every query begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy import Connection as Connected
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from volumetool.errors import ConfigError
from volumetool.portal.settings import PortalSettings
from volumetool.redaction import redact


def now() -> datetime:
    """Return the moment."""
    return datetime.now(UTC)


class Connection:
    """The portal's database, brought up to this version's tables.

    Parameters
    ----------
    settings : PortalSettings
        Where it is, and how long logins last.

    Raises
    ------
    ConfigError
        ``config.database``: it cannot be opened, or its tables cannot be brought up to date.
    """

    def __init__(self, settings: PortalSettings) -> None:
        self._settings = settings
        try:
            self.engine = open_database(settings.database_url)
            migrate(self.engine)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigError(
                "config.database",
                f"the portal's database {redact(str(settings.database_url))} cannot be used: {redact(str(error))}",
                hint="see `database` in the settings; of PostgreSQL the database itself and its user must be there",
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Open a transaction that sees no other one's half: SQLite's own lock, or locks of rows, keep others out."""
        with Session(self.engine.execution_options(immediate=True), expire_on_commit=False) as session, session.begin():
            yield session


def open_database(url: str | URL) -> Engine:
    """Return the engine of a database; its tables are left as they are."""
    engine = create_engine(url, pool_pre_ping=not str(url).startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 20000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _configure() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    return config


def revisions() -> tuple[str, ...]:
    """Return the versions of the tables that are known, the newest first."""
    return tuple(step.revision for step in ScriptDirectory.from_config(_configure()).walk_revisions())


def migrate(engine: Engine, version: str = "head") -> None:
    """Bring the tables of a database to a version, up or down.

    SQLite changes a table by making another one and dropping the first, which its foreign keys forbid once rows refer to it:
    they rest meanwhile, and are looked at after.
    """
    config = _configure()
    with engine.connect() as connection, _without_foreign_keys(connection):
        config.attributes["connection"] = connection
        down = version != "head"
        (command.downgrade if down else command.upgrade)(config, version)


@contextmanager
def _without_foreign_keys(connection: Connected) -> Iterator[None]:
    if connection.dialect.name != "sqlite":
        yield
        return
    own: Any = connection.connection.driver_connection  # no transaction is open: within one the pragma does nothing
    kept = own.execute("PRAGMA foreign_keys").fetchone()[0]
    own.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
        if lost := own.execute("PRAGMA foreign_key_check").fetchone():
            raise ValueError(f"a row of the table {lost[0]} refers to one of {lost[2]} that is not there")
    finally:
        own.execute(f"PRAGMA foreign_keys = {kept}")
