"""Browsers that were sent to the institution's login, and are expected back."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volumetool.portal.access.institution import Question
from volumetool.portal.accounts import hash_token

_SECONDS = 600
"""Within so many a browser comes back."""

_MOST = 10_000
"""Browsers that are away at once; of more, the one that left first is forgotten."""


@dataclass(frozen=True)
class SignIn:
    """A browser that was sent to the institution.

    Attributes
    ----------
    question : Question
        What is known here alone.
    browser : str
        Hash of what its cookie holds.
    until : float
        End, on the monotonic clock.
    account : int or None
        Account that asked for a link with whoever comes back.
    invitation, name : str or None
        Hash of the token of an invitation that is accepted, and the name that was chosen.
    """

    question: Question
    browser: str
    until: float
    account: int | None = None
    invitation: str | None = None
    name: str | None = None


class SignIns:
    """Browsers that are away. They are kept in memory: what is lost with it is asked for again by one click."""

    def __init__(self) -> None:
        self._away: OrderedDict[str, SignIn] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, endpoints: Mapping[str, Any], **purpose: Any) -> tuple[str, Question]:
        """Return what the browser's cookie holds, and what it takes along.

        Parameters
        ----------
        endpoints : mapping
            The institution's description of itself.
        **purpose
            `account`, or `invitation` and `name`, of `SignIn`.
        """
        cookie = secrets.token_urlsafe(32)
        question = Question(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), endpoints)
        made = SignIn(question, hash_token(cookie), time.monotonic() + _SECONDS, **purpose)
        with self._lock:
            self._away[hash_token(question.state)] = made
            while len(self._away) > _MOST or next(iter(self._away.values())).until < time.monotonic():
                self._away.popitem(last=False)
        return cookie, question

    def end(self, state: str, cookie: str) -> SignIn | None:
        """Return who comes back, once; None for another browser, or one that was away too long."""
        with self._lock:
            found = self._away.get(hash_token(state))
            if found is None or not secrets.compare_digest(found.browser, hash_token(cookie)):
                return None  # what somebody else brings along ends nobody's way
            del self._away[hash_token(state)]
        return found if found.until >= time.monotonic() else None
