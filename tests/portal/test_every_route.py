"""Promises of every route, made from the table of routes: a new one cannot be forgotten."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from browsing import House, Visitor

from volumetool.portal.accounts import hash_token
from volumetool.portal.guard import HEADERS
from volumetool.portal.pages import routes
from volumetool.portal.queries import now
from volumetool.portal.tables import ApiToken, Share, Upload
from volumetool.portal.web import COOKIE, READING, UPLOADS

PLACES = [(path, method, role) for path, _, role, method in (*routes.ROUTES, *getattr(routes, "STREAMS", ()))]
LONG = timedelta(days=36_500)
"""After which tokens and links end."""

CHANGING = [(path, method) for path, method, role in PLACES if method not in READING and role is not None]
PARAMETER = re.compile(r"(\w*)/\{(\w+)(?::\w+)?\}")

Maker = Callable[[House, str], str]


def number_of(house: House, name: str) -> int:
    account = house.database.account(name)
    assert account is not None
    return account.id


def login(house: House, name: str) -> str:
    return str(house.database.logins(number_of(house, name))[0].id)


def identity(house: House, name: str) -> str:
    subject, account = secrets.token_hex(8), number_of(house, name)
    assert house.database.link(account, "https://idp.example.org", subject)
    return str(house.database.identities(account)[-1].id)


def token(house: House, name: str) -> str:
    account = number_of(house, name)
    fields = {"token": secrets.token_hex(32), "name": "n", "scope": "read", "created": now(), "ends": now() + LONG}
    house.database.add_token(ApiToken(account_id=account, **fields))
    return str(house.database.tokens(account)[0].id)


def upload(house: House, name: str) -> str:
    number = secrets.token_hex(8)
    fields = {"name": "a.tif", "length": 10, "modified": 0, "state": "waiting", "facts": {}, "voxel_size": "", "touched": now()}
    with house.database._writing() as session:
        session.add(Upload(id=number, account_id=number_of(house, name), **fields))
    return number


def share(house: House, name: str) -> str:
    with house.database._writing() as session:
        made = Share(token=secrets.token_hex(32), job_id=house.plan(name), made=now(), ends=now() + LONG)
        session.add(made)
        session.flush()
        return str(made.id)


def mail(house: House, name: str) -> str:
    told = secrets.token_urlsafe(32)
    house.database.change_account(name, mail_asked="anna@example.org", mail_token=hash_token(told))
    return told


OWNED: dict[str, Maker] = {
    "jobs/job": House.plan,
    "logins/login": login,
    "identities/identity": identity,
    "tokens/token": token,
    "uploads/upload": upload,
    "shares/share": share,
    "mail/token": mail,
}
"""By what stands before it in a path and its name: what belongs to one account, and how it is made."""

OTHERS = {"pages/page": "report", "people/account": "99999", "join/token": "x", "shared/token": "x", "/path": "x"}
"""What belongs to nobody, and an example: kinds of pages, what administrators see, and links that are their own proof."""


def filled(path: str, house: House, name: str) -> str:
    """Return a path with objects of somebody."""
    known = {key: OWNED[key](house, name) for key in keys(path) if key in OWNED} | OTHERS
    return PARAMETER.sub(lambda found: f"{found[1]}/{known[f'{found[1]}/{found[2]}']}", path)


def keys(path: str) -> list[str]:
    return [f"{found[1]}/{found[2]}" for found in PARAMETER.finditer(path)]


TUS = {"tus-resumable": "1.0.0", "upload-offset": "0", "content-type": "application/offset+octet-stream"}
"""What the protocol of uploads wants of every request."""


def ask(visitor: Visitor, method: str, place: str, form_token: str) -> httpx.Response:
    """Send a request with a token of forms, as a form, an upload or a script does."""
    given = {"origin": visitor.url, "x-form-token": form_token} | (TUS if place.startswith(UPLOADS) else {})
    if method == "POST" and place.startswith("/api/jobs"):
        given |= {"cookie": f"{COOKIE}={visitor.token}"}
        return httpx.post(visitor.url + place, json={}, headers=given, timeout=60)
    return visitor.ask(method, place, {"form_token": form_token}, **given)


@pytest.fixture(scope="module")
def people(house: House) -> tuple[Visitor, Visitor]:
    """Give an owner, and somebody who has nothing to do with it."""
    return house.newcomer("olga"), house.newcomer("sven")


def test_it_is_known_of_every_parameter_whose_it_is() -> None:
    """Who adds a route with an object of its own says here how one is made."""
    found = {key for path, _, _ in PLACES for key in keys(path)}
    assert found <= OWNED.keys() | OTHERS.keys()


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, method, _ in PLACES if any(key in OWNED for key in keys(path))]
)
def test_an_object_of_somebody_else_does_not_exist(
    house: House, people: tuple[Visitor, Visitor], path: str, method: str
) -> None:
    owner, stranger = people
    place = filled(path, house, "olga")
    before = house.stored()
    answer = ask(stranger, method, place, stranger.form_token)
    assert answer.status_code == 404, answer.text
    assert house.stored() == before
    if method == "GET":
        assert "There is no such" not in owner.get(place).text


@pytest.mark.parametrize(("path", "method"), CHANGING)
def test_nothing_changes_without_the_token_of_the_forms_or_from_another_origin(
    house: House, people: tuple[Visitor, Visitor], path: str, method: str
) -> None:
    _, stranger = people
    place = filled(path, house, "ada")
    before = house.stored()
    form = house.admin.form_token
    for given in ("x", stranger.form_token):
        assert ask(house.admin, method, place, given).status_code == 403
    for origin in ("https://elsewhere.example", "null", ""):
        assert house.admin.ask(method, place, {"form_token": form}, origin=origin).status_code == 403
    assert house.stored() == before


@pytest.mark.parametrize("path", [path for path, method, _ in PLACES if method == "GET"])
def test_what_is_looked_at_is_not_changed(house: House, path: str) -> None:
    place = filled(path, house, "ada")
    before = house.stored()
    house.admin.get(place)
    house.admin.ask("HEAD", place)
    assert house.stored() == before


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, method, _ in PLACES if method != "GET"])
def test_answers_to_all_methods_have_the_headers(house: House, path: str, method: str) -> None:
    answer = Visitor(house.url).ask(method, filled(path, house, "ada"), {}, origin=house.url)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_the_character_nul_is_refused_in_a_sentence_wherever_it_stands(house: House) -> None:
    """PostgreSQL keeps no text with it: an address, a query, a form or JSON with it reaches no database."""
    form = house.admin.form_token
    for path, method, _ in PLACES:
        place = PARAMETER.sub(r"\1/%00x", path) if "int}" not in path else filled(path, house, "ada")
        asked = [(place, {"form_token": form})] if "%00" in place else []
        asked += [(f"{filled(path, house, 'ada')}?box=%00", {"form_token": form})]
        for where, given in asked:
            answer = house.admin.ask(method, where, given, **{"x-form-token": form})
            if method != "HEAD":
                assert (answer.status_code, "NUL" in answer.text) == (400, True), (method, where)
    for path in ("/login", "/new", "/people/invite", "/account/mail", "/account/tokens"):
        for name in ("name", "input", "role", "mail", "\0"):
            answer = house.admin.ask("POST", path, {"form_token": form, name: "a\0b"})
            assert (answer.status_code, "NUL" in answer.text) == (422, True), (path, name)
    for name in ("input", "model", "voxel_size", "roi", "upload"):
        answer = house.admin.send("/api/jobs", **{name: "a\0b"})
        assert (answer.status_code, "NUL" in answer.text) == (422, True), name
