"""Files that accounts send, and links by which results are shared."""

import sqlalchemy as sa
from alembic import op

revision = "0003_uploads"
down_revision = "0002_facility"


def upgrade() -> None:
    """Create the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account_id", sa.Integer(), sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("modified", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("file", sa.String(32)),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("voxel_size", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(4096)),
        sa.Column("touched", moment, nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("made", moment, nullable=False),
        sa.Column("ends", moment, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("shares", "uploads"):
        op.drop_table(table)
