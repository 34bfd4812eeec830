"""Pages of administrators: accounts, invitations, and who did what."""

from __future__ import annotations

from starlette.responses import Response

from volumetool.portal.accounts import ROLES, invite
from volumetool.portal.web import Refused, Visit, go_to


def show_people(visit: Visit, link: str | None = None) -> Response:
    """Show accounts and the audit log."""
    return visit.show("people.html", accounts=visit.database.accounts(), deeds=visit.database.deeds(), roles=ROLES, link=link)


def invite_somebody(visit: Visit) -> Response:
    """Make an invitation, whose link is shown once."""
    role = visit.form.get("role", "user")
    token = invite(visit.database, role)
    visit.note("invited", role)
    return show_people(visit, f"{visit.origin}/join/{token}")


def disable(visit: Visit) -> Response:
    """Let an account log in no more; its jobs stay."""
    return _set_disabled(visit, disabled=True)


def enable(visit: Visit) -> Response:
    """Let an account log in again."""
    return _set_disabled(visit, disabled=False)


def _set_disabled(visit: Visit, *, disabled: bool) -> Response:
    account = visit.request.path_params["account"]
    if account == visit.who.id:
        raise Refused(409, "This is your own account.")
    name = next((each.name for each in visit.database.accounts() if each.id == account), None)
    if name is None or visit.database.change_account(name, disabled=disabled) is None:
        raise Refused(404, "There is no such account.")
    visit.note("disabled" if disabled else "enabled", name)
    return go_to("/people")
