"""Pages by which somebody logs in, comes by an invitation, and keeps the own account."""

from __future__ import annotations

from starlette.responses import Response

from volumetool.portal.accounts import (
    SHORTEST,
    begin_login,
    check_password,
    hash_password,
    hash_token,
    join,
    why_not,
)
from volumetool.portal.tables import Account, Invitation
from volumetool.portal.web import COOKIE, Refused, Visit, go_to

WRONG = "Name or password is wrong, or there were too many tries. After ten wrong ones wait a quarter of an hour."


def show_login(visit: Visit) -> Response:
    """Show the form of name and password."""
    return go_to("/") if visit.account else visit.show("login.html", wrong=None)


def log_in(visit: Visit) -> Response:
    """Begin a login: the cookie is new, whatever the browser had."""
    name, password = visit.form.get("name", "").strip().lower(), visit.form.get("password", "")
    found = _checked(visit, name, password)
    if found is None:
        return visit.show("login.html", 403, wrong=WRONG)
    answer = go_to("/")
    _set_cookie(answer, begin_login(visit.database, found, visit.request.headers.get("user-agent", "")))
    visit.database.note(found.name, "login", "", visit.address)
    return answer


def _checked(visit: Visit, name: str, password: str) -> Account | None:
    tries = visit.portal.tries
    if not tries.are_left(visit.address, name):
        return None  # neither counted nor noted: who goes on trying fills no memory and no database
    found = check_password(visit.database, name, password)
    if found is None:
        tries.count(visit.address, name)
        visit.note("password refused", name)
    return found


def _set_cookie(answer: Response, token: str) -> None:
    answer.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="lax")


def log_out(visit: Visit) -> Response:
    """End this login, on the server too."""
    assert visit.login is not None  # noqa: S101  (the page is for those who are logged in)
    visit.database.log_out(visit.who.id, visit.login.id)
    visit.note("logout")
    answer = go_to("/login")
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def show_invitation(visit: Visit) -> Response:
    """Show the form by which an account is made."""
    found = _invitation(visit)
    return visit.show("join.html", wrong=None, name=found.name or "", fixed=found.name is not None, shortest=SHORTEST)


def _invitation(visit: Visit) -> Invitation:
    found = visit.database.invitation(hash_token(visit.request.path_params["token"]))
    if found is None:
        raise Refused(404, "This invitation has ended, or was used. Ask an administrator for another one.")
    return found


def accept_invitation(visit: Visit) -> Response:
    """Make the account of an invitation, and log it in."""
    found, password = _invitation(visit), visit.form.get("password", "")
    token, name = visit.request.path_params["token"], found.name or visit.form.get("name", "").strip().lower()
    wrong = why_not(name, password)
    made = None if wrong else join(visit.database, token, name, password)
    if made is None:
        shown = {"wrong": wrong or f"The name {name} is taken.", "name": name, "fixed": found.name is not None}
        return visit.show("join.html", 422, **shown, shortest=SHORTEST)
    visit.database.note(made.name, "joined", made.role, visit.address)
    answer = go_to("/")
    _set_cookie(answer, begin_login(visit.database, made, visit.request.headers.get("user-agent", "")))
    return answer


def show_account(visit: Visit, wrong: str | None = None) -> Response:
    """Show who is logged in where."""
    return visit.show(
        "account.html",
        422 if wrong else 200,
        logins=visit.database.logins(visit.who.id),
        this=visit.login.id if visit.login else 0,
        shortest=SHORTEST,
        wrong=wrong,
        left=visit.database.bytes_left(visit.who.id),
    )


def change_password(visit: Visit) -> Response:
    """Replace the password; all logins end, this one too."""
    name, new = visit.who.name, visit.form.get("new", "")
    if _checked(visit, name, visit.form.get("password", "")) is None:
        return show_account(visit, "The present password is wrong.")
    if wrong := why_not(name, new):
        return show_account(visit, wrong)
    visit.database.set_password(visit.who.id, hash_password(new))
    visit.note("password changed")
    return go_to("/login")


def end_login(visit: Visit) -> Response:
    """End one of one's own logins."""
    if not visit.database.log_out(visit.who.id, visit.request.path_params["login"]):
        raise Refused(404, "There is no such login.")
    visit.note("login ended")
    return go_to("/account")
