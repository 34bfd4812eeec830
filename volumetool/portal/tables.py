"""The tables of the portal's database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, MetaData, String, TypeDecorator, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, PostgreSQL gives it back in the zone of its server."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Return the moment in UTC."""
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Return the moment in UTC, with its zone."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """Base of all tables; constraints have names, so that a migration can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Moment(), dict[str, Any]: JSON(), str: String(4096)}  # noqa: RUF012  (SQLAlchemy's way)


class Account(Table):
    """Somebody who may log in. `role` is user, operator (sees all jobs) or admin (invites, too).

    Without a password, the institution's login is the only way in. `mail` is told how jobs end; `mail_asked` will be, once the
    link with the token of this hash was used.
    """

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password: Mapped[str | None] = mapped_column(String(256))
    created: Mapped[datetime]
    disabled: Mapped[bool] = mapped_column(default=False)
    mail: Mapped[str | None] = mapped_column(String(320))
    mail_asked: Mapped[str | None] = mapped_column(String(320))
    mail_token: Mapped[str | None] = mapped_column(String(64))

    @property
    def sees(self) -> int | None:
        """Whose jobs it may see: its own number, None for all."""
        return self.id if self.role == "user" else None


class Identity(Table):
    """Somebody, as an institution names them for ever: issuer and subject, never the address of mail."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    issuer: Mapped[str] = mapped_column(String(1024))
    subject: Mapped[str] = mapped_column(String(255))
    linked: Mapped[datetime]


class ApiToken(Table):
    """What a program shows in place of a login. `scope` is read or run. The database knows its hash alone."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))
    created: Mapped[datetime]
    ends: Mapped[datetime]
    used: Mapped[datetime | None]


class Invitation(Table):
    """A link by which one account is made, or gets another password. The database knows the hash of its token alone.

    Where a `name` stands, the account has that one.
    """

    __tablename__ = "invitations"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    ends: Mapped[datetime]
    name: Mapped[str | None] = mapped_column(String(64))


class Login(Table):
    """A browser in which somebody is logged in. The database knows the hash of its token alone."""

    __tablename__ = "logins"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    form_token: Mapped[str] = mapped_column(String(64))
    began: Mapped[datetime]
    seen: Mapped[datetime]
    browser: Mapped[str] = mapped_column(String(256))


class PortalJob(Table):
    """A job that somebody asked for. How far it is stands in the job's own folder, never here."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    input: Mapped[str]
    options: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), index=True)
    estimates: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(BigInteger())
    attempts: Mapped[int] = mapped_column(default=0)
    process: Mapped[str | None] = mapped_column(String(256))
    reason: Mapped[str | None]
    asked: Mapped[datetime]
    began: Mapped[datetime | None]
    ended: Mapped[datetime | None]
    queued: Mapped[datetime | None]
    untold: Mapped[bool] = mapped_column(default=False, server_default=false())

    @property
    def volume(self) -> str:
        """What its owner calls the volume: the name of the uploaded file, or the path."""
        return str(self.estimates.get("volume") or self.input)


class Upload(Table):
    """A file that somebody sends, or has sent. How much of it is there is its length on the disk, never here."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(256))
    length: Mapped[int] = mapped_column(BigInteger())
    modified: Mapped[int] = mapped_column(BigInteger())
    state: Mapped[str] = mapped_column(String(16), index=True)
    file: Mapped[str | None] = mapped_column(String(32))
    facts: Mapped[dict[str, Any]]
    voxel_size: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str | None]
    touched: Mapped[datetime]


class Share(Table):
    """A link by which anybody may have the result of one job until it ends. The database knows the hash of its token alone."""

    __tablename__ = "shares"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    made: Mapped[datetime]
    ends: Mapped[datetime]


class Deed(Table):
    """A line of the audit log: who did what to what, from where."""

    __tablename__ = "deeds"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(String(64))
    what: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(256))
    address: Mapped[str] = mapped_column(String(64))
