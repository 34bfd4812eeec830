"""Pages by which somebody logs in at the institution, joins with it, and links it with an account."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from volumetool.portal.access.institution import Members, NotBelieved, Provider, Subject
from volumetool.portal.access.limits import place_of
from volumetool.portal.access.sign_ins import SignIn
from volumetool.portal.accounts import hash_token, why_no_name
from volumetool.portal.pages.accounts import admit, confirm, find_invitation, show_join
from volumetool.portal.pools import runs_in
from volumetool.portal.tables import Account
from volumetool.portal.web import Refused, Visit, go_to

COOKIE = "__Host-volumetool-institution"
"""Of a browser that is away; no other one can come back in its place."""

_MOST_NAMES = 100


def _provider(visit: Visit) -> Provider:
    if visit.portal.provider is None:
        raise Refused(404, "There is nothing here.")
    return visit.portal.provider


def _send(visit: Visit, **purpose: Any) -> Response:
    """Send a browser to the institution: by a page, because browsers follow no form to another server."""
    provider = _provider(visit)
    visit.limit("institution")
    try:
        endpoints = provider.describe()
    except NotBelieved as why:
        raise _refusal(visit, why) from why
    cookie, question = visit.portal.sign_ins.begin(endpoints, **purpose)
    answer = visit.show("going.html", url=provider.url(question))
    answer.set_cookie(COOKIE, cookie, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _refusal(visit: Visit, why: NotBelieved) -> Refused:
    visit.note("institution refused", str(why))
    title = _provider(visit).institution.title
    return Refused(403, f"The answer of {title} was not accepted: {why}.\nBegin again, or tell the operator.")


@runs_in("institution")
def begin(visit: Visit) -> Response:
    """Send somebody to the institution, to log in."""
    return _send(visit)


@runs_in("institution")
def join(visit: Visit) -> Response:
    """Send somebody who was invited to the institution, to make an account without a password."""
    found, token = find_invitation(visit), visit.request.path_params["token"]
    name = found.name or visit.form.get("name", "").strip().lower()
    if wrong := why_no_name(name):
        return show_join(visit, found, name, wrong)
    if found.name is None and visit.database.is_taken(name):
        return show_join(visit, found, name, f"The name {name} is taken.")
    return _send(visit, invitation=hash_token(token), name=name)


@runs_in("institution")
def link(visit: Visit) -> Response:
    """Send somebody who is logged in to the institution, to log in by it from then on."""
    _provider(visit)
    confirm(visit)
    return _send(visit, account=visit.who.id)


@runs_in("passwords")
def unlink(visit: Visit) -> Response:
    """Forget an identity of one's own account."""
    confirm(visit)
    done = visit.database.unlink(visit.who.id, visit.request.path_params["identity"])
    if done is None:
        raise Refused(404, "There is no such identity.")
    if not done:
        raise Refused(409, "This is the only way into your account.")
    visit.note("identity unlinked")
    return go_to("/account")


@runs_in("institution")
def come_back(visit: Visit) -> Response:
    """Let somebody in who comes back from the institution."""
    provider = _provider(visit)
    visit.limit("institution", f"back {place_of(visit.address)}")
    given = dict(visit.request.query_params.multi_items())
    cookie, state = visit.request.cookies.get(COOKIE), given.get("state")
    sign_in = visit.portal.sign_ins.end(state, cookie) if cookie and state else None
    try:
        if sign_in is None or len(given) != len(visit.request.query_params.multi_items()):
            raise NotBelieved("this browser was not sent there, or too long ago")
        found = provider.answered(sign_in.question, given)
    except NotBelieved as why:
        raise _refusal(visit, why) from why
    answer = _let_in(visit, sign_in, found)
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _let_in(visit: Visit, sign_in: SignIn, found: Subject) -> Response:
    known = visit.database.account_of(found.issuer, found.subject)
    if sign_in.account is not None:
        return _link(visit, sign_in.account, found)
    if known is None and sign_in.invitation is not None:
        known = visit.database.accept(sign_in.invitation, str(sign_in.name), None, (found.issuer, found.subject))
        if known is None:
            raise Refused(409, "The name was taken meanwhile, or the invitation has ended. Open its link again.")
        return admit(visit, known, "joined", known.role)
    if known is None:
        known = _enrol(visit, found)
    if known is None or known.disabled:
        visit.note("institution refused", f"no account: {found.subject}")
        raise Refused(403, "You have no account here that may log in. Ask an administrator for an invitation.")
    return admit(visit, known, "login", "by the institution")


def _link(visit: Visit, account: int, found: Subject) -> Response:
    if visit.account is None or visit.account.id != account:
        raise Refused(403, "Who began this is no longer logged in here. Log in, and begin again.")
    if not visit.database.link(account, found.issuer, found.subject):
        raise Refused(409, "This identity is linked with an account already.")
    visit.note("identity linked", found.subject)
    return go_to("/account")


def _enrol(visit: Visit, found: Subject) -> Account | None:
    """Make an account for everybody whom the operator lets in, under a name that nobody has."""
    accounts = _provider(visit).institution.accounts
    if not isinstance(accounts, Members) or not accounts.include(found.claims):
        return None
    promised = {name for root in visit.portal.settings.roots for name in root.accounts}
    wish = _name_of(found)
    for number in range(1, _MOST_NAMES):
        name = wish if number == 1 else f"{wish}-{number}"
        if name in promised:
            continue  # folders are open to it: it is given by an invitation alone
        if (made := visit.database.enrol(name, found.issuer, found.subject)) is not None:
            visit.database.note(made.name, "joined", "by the institution", visit.address)
            return made
    return None


def _name_of(found: Subject) -> str:
    told = found.claims.get("preferred_username") or found.claims.get("email") or ""
    name = re.sub(r"[^a-z0-9._-]", "", str(told).partition("@")[0].lower())[:24].lstrip("0123456789._-")
    return name if len(name) > 1 else "member"
