"""Queries of identities of an institution, and of tokens of programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from volumetool.portal.queries.connection import Connection, now
from volumetool.portal.tables import Account, ApiToken, Identity

_USED = timedelta(minutes=1)
"""A token's last use is written down once in so long."""


class IdentityQueries(Connection):
    """Who is who at the institution, and programs that act for somebody."""

    def account_of(self, issuer: str, subject: str) -> Account | None:
        """Return the account of an identity, whether it may log in or not."""
        wanted = select(Account).join(Identity, Identity.account_id == Account.id)
        with self._reading() as session:
            return session.scalar(wanted.where(Identity.issuer == issuer, Identity.subject == subject))

    def enrol(self, name: str, issuer: str, subject: str) -> Account | None:
        """Make a user's account of an identity; None where the name or the identity has one.

        Parameters
        ----------
        name : str
            Of the account.
        issuer, subject : str
            The identity.
        """
        try:
            with self._writing() as session:
                account = Account(name=name, role="user", password=None, created=now(), disabled=False)
                session.add(account)
                session.flush()
                session.add(Identity(account_id=account.id, issuer=issuer, subject=subject, linked=now()))
            return account
        except IntegrityError:
            return None

    def link(self, account: int, issuer: str, subject: str) -> bool:
        """Link an identity with an account; return whether it was nobody's.

        Parameters
        ----------
        account : int
            Whose it is from then on.
        issuer, subject : str
            The identity.
        """
        try:
            with self._writing() as session:
                session.add(Identity(account_id=account, issuer=issuer, subject=subject, linked=now()))
            return True
        except IntegrityError:
            return False

    def identities(self, account: int) -> Sequence[Identity]:
        """Return an account's identities."""
        with self._reading() as session:
            return session.scalars(select(Identity).where(Identity.account_id == account).order_by(Identity.id)).all()

    def unlink(self, account: int, identity: int) -> bool | None:
        """Forget one of an account's identities; None where there is none such, False where it is the last way in."""
        with self._writing() as session:
            owner = session.scalar(select(Account).where(Account.id == account).with_for_update())
            found = session.scalar(select(Identity).where(Identity.id == identity, Identity.account_id == account))
            if found is None or owner is None:
                return None
            held = session.scalar(select(func.count()).select_from(Identity).where(Identity.account_id == account)) or 0
            if (owner.password is None or not self._settings.passwords) and held == 1:
                return False
            session.delete(found)
            return True

    def add_token(self, token: ApiToken) -> None:
        """Keep a token of a program; those that ended are forgotten."""
        with self._writing() as session:
            session.execute(delete(ApiToken).where(ApiToken.ends < now()))
            session.add(token)

    def token(self, token: str) -> tuple[ApiToken, Account] | None:
        """Return a token that has not ended, and for whom it acts, by its hash."""
        wanted = (
            select(ApiToken, Account)
            .join(Account, Account.id == ApiToken.account_id)
            .where(ApiToken.token == token, ApiToken.ends >= now(), ~Account.disabled)
        )
        with self._reading() as session:
            found = session.execute(wanted).first()
        if found is None:
            return None
        held, account = found
        if held.used is None or held.used < now() - _USED:
            with self._writing() as session:
                session.execute(
                    update(ApiToken).where(ApiToken.id == held.id).values(used=now())
                )  # it may have ended meanwhile
        return held, account

    def tokens(self, account: int) -> Sequence[ApiToken]:
        """Return an account's tokens that have not ended, the newest first."""
        wanted = select(ApiToken).where(ApiToken.account_id == account, ApiToken.ends >= now())
        with self._reading() as session:
            return session.scalars(wanted.order_by(ApiToken.id.desc())).all()

    def end_token(self, account: int, token: int) -> bool:
        """End one of an account's tokens; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(ApiToken).where(ApiToken.id == token, ApiToken.account_id == account))
            if found is not None:
                session.delete(found)
            return found is not None
