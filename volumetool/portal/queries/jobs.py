"""Queries of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from volumetool.portal.queries.connection import Connection, now
from volumetool.portal.tables import Account, PortalJob, Share, Upload

PLANNED, QUEUED, RUNNING, STOPPING = "planned", "queued", "running", "stopping"
COMPLETE, FAILED, CANCELLED = "complete", "failed", "cancelled"
"""States of a job in the queue. How much of it is done is for its own folder to say."""

RECEIVING, LOOKED_AT, USABLE, REFUSED = "receiving", "looked at", "ready", "refused"
"""States of an upload: its bytes come; they are all there and looked at; it can be used; it is no volume, and deleted."""

RESTING = (PLANNED, CANCELLED, FAILED)
"""States from which a job can be started, or started again."""

ALIVE = (RUNNING, STOPPING)
"""States in which a job has a process."""


STATES = (PLANNED, QUEUED, RUNNING, STOPPING, COMPLETE, FAILED, CANCELLED)


@dataclass(frozen=True)
class QueueFigures:
    """The queue in figures.

    Attributes
    ----------
    states : dict of str to int
        Jobs by state.
    oldest : datetime or None
        Since when the first of those in the queue waits.
    bytes : int
        Of results that accounts have asked for.
    accounts : int
        Accounts that may log in.
    """

    states: dict[str, int]
    oldest: datetime | None
    bytes: int
    accounts: int


class JobQueries(Connection):
    """Jobs: their turn, and the room that they take."""

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
            found.state, found.attempts, found.reason, found.ended, found.queued = QUEUED, 0, None, None, now()
            return None

    def remove(self, job: str) -> bool:
        """Forget a job without a process; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(PortalJob).where(PortalJob.id == job, PortalJob.state.in_((*RESTING, COMPLETE))))
            if found is not None:
                session.execute(delete(Share).where(Share.job_id == job))
                session.delete(found)
            return found is not None

    def bytes_left(self, account: int) -> int:
        """Return how many bytes of outputs and uploads an account may still ask for."""
        with self._reading() as session:
            return max(0, self._settings.quota - self._taken(session, account))

    @staticmethod
    def _taken(session: Session, account: int) -> int:
        results = select(func.sum(PortalJob.bytes)).where(PortalJob.account_id == account, PortalJob.state != PLANNED)
        uploads = select(func.sum(Upload.length)).where(Upload.account_id == account, Upload.state != REFUSED)
        return int(session.scalar(results) or 0) + int(session.scalar(uploads) or 0)

    def jobs(self, account: int | None = None) -> Sequence[tuple[PortalJob, str]]:
        """Return the jobs of an account, or of all, with names of accounts, the last one first."""
        wanted = select(PortalJob, Account.name).join(Account, Account.id == PortalJob.account_id)
        if account is not None:
            wanted = wanted.where(PortalJob.account_id == account)
        with self._reading() as session:
            return [(job, name) for job, name in session.execute(wanted.order_by(PortalJob.asked.desc()).limit(500))]

    def all_jobs(self) -> Sequence[PortalJob]:
        """Return all jobs, the first one first."""
        with self._reading() as session:
            return session.scalars(select(PortalJob).order_by(PortalJob.asked)).all()

    def job(self, job: str, account: int | None) -> PortalJob | None:
        """Return a job, of an account where one is given: another's is none."""
        wanted = select(PortalJob).where(PortalJob.id == job)
        if account is not None:
            wanted = wanted.where(PortalJob.account_id == account)
        with self._reading() as session:
            return session.scalar(wanted)

    def queue(self) -> QueueFigures:
        """Return the queue in figures."""
        with self._reading() as session:
            counted = dict(session.execute(select(PortalJob.state, func.count()).group_by(PortalJob.state)).all())
            oldest = session.scalar(select(func.min(PortalJob.queued)).where(PortalJob.state == QUEUED))
            taken = session.scalar(select(func.coalesce(func.sum(PortalJob.bytes), 0)).where(PortalJob.state != PLANNED))
            accounts = session.scalar(select(func.count()).select_from(Account).where(~Account.disabled))
        return QueueFigures({state: counted.get(state, 0) for state in STATES}, oldest, int(taken or 0), int(accounts or 0))

    def untold(self) -> Sequence[tuple[PortalJob, Account]]:
        """Return the jobs that have ended and of which nobody was told, and whose they are; the first one first."""
        wanted = select(PortalJob, Account).join(Account, Account.id == PortalJob.account_id).where(PortalJob.untold)
        with self._reading() as session:
            return [(job, account) for job, account in session.execute(wanted.order_by(PortalJob.ended).limit(100))]

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
