"""For facilities: addresses of accounts, invitations for a name, and jobs whose owners wait to be told how they ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002_facility"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    with op.batch_alter_table("accounts") as accounts:
        accounts.add_column(sa.Column("mail", sa.String(320)))
        accounts.add_column(sa.Column("mail_asked", sa.String(320)))
        accounts.add_column(sa.Column("mail_token", sa.String(64)))
    with op.batch_alter_table("invitations") as invitations:
        invitations.add_column(sa.Column("name", sa.String(64)))
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("queued", sa.DateTime(timezone=True)))
        jobs.add_column(sa.Column("untold", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("untold")
        jobs.drop_column("queued")
    with op.batch_alter_table("invitations") as invitations:
        invitations.drop_column("name")
    with op.batch_alter_table("accounts") as accounts:
        for column in ("mail_token", "mail_asked", "mail"):
            accounts.drop_column(column)
