"""The portal's database: every query that is made of it."""

from __future__ import annotations

from volumetool.portal.queries.accounts import AccountQueries
from volumetool.portal.queries.connection import migrate, now, open_database, revisions
from volumetool.portal.queries.deeds import DeedQueries
from volumetool.portal.queries.identities import IdentityQueries
from volumetool.portal.queries.jobs import (
    ALIVE,
    CANCELLED,
    COMPLETE,
    FAILED,
    LOOKED_AT,
    PLANNED,
    QUEUED,
    RECEIVING,
    REFUSED,
    RESTING,
    RUNNING,
    STOPPING,
    USABLE,
)
from volumetool.portal.queries.shares import ShareQueries
from volumetool.portal.queries.uploads import UploadQueries

__all__ = [
    "ALIVE",
    "CANCELLED",
    "COMPLETE",
    "FAILED",
    "LOOKED_AT",
    "PLANNED",
    "QUEUED",
    "RECEIVING",
    "REFUSED",
    "RESTING",
    "RUNNING",
    "STOPPING",
    "USABLE",
    "Database",
    "migrate",
    "now",
    "open_database",
    "revisions",
]


class Database(AccountQueries, IdentityQueries, UploadQueries, ShareQueries, DeedQueries):
    """The portal's database, brought up to this version's tables; each file of this folder has the queries of one subject."""
