"""Pages by which somebody logs in, comes by an invitation, and keeps the own account."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from volumetool.portal.access.limits import place_of
from volumetool.portal.accounts import (
    SCOPES,
    SHORTEST,
    begin_login,
    check_password,
    hash_password,
    hash_token,
    join,
    why_not,
)
from volumetool.portal.facility.mail import ask_to_confirm
from volumetool.portal.pools import runs_in
from volumetool.portal.queries import now
from volumetool.portal.tables import Account, Invitation
from volumetool.portal.web import COOKIE, Refused, Visit, go_to

WRONG = "Name or password is wrong, or there were too many tries. After ten wrong ones wait a quarter of an hour."

RECENT = timedelta(minutes=15)
"""A login that began within so long needs no other proof of who it is."""


def show_login(visit: Visit) -> Response:
    """Show the form of name and password."""
    return go_to("/") if visit.account else visit.show("login.html", wrong=None)


@runs_in("passwords")
def log_in(visit: Visit) -> Response:
    """Begin a login: the cookie is new, whatever the browser had."""
    _need_passwords(visit)
    name, password = visit.form.get("name", "").strip().lower(), visit.form.get("password", "")
    found = _checked(visit, name, password)
    if found is None:
        return visit.show("login.html", 403, wrong=WRONG)
    return admit(visit, found, "login")


def admit(visit: Visit, account: Account, what: str, target: str = "") -> Response:
    """Begin a login of an account, and end the one that this browser had.

    Parameters
    ----------
    visit : Visit
        The request.
    account : Account
        Who logs in.
    what, target : str
        For the audit log.
    """
    if visit.login is not None:
        visit.database.log_out(visit.who.id, visit.login.id)
    answer = go_to("/")
    token = begin_login(visit.database, account, visit.request.headers.get("user-agent", ""))
    answer.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="lax")
    visit.database.note(account.name, what, target, visit.address)
    visit.portal.supervisor.get_ready()  # whoever comes plans, or uploads
    return answer


def _need_passwords(visit: Visit) -> None:
    if not visit.portal.settings.passwords:
        raise Refused(404, "There are no passwords here: log in with your institution.")


def confirmation(visit: Visit) -> str:
    """Return what proves that nobody else sits at this browser: its login is new, a password, or nothing."""
    if visit.login is not None and visit.login.began >= now() - RECENT:
        return "login"
    return "password" if visit.who.password and visit.portal.settings.passwords else ""


def confirm(visit: Visit) -> None:
    """Refuse what would open another way into the account, unless it is proved who asks."""
    how = confirmation(visit)
    if not how:
        raise Refused(403, "Your login is not of the last minutes. Log out and in again, then do this.")
    if how == "password" and _checked(visit, visit.who.name, visit.form.get("password", "")) is None:
        raise Refused(403, "The present password is wrong.")


def _checked(visit: Visit, name: str, password: str) -> Account | None:
    tries, place = visit.portal.tries, place_of(visit.address)
    if not tries.are_left(place, name):
        return None  # neither counted nor noted: who goes on trying fills no memory and no database
    found = check_password(visit.database, name, password)
    if found is None:
        tries.count(place, name)
        visit.note("password refused", name)
    return found


def log_out(visit: Visit) -> Response:
    """End this login, on the server too."""
    assert visit.login is not None  # noqa: S101  (the page is for those who are logged in)
    visit.database.log_out(visit.who.id, visit.login.id)
    visit.note("logout")
    answer = go_to("/login")
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def show_invitation(visit: Visit) -> Response:
    """Show the form by which an account is made."""
    found = find_invitation(visit)
    return show_join(visit, found)


def find_invitation(visit: Visit) -> Invitation:
    """Return the invitation of the path."""
    found = visit.database.invitation(hash_token(visit.request.path_params["token"]))
    if found is None:
        visit.limit("absent", place_of(visit.address))
        raise Refused(404, "This invitation has ended, or was used. Ask an administrator for another one.")
    return found


def show_join(visit: Visit, invitation: Invitation, name: str = "", wrong: str | None = None) -> Response:
    """Show the forms of a new account, and what is wrong with what was sent.

    Parameters
    ----------
    visit : Visit
        The request.
    invitation : Invitation
        What is accepted.
    name : str
        What was chosen so far.
    wrong : str, optional
        What is wrong with it.
    """
    shown = {"name": invitation.name or name, "fixed": invitation.name is not None, "wrong": wrong, "shortest": SHORTEST}
    return visit.show("join.html", 422 if wrong else 200, token=visit.request.path_params["token"], **shown)


@runs_in("passwords")
def accept_invitation(visit: Visit) -> Response:
    """Make the account of an invitation, and log it in."""
    _need_passwords(visit)
    found, password = find_invitation(visit), visit.form.get("password", "")
    token, name = visit.request.path_params["token"], found.name or visit.form.get("name", "").strip().lower()
    wrong = why_not(name, password)
    made = None if wrong else join(visit.database, token, name, password)
    if made is None:
        return show_join(visit, found, name, wrong or f"The name {name} is taken.")
    return admit(visit, made, "joined", made.role)


def show_account(visit: Visit, wrong: str | None = None, shown: str | None = None) -> Response:
    """Show who is logged in where, identities of the institution, and programs.

    Parameters
    ----------
    visit : Visit
        The request.
    wrong : str, optional
        What is wrong with what was sent.
    shown : str, optional
        A new token, which is shown once.
    """
    return visit.show(
        "account.html",
        422 if wrong else 200,
        logins=visit.database.logins(visit.who.id),
        this=visit.login.id if visit.login else 0,
        shortest=SHORTEST,
        wrong=wrong,
        shown=shown,
        tokens=visit.database.tokens(visit.who.id),
        token_days=visit.portal.settings.token_days,
        scopes=SCOPES,
        identities=visit.database.identities(visit.who.id),
        confirmed=confirmation(visit),
        left=visit.database.bytes_left(visit.who.id),
        mails=visit.portal.settings.mail is not None,
    )


@runs_in("passwords")
def change_password(visit: Visit) -> Response:
    """Replace the password; all logins end, this one too, and the tokens of programs."""
    _need_passwords(visit)
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


@runs_in("institution")  # a mail server may take its time, too
def change_mail(visit: Visit) -> Response:
    """Send a link to an address; or forget the one that is told how jobs end."""
    address = visit.form.get("mail", "").strip()
    if visit.portal.settings.mail is None:
        raise Refused(404, "There is nothing here.")
    if not address:
        visit.database.change_account(visit.who.name, mail=None, mail_asked=None, mail_token=None)
        visit.note("address forgotten")
        return go_to("/account")
    visit.limit("mail")
    ask_to_confirm(visit.database, visit.portal.settings, visit.who, address, visit.origin)
    visit.note("address asked for", address)
    return go_to("/account")


def show_mail(visit: Visit) -> Response:
    """Show the button that confirms an address."""
    token = visit.request.path_params["token"]
    if visit.who.mail_token != hash_token(token):
        raise Refused(404, "This link was used, or is another account's.")
    return visit.show("mail.html", token=token, address=visit.who.mail_asked)


def confirm_mail(visit: Visit) -> Response:
    """Make an address the account's: who is logged in got the mail."""
    address = visit.database.confirm_mail(visit.who.id, hash_token(visit.request.path_params["token"]))
    if address is None:
        raise Refused(404, "This link was used, or is another account's.")
    visit.note("address confirmed", address)
    return go_to("/account")
