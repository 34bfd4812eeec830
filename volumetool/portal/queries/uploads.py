"""Queries of files that accounts send."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from volumetool.portal.queries.connection import now
from volumetool.portal.queries.jobs import ALIVE, QUEUED, RECEIVING, REFUSED, JobQueries
from volumetool.portal.tables import Account, PortalJob, Upload

MOST_UNFINISHED = 10
"""Uploads of an account that are not all there."""


class UploadQueries(JobQueries):
    """Files that accounts send; they take room as results do."""

    def add_upload(self, upload: Upload) -> int | str | None:
        """Keep an upload that begins; return why not: the bytes that its account lacks for it, or a sentence.

        The account's row is locked meanwhile, as when a job is started: the room that is left is given once.
        """
        with self._writing() as session:
            session.scalar(select(Account.id).where(Account.id == upload.account_id).with_for_update())
            unfinished = select(func.count()).where(Upload.account_id == upload.account_id, Upload.state == RECEIVING)
            if (session.scalar(unfinished) or 0) >= MOST_UNFINISHED:
                return f"{MOST_UNFINISHED} of your uploads are not finished. Finish or delete one of them first."
            left = self._settings.quota - self._taken(session, upload.account_id)
            if upload.length > left:
                return upload.length - left
            session.add(upload)
            return None

    def uploads(self, account: int | None) -> Sequence[tuple[Upload, str]]:
        """Return the uploads of an account, or of all, with names of accounts, the last one first."""
        wanted = select(Upload, Account.name).join(Account, Account.id == Upload.account_id)
        if account is not None:
            wanted = wanted.where(Upload.account_id == account)
        with self._reading() as session:
            return [(each, name) for each, name in session.execute(wanted.order_by(Upload.touched.desc()).limit(500))]

    def upload(self, upload: str, account: int | None) -> Upload | None:
        """Return an upload, of an account where one is given: another's is none."""
        wanted = select(Upload).where(Upload.id == upload)
        if account is not None:
            wanted = wanted.where(Upload.account_id == account)
        with self._reading() as session:
            return session.scalar(wanted)

    def uploads_in(self, state: str) -> Sequence[str]:
        """Return the numbers of the uploads in a state."""
        with self._reading() as session:
            return session.scalars(select(Upload.id).where(Upload.state == state)).all()

    def ended_uploads(self) -> Sequence[str]:
        """Return the numbers of uploads that nobody went on with, or that were refused, in the days that the settings give."""
        oldest = now() - timedelta(days=self._settings.upload_days)
        wanted = select(Upload.id).where(Upload.state.in_((RECEIVING, REFUSED)), Upload.touched < oldest)
        with self._reading() as session:
            return session.scalars(wanted).all()

    def change_upload(self, upload: str, expected: Sequence[str], **fields: Any) -> bool:
        """Change an upload that is in one of some states; return whether it was."""
        with self._writing() as session:
            found = session.scalar(select(Upload).where(Upload.id == upload, Upload.state.in_(expected)).with_for_update())
            if found is None:
                return False
            for name, value in fields.items():
                setattr(found, name, value)
            return True

    def remove_upload(self, upload: str, place: str) -> bool:
        """Forget an upload; return False, and keep it, where a job that waits or runs reads its file.

        Parameters
        ----------
        upload : str
            Its number.
        place : str
            Path of its file, as jobs name it.
        """
        with self._writing() as session:
            if (found := session.get(Upload, upload, with_for_update=True)) is None:
                return True
            session.scalar(select(Account.id).where(Account.id == found.account_id).with_for_update())
            reading = select(PortalJob.id).where(PortalJob.input == place, PortalJob.state.in_((QUEUED, *ALIVE)))
            if session.scalar(reading) is not None:
                return False
            session.delete(found)
            return True
