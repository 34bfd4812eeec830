"""Identities of institutions, tokens of programs, and accounts that have no password."""

import secrets

import sqlalchemy as sa
from alembic import op
from argon2 import PasswordHasher

revision = "0004_identities"
down_revision = "0003_uploads"


def upgrade() -> None:
    """Create the tables; a password may be missing."""
    moment = sa.DateTime(timezone=True)
    with op.batch_alter_table("accounts") as accounts:
        accounts.alter_column("password", existing_type=sa.String(256), nullable=True)
    op.create_table(
        "identities",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("account_id", sa.Integer(), sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("issuer", sa.String(1024), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("linked", moment, nullable=False),
        sa.UniqueConstraint("issuer", "subject"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("account_id", sa.Integer(), sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("ends", moment, nullable=False),
        sa.Column("used", moment),
    )


def downgrade() -> None:
    """Drop them; accounts without a password get one that nobody knows."""
    for table in ("tokens", "identities"):
        op.drop_table(table)
    accounts = sa.table("accounts", sa.column("password", sa.String))
    unknown = PasswordHasher().hash(secrets.token_urlsafe())
    op.execute(accounts.update().where(accounts.c.password.is_(None)).values(password=unknown))
    with op.batch_alter_table("accounts") as changed:
        changed.alter_column("password", existing_type=sa.String(256), nullable=False)
