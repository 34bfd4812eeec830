"""Pages on which somebody makes and ends the tokens of programs."""

from __future__ import annotations

import secrets
from datetime import timedelta

from starlette.responses import Response

from volumetool.portal.accounts import SCOPES, TOKEN, hash_token
from volumetool.portal.pages.accounts import confirm, show_account
from volumetool.portal.pools import runs_in
from volumetool.portal.queries import now
from volumetool.portal.tables import ApiToken
from volumetool.portal.web import Refused, Visit, go_to


@runs_in("passwords")
def make_token(visit: Visit) -> Response:
    """Make a token, which is shown once."""
    confirm(visit)
    name, scope, days = (visit.form.get(field, "").strip() for field in ("name", "scope", "days"))
    if not 0 < len(name) <= 64 or scope not in SCOPES:
        raise Refused(422, f"A token has a name of at most 64 characters, and may {' or '.join(SCOPES)}.")
    if not (days.isdecimal() and len(days) < 10 and 1 <= int(days) <= visit.portal.settings.token_days):
        raise Refused(422, f"A token ends after 1 to {visit.portal.settings.token_days} days.")
    visit.limit("token")
    token = TOKEN + secrets.token_urlsafe(32)
    ends = now() + timedelta(days=int(days))
    made = ApiToken(account_id=visit.who.id, token=hash_token(token), name=name, scope=scope, created=now(), ends=ends)
    visit.database.add_token(made)
    visit.note("token made", f"{name} ({scope})")
    return show_account(visit, shown=token)


def end_token(visit: Visit) -> Response:
    """End one of one's own tokens."""
    if not visit.database.end_token(visit.who.id, visit.request.path_params["token"]):
        raise Refused(404, "There is no such token.")
    visit.note("token ended")
    return go_to("/account")
