"""Queries of links by which results are shared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Select, delete, select

from volumetool.portal.queries.connection import Connection, now
from volumetool.portal.queries.jobs import COMPLETE
from volumetool.portal.tables import Account, PortalJob, Share

MOST_SHARES = 100
"""Links of one result that have not ended."""


class ShareQueries(Connection):
    """Links by which anybody may have one result until they end."""

    def share(self, job: str, token: str, days: int) -> bool:
        """Keep the hash of a link's token; return whether the job is complete, and has room for another link.

        Parameters
        ----------
        job : str
            Whose result is shared.
        token : str
            Hash of the link's token.
        days : int
            When it ends.
        """
        with self._writing() as session:
            session.execute(delete(Share).where(Share.ends < now()))
            wanted = select(PortalJob.id).where(PortalJob.id == job, PortalJob.state == COMPLETE).with_for_update()
            if session.scalar(wanted) is None:
                return False
            if len(session.scalars(select(Share.id).where(Share.job_id == job)).all()) >= MOST_SHARES:
                return False
            session.add(Share(token=token, job_id=job, made=now(), ends=now() + timedelta(days=days)))
            return True

    def shares(self, job: str) -> Sequence[Share]:
        """Return the links of a result that have not ended, the last one first."""
        with self._reading() as session:
            return session.scalars(
                select(Share).where(Share.job_id == job, Share.ends >= now()).order_by(Share.id.desc())
            ).all()

    def shared(self, token: str) -> tuple[Share, PortalJob] | None:
        """Return a link that has not ended, and the complete job whose result it gives, by the hash of its token."""
        with self._reading() as session:
            found = session.execute(_lasting_shares().where(Share.token == token)).first()
        return None if found is None else (found[0], found[1])

    def job_of_share(self, share: int) -> PortalJob | None:
        """Return the complete job whose result a link gives, by the link's number, while it lasts."""
        with self._reading() as session:
            found = session.execute(_lasting_shares().where(Share.id == share)).first()
        return None if found is None else found[1]

    def end_share(self, job: str, share: int) -> bool:
        """End a link of a job; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(Share).where(Share.id == share, Share.job_id == job))
            if found is not None:
                session.delete(found)
            return found is not None


def _lasting_shares() -> Select[Share, PortalJob]:
    """Return the query of links that have not ended, and their jobs. Those of an account that may not log in give nothing."""
    joined = select(Share, PortalJob).join(PortalJob, PortalJob.id == Share.job_id).join(Account)
    return joined.where(Share.ends >= now(), PortalJob.state == COMPLETE, ~Account.disabled)
