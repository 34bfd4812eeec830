"""The portal's database: every query that is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Engine, create_engine, delete, event, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from volumetool.errors import ConfigError
from volumetool.portal.settings import PortalSettings
from volumetool.portal.tables import Account, Deed, Invitation, Login, PortalJob
from volumetool.redaction import redact

PLANNED, QUEUED, RUNNING, STOPPING = "planned", "queued", "running", "stopping"
COMPLETE, FAILED, CANCELLED = "complete", "failed", "cancelled"
"""States of a job in the queue. How much of it is done is for its own folder to say."""

RESTING = (PLANNED, CANCELLED, FAILED)
"""States from which a job can be started, or started again."""

ALIVE = (RUNNING, STOPPING)
"""States in which a job has a process."""

_SEEN = timedelta(minutes=1)
"""A login's last request is written down once in so long."""


def now() -> datetime:
    """Return the moment."""
    return datetime.now(UTC)


class Database:
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
            self.engine = _open(settings.database_url)
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

    # accounts

    def accounts(self) -> Sequence[Account]:
        """Return all accounts, by name."""
        with self._reading() as session:
            return session.scalars(select(Account).order_by(Account.name)).all()

    def account(self, name: str) -> Account | None:
        """Return the account of a name that may log in."""
        with self._reading() as session:
            return session.scalar(select(Account).where(Account.name == name, ~Account.disabled))

    def has_admin(self) -> bool:
        """Return whether anybody can invite others."""
        with self._reading() as session:
            return session.scalar(select(Account.id).where(Account.role == "admin", ~Account.disabled)) is not None

    def set_password(self, account: int, password: str) -> None:
        """Replace a hash of a password; all logins of the account end."""
        with self._writing() as session:
            session.get_one(Account, account).password = password
            session.execute(delete(Login).where(Login.account_id == account))

    def disable(self, account: int, *, disabled: bool) -> bool:
        """Let an account log in no more, or again; return whether there is one."""
        with self._writing() as session:
            if (found := session.get(Account, account)) is None:
                return False
            found.disabled = disabled
            session.execute(delete(Login).where(Login.account_id == account))
            return True

    # invitations

    def invite(self, token: str, role: str) -> None:
        """Keep the hash of an invitation's token."""
        with self._writing() as session:
            session.execute(delete(Invitation).where(Invitation.ends < now()))
            session.add(Invitation(token=token, role=role, ends=now() + timedelta(days=self._settings.invitation_days)))

    def withdraw_invitations(self) -> None:
        """End all invitations."""
        with self._writing() as session:
            session.execute(delete(Invitation))

    def invitation(self, token: str) -> Invitation | None:
        """Return an invitation that has not ended, by the hash of its token."""
        with self._reading() as session:
            return session.scalar(select(Invitation).where(Invitation.token == token, Invitation.ends >= now()))

    def accept(self, token: str, name: str, password: str) -> Account | None:
        """Make an account of an invitation, once; None where the name is taken or the invitation is gone.

        Parameters
        ----------
        token : str
            Hash of the invitation's token.
        name : str
            Name of the account.
        password : str
            Hash of its password.
        """
        try:
            with self._writing() as session:
                found = session.scalar(
                    select(Invitation).where(Invitation.token == token, Invitation.ends >= now()).with_for_update()
                )
                if found is None:
                    return None
                account = Account(name=name, role=found.role, password=password, created=now(), disabled=False)
                session.add(account)
                session.delete(found)
            return account
        except IntegrityError:
            return None

    # logins

    def log_in(self, account: int, token: str, form_token: str, browser: str) -> None:
        """Keep a login by the hash of its token.

        Parameters
        ----------
        account : int
            Whose it is.
        token : str
            Hash of its token.
        form_token : str
            What its forms hold.
        browser : str
            What the browser calls itself.
        """
        with self._writing() as session:
            session.execute(delete(Login).where(Login.seen < self._idle_since()))
            login = Login(
                account_id=account, token=token, form_token=form_token, began=now(), seen=now(), browser=browser[:256]
            )
            session.add(login)

    def login(self, token: str) -> tuple[Login, Account] | None:
        """Return a login that has not ended, and whose it is, by the hash of its token."""
        oldest = now() - timedelta(hours=self._settings.login_hours)
        wanted = (
            select(Login, Account)
            .join(Account, Account.id == Login.account_id)
            .where(Login.token == token, Login.began >= oldest, Login.seen >= self._idle_since(), ~Account.disabled)
        )
        with self._reading() as session:
            found = session.execute(wanted).first()
        if found is None:
            return None
        login, account = found
        if login.seen < now() - _SEEN:
            with self._writing() as session:
                session.get_one(Login, login.id).seen = now()
        return login, account

    def logins(self, account: int) -> Sequence[Login]:
        """Return an account's logins, the last one first."""
        with self._reading() as session:
            wanted = select(Login).where(Login.account_id == account, Login.seen >= self._idle_since())
            return session.scalars(wanted.order_by(Login.seen.desc())).all()

    def log_out(self, account: int, login: int) -> bool:
        """End one of an account's logins; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(Login).where(Login.id == login, Login.account_id == account))
            if found is not None:
                session.delete(found)
            return found is not None

    def _idle_since(self) -> datetime:
        return now() - timedelta(minutes=self._settings.idle_minutes)

    # jobs

    def add_plan(self, job: PortalJob) -> None:
        """Keep a job that is planned and takes no room yet."""
        with self._writing() as session:
            session.add(job)

    def start(self, job: str, account: int) -> int | None:
        """Queue a job that rests, where its account's outputs leave room for it; return the bytes that are missing otherwise.

        The account's row is locked meanwhile: of two jobs for which there is room for one, one is refused.
        """
        with self._writing() as session:
            session.scalar(select(Account.id).where(Account.id == account).with_for_update())
            found = session.scalar(select(PortalJob).where(PortalJob.id == job, PortalJob.state.in_(RESTING)).with_for_update())
            if found is None:
                return None
            left = self._settings.quota - self._taken(session, account)
            if found.state == PLANNED and found.bytes > left:
                return found.bytes - left
            found.state, found.attempts, found.reason, found.ended = QUEUED, 0, None, None
            return None

    def remove(self, job: str) -> bool:
        """Forget a job without a process; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(PortalJob).where(PortalJob.id == job, PortalJob.state.in_((*RESTING, COMPLETE))))
            if found is not None:
                session.delete(found)
            return found is not None

    def bytes_left(self, account: int) -> int:
        """Return how many bytes of outputs an account may still ask for."""
        with self._reading() as session:
            return max(0, self._settings.quota - self._taken(session, account))

    @staticmethod
    def _taken(session: Session, account: int) -> int:
        held = (PortalJob.account_id == account, PortalJob.state != PLANNED)
        return int(session.scalar(select(func.coalesce(func.sum(PortalJob.bytes), 0)).where(*held)) or 0)

    def jobs(self, account: int | None = None) -> Sequence[tuple[PortalJob, str]]:
        """Return the jobs of an account, or of all, with names of accounts, the last one first."""
        wanted = select(PortalJob, Account.name).join(Account, Account.id == PortalJob.account_id)
        if account is not None:
            wanted = wanted.where(PortalJob.account_id == account)
        with self._reading() as session:
            return [(job, name) for job, name in session.execute(wanted.order_by(PortalJob.asked.desc()).limit(500))]

    def job(self, job: str, account: int | None) -> PortalJob | None:
        """Return a job, of an account where one is given: another's is none."""
        wanted = select(PortalJob).where(PortalJob.id == job)
        if account is not None:
            wanted = wanted.where(PortalJob.account_id == account)
        with self._reading() as session:
            return session.scalar(wanted)

    def alive(self) -> Sequence[PortalJob]:
        """Return the jobs that have a process, as far as is known."""
        with self._reading() as session:
            return session.scalars(select(PortalJob).where(PortalJob.state.in_(ALIVE))).all()

    def next_job(self) -> PortalJob | None:
        """Return the job whose turn it is: of the accounts with the fewest running, the one that waited longest for a turn."""
        with self._reading() as session:
            waiting = session.scalars(select(PortalJob).where(PortalJob.state == QUEUED).order_by(PortalJob.asked)).all()
            running = dict(
                session.execute(
                    select(PortalJob.account_id, func.count()).where(PortalJob.state.in_(ALIVE)).group_by(PortalJob.account_id)
                ).all()
            )
            last = dict(
                session.execute(select(PortalJob.account_id, func.max(PortalJob.began)).group_by(PortalJob.account_id)).all()
            )
        never = datetime.min.replace(tzinfo=UTC)
        return min(waiting, key=lambda job: (running.get(job.account_id, 0), last[job.account_id] or never), default=None)

    def change(self, job: str, expected: Sequence[str], **fields: Any) -> bool:
        """Change a job that is in one of some states; return whether it was."""
        with self._writing() as session:
            found = session.scalar(
                select(PortalJob).where(PortalJob.id == job, PortalJob.state.in_(expected)).with_for_update()
            )
            if found is None:
                return False
            for name, value in fields.items():
                setattr(found, name, value)
            return True

    # audit

    def note(self, who: str, what: str, target: str, address: str) -> None:
        """Add a line to the audit log.

        Parameters
        ----------
        who, what, target : str
            Name of the account, the deed, and to what it was done.
        address : str
            Where the request came from.
        """
        with self._writing() as session:
            session.add(Deed(at=now(), who=who[:64], what=what[:64], target=target[:256], address=address[:64]))

    def deeds(self, most: int = 200) -> Sequence[Deed]:
        """Return the last lines of the audit log, the newest first."""
        with self._reading() as session:
            return session.scalars(select(Deed).order_by(Deed.id.desc()).limit(most)).all()


def _open(url: str | URL) -> Engine:
    engine = create_engine(url, pool_pre_ping=True)
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


def migrate(engine: Engine, version: str = "head") -> None:
    """Bring the tables of a database to a version, up or down."""
    config = Config()
    with resources.as_file(resources.files("volumetool.portal.migrations")) as scripts, engine.connect() as connection:
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        down = version != "head"
        (command.downgrade if down else command.upgrade)(config, version)
