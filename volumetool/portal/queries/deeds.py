"""Queries of the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from volumetool.portal.queries.connection import Connection, now
from volumetool.portal.tables import Deed


class DeedQueries(Connection):
    """The audit log: who did what to what, from where."""

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
