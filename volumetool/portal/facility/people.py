"""Accounts as an operator sees to them at the command line: whoever may read the portal's folder needs no login."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from volumetool.errors import ConfigError
from volumetool.listening.gate import base_url
from volumetool.notification import is_address
from volumetool.portal.accounts import invite, why_no_name
from volumetool.portal.queries import Database
from volumetool.portal.settings import PortalSettings, make_folder
from volumetool.portal.tables import Account

OPERATOR = "(command line)"
"""In the audit log: no account can have this name."""


@dataclass(frozen=True)
class AccountFacts:
    """What an operator sees of an account.

    Attributes
    ----------
    name : str
        Its name.
    role : str
        user, operator or admin.
    mail : str or None
        Who is told how its jobs end.
    disabled : bool
        It may not log in.
    link : str or None
        By which its owner chooses a password.
    """

    name: str
    role: str
    mail: str | None
    disabled: bool
    link: str | None = None

    @property
    def words(self) -> str:
        """What stands behind its name."""
        return ", ".join(filter(None, (self.role, self.mail, "disabled" if self.disabled else None)))


def list_accounts(settings: PortalSettings) -> list[AccountFacts]:
    """Return the accounts, by name."""
    make_folder(settings)
    database = Database(settings)
    found = [_facts(account) for account in database.accounts()]
    database.engine.dispose()
    return found


def set_account(settings: PortalSettings, name: str, changes: dict[str, Any], *, link: bool = False) -> AccountFacts:
    """Change an account, or invite somebody to one of that name, which is made when the link is used.

    Parameters
    ----------
    settings : PortalSettings
        The portal's.
    name : str
        Name of the account.
    changes : dict
        ``role``, ``mail``, ``disabled``; None leaves one as it is.
    link : bool
        Make a link by which the owner of an account chooses another password.

    Raises
    ------
    ConfigError
        ``config.option``: a name or an address that cannot be; an address for an account that is not there yet.
    """
    given = {field: value for field, value in changes.items() if value is not None}
    mail = given.get("mail")
    if (wrong := why_no_name(name)) is not None:
        raise ConfigError("config.option", f"{name!r} cannot be a name", hint=wrong)
    if mail and not is_address(mail):
        raise ConfigError("config.option", f"{mail!r} is no address of mail", hint="write NAME@HOST")
    if mail is not None:
        given |= {"mail": mail or None, "mail_asked": None, "mail_token": None}
    make_folder(settings)
    database = Database(settings)
    found = next((account for account in database.accounts() if account.name == name), None)
    if found is None and given.keys() - {"role"}:
        raise ConfigError(
            "config.option", f"there is no account {name} yet", hint=f"volumetool portal user {name} makes a link for it first"
        )
    if found is not None and given:
        found = database.change_account(name, **given)
    role = found.role if found is not None else given.get("role", "user")
    token = invite(database, role, name) if link or found is None else None
    if given or token:
        told = [f"{field} {value}" for field, value in changes.items() if value is not None] + ["link"] * (token is not None)
        database.note(OPERATOR, "account set", f"{name}: {', '.join(told)}", "")
    database.engine.dispose()
    url = None if token is None else f"{settings.url or base_url(settings.host, settings.port)}/join/{token}"
    return _facts(found, url) if found is not None else AccountFacts(name, role, None, disabled=False, link=url)


def _facts(account: Account, link: str | None = None) -> AccountFacts:
    return AccountFacts(account.name, account.role, account.mail, account.disabled, link)
