"""Queries of accounts, invitations and logins."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from volumetool.portal.queries.connection import Connection, now
from volumetool.portal.tables import Account, ApiToken, Identity, Invitation, Login, Share

_SEEN = timedelta(minutes=1)
"""A login's last request is written down once in so long."""


class AccountQueries(Connection):
    """Accounts, invitations by which they are made, and logins."""

    def accounts(self) -> Sequence[Account]:
        """Return all accounts, by name."""
        with self._reading() as session:
            return session.scalars(select(Account).order_by(Account.name)).all()

    def account(self, name: str) -> Account | None:
        """Return the account of a name that may log in."""
        with self._reading() as session:
            return session.scalar(select(Account).where(Account.name == name, ~Account.disabled))

    def is_taken(self, name: str) -> bool:
        """Return whether an account has a name, whether it may log in or not."""
        with self._reading() as session:
            return session.scalar(select(Account.id).where(Account.name == name)) is not None

    def has_admin(self) -> bool:
        """Return whether anybody can invite others."""
        with self._reading() as session:
            return session.scalar(select(Account.id).where(Account.role == "admin", ~Account.disabled)) is not None

    def set_password(self, account: int, password: str) -> None:
        """Replace a hash of a password; all logins of the account end, and its programs' tokens."""
        with self._writing() as session:
            session.get_one(Account, account).password = password
            session.execute(delete(Login).where(Login.account_id == account))
            session.execute(delete(ApiToken).where(ApiToken.account_id == account))

    def replace_hash(self, account: int, former: str, password: str) -> None:
        """Replace a hash of a password by another one of the same password, unless that was changed meanwhile.

        Parameters
        ----------
        account : int
            Whose it is.
        former, password : str
            The hash that is there, and the one that takes its place.
        """
        with self._writing() as session:
            session.execute(update(Account).where(Account.id == account, Account.password == former).values(password=password))

    def change_account(self, name: str, **fields: object) -> Account | None:
        """Change role, address or `disabled` of an account; return it, None where there is none. Logins end with `disabled`."""
        with self._writing() as session:
            found = session.scalar(select(Account).where(Account.name == name))
            for field, value in fields.items() if found is not None else ():
                setattr(found, field, value)
            if found is not None and "disabled" in fields:
                session.execute(delete(Login).where(Login.account_id == found.id))
            return found

    def confirm_mail(self, account: int, token: str) -> str | None:
        """Make the address that was asked for an account's, by the hash of its token; return it, None where it is another's."""
        with self._writing() as session:
            found = session.scalar(select(Account).where(Account.id == account, Account.mail_token == token))
            if found is None:
                return None
            found.mail, found.mail_asked, found.mail_token = found.mail_asked, None, None
            return found.mail

    def invite(self, token: str, role: str, name: str | None = None) -> None:
        """Keep the hash of an invitation's token.

        Parameters
        ----------
        token : str
            Hash of its token.
        role : str
            Role of the account.
        name : str, optional
            Of the account, where its owner does not choose it. One that is there gets another password; former links end.
        """
        with self._writing() as session:
            session.execute(delete(Invitation).where(Invitation.ends < now()))
            if name is not None:
                session.execute(delete(Invitation).where(Invitation.name == name))
            ends = now() + timedelta(days=self._settings.invitation_days)
            session.add(Invitation(token=token, role=role, ends=ends, name=name))

    def end_everything(self) -> dict[str, int]:
        """End all logins, invitations, tokens and links; return how many of each."""
        with self._writing() as session:
            ended = {}
            for name, table in (("logins", Login), ("invitations", Invitation), ("tokens", ApiToken), ("links", Share)):
                ended[name] = session.scalar(select(func.count()).select_from(table)) or 0
                session.execute(delete(table))
            session.execute(update(Account).values(mail_asked=None, mail_token=None))
            return ended

    def withdraw_invitations(self) -> None:
        """End all invitations."""
        with self._writing() as session:
            session.execute(delete(Invitation))

    def invitation(self, token: str) -> Invitation | None:
        """Return an invitation that has not ended, by the hash of its token."""
        with self._reading() as session:
            return session.scalar(select(Invitation).where(Invitation.token == token, Invitation.ends >= now()))

    def accept(self, token: str, name: str, password: str | None, identity: tuple[str, str] | None = None) -> Account | None:
        """Make an account of an invitation, or give it another password or identity, once.

        None where the name or the identity is taken, or the invitation is gone.

        Parameters
        ----------
        token : str
            Hash of the invitation's token.
        name : str
            Name of the account.
        password : str or None
            Hash of its password.
        identity : tuple of str, optional
            Issuer and subject by which somebody logs in.
        """
        try:
            with self._writing() as session:
                found = session.scalar(
                    select(Invitation).where(Invitation.token == token, Invitation.ends >= now()).with_for_update()
                )
                if found is None:
                    return None
                account = None
                if found.name is not None and (account := session.scalar(select(Account).where(Account.name == found.name))):
                    account.password = password or account.password
                    session.execute(delete(Login).where(Login.account_id == account.id))
                    session.execute(delete(ApiToken).where(ApiToken.account_id == account.id))
                if account is None:
                    name = found.name or name
                    account = Account(name=name, role=found.role, password=password, created=now(), disabled=False)
                    session.add(account)
                session.delete(found)
                if identity is not None:
                    session.flush()
                    issuer, subject = identity
                    session.add(Identity(account_id=account.id, issuer=issuer, subject=subject, linked=now()))
            return account
        except IntegrityError:
            return None

    def log_in(self, account: int, token: str, form_token: str, browser: str) -> None:
        """Keep a login by the hash of its token.

        Parameters
        ----------
        account : int
            Whose it is.
        token : str
            Hash of its token.
        form_token : str
            What its forms hold.
        browser : str
            What the browser calls itself.
        """
        with self._writing() as session:
            session.execute(delete(Login).where(Login.seen < self._idle_since()))
            login = Login(
                account_id=account, token=token, form_token=form_token, began=now(), seen=now(), browser=browser[:256]
            )
            session.add(login)

    def login(self, token: str) -> tuple[Login, Account] | None:
        """Return a login that has not ended, and whose it is, by the hash of its token."""
        with self._reading() as session:
            found = session.execute(self._lasting().where(Login.token == token)).first()
        if found is None:
            return None
        login, account = found
        if login.seen < now() - _SEEN:
            with self._writing() as session:
                session.execute(update(Login).where(Login.id == login.id).values(seen=now()))  # it may have ended meanwhile
        return login, account

    def account_of_login(self, login: int) -> Account | None:
        """Return whose a login is, by its number, while it lasts; it is not taken for a request of it."""
        with self._reading() as session:
            found = session.execute(self._lasting().where(Login.id == login)).first()
        return None if found is None else found[1]

    def _lasting(self) -> Select[Login, Account]:
        """Return the query of logins that have not ended, and whose they are."""
        oldest = now() - timedelta(hours=self._settings.login_hours)
        joined = select(Login, Account).join(Account, Account.id == Login.account_id)
        return joined.where(Login.began >= oldest, Login.seen >= self._idle_since(), ~Account.disabled)

    def logins(self, account: int) -> Sequence[Login]:
        """Return an account's logins, the last one first."""
        with self._reading() as session:
            wanted = select(Login).where(Login.account_id == account, Login.seen >= self._idle_since())
            return session.scalars(wanted.order_by(Login.seen.desc())).all()

    def log_out(self, account: int, login: int) -> bool:
        """End one of an account's logins; return whether there was one."""
        with self._writing() as session:
            found = session.scalar(select(Login).where(Login.id == login, Login.account_id == account))
            if found is not None:
                session.delete(found)
            return found is not None

    def _idle_since(self) -> datetime:
        return now() - timedelta(minutes=self._settings.idle_minutes)
