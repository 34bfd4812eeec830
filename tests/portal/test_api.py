"""What programs may ask: tokens and their scopes, each route of the API, its errors, and its description."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from browsing import PASSWORD, House, Visitor
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import update

from volumetool.portal.access.limits import LIMITS, Limits, place_of
from volumetool.portal.accounts import hash_token
from volumetool.portal.api import PREFIX, describe
from volumetool.portal.pages.routes import ROUTES, STREAMS
from volumetool.portal.problems import CODES
from volumetool.portal.queries import COMPLETE, PLANNED, now
from volumetool.portal.tables import ApiToken, Login
from volumetool.portal.web import COOKIE

SPOKEN = [(path.replace(":int", ""), method, role) for path, _, role, method in (*ROUTES, *STREAMS) if path.startswith(PREFIX)]


def make_token(visitor: Visitor, scope: str = "read", days: str = "30", **form: str) -> str:
    """Make a token; return it."""
    page = visitor.send("/account/tokens", name="notebook", scope=scope, days=days, **form)
    assert page.status_code == 200, page.text
    return page.text.partition('shown once: <code class="path">')[2].partition("<")[0]


def ask(house: House, token: str | None, method: str, path: str, wish: Any = None, **headers: str) -> httpx.Response:
    """Send a request as a program does: without cookies, and without Origin."""
    shown = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.request(method, house.url + path, json=wish, headers=shown | headers, timeout=60)


@pytest.fixture(scope="module")
def program(house: House) -> tuple[Visitor, str, str]:
    """Give somebody with two tokens, to read and to run."""
    visitor = house.newcomer("petra")
    return visitor, make_token(visitor), make_token(visitor, "run")


def test_a_token_is_shown_once_and_kept_as_its_hash(house: House, program: tuple[Visitor, str, str]) -> None:
    visitor, token, _ = program
    assert token.startswith("volumetool-")
    assert len(token) > 50
    assert token not in visitor.get("/account").text
    assert "notebook" in visitor.get("/account").text
    assert token not in house.stored()


@pytest.mark.parametrize(
    "form",
    [
        {"scope": "admin"},
        {"days": "0"},
        {"days": "367"},
        {"days": "x"},
        {"days": "9" * 40},
        {"days": "0000000010000"},
        {"name": ""},
        {"name": "n" * 65},
    ],
)
def test_a_token_that_is_not_as_it_may_be_is_not_made(house: House, form: dict[str, str]) -> None:
    asked = {"name": "n", "scope": "read", "days": "7", "password": PASSWORD} | form  # its login may be an old one by now
    assert house.admin.send("/account/tokens", **asked).status_code == 422


def test_each_end_of_a_token_is_its_end(house: House) -> None:
    visitor = house.newcomer("quentin")
    account = house.database.account("quentin")
    assert account is not None

    def status(token: str) -> int:
        return ask(house, token, "GET", "/api/jobs").status_code

    ended, old, kept = make_token(visitor), make_token(visitor), make_token(visitor)
    assert [status(token) for token in (ended, old, kept)] == [200, 200, 200]
    assert house.database.tokens(account.id)[0].used is not None
    numbers = [each.id for each in reversed(house.database.tokens(account.id))]
    assert house.newcomer("rudi").send(f"/account/tokens/{numbers[0]}/end").status_code == 404
    assert visitor.send(f"/account/tokens/{numbers[0]}/end").status_code == 303
    with house.database.engine.begin() as connection:
        past = now() - timedelta(seconds=1)
        connection.execute(update(ApiToken).where(ApiToken.id == numbers[1]).values(ends=past))
    assert [status(token) for token in (ended, old, kept)] == [401, 401, 200]
    house.admin.send(f"/people/{account.id}/disable")
    assert status(kept) == 401
    house.admin.send(f"/people/{account.id}/enable")
    visitor.log_in("quentin")
    visitor.send("/account/password", password=PASSWORD, new="another long one")
    assert status(kept) == 401


def test_another_way_in_wants_a_new_login_or_the_password(house: House) -> None:
    visitor = house.newcomer("steffi")
    account = house.database.account("steffi")
    assert account is not None
    form = visitor.form_token
    with house.database.engine.begin() as connection:
        connection.execute(update(Login).where(Login.account_id == account.id).values(began=now() - timedelta(hours=1)))
    asked = {"name": "n", "scope": "run", "days": "7", "form_token": form}
    assert visitor.ask("POST", "/account/tokens", asked).status_code == 403
    assert visitor.ask("POST", "/account/tokens", asked | {"password": "wrong"}).status_code == 403
    assert "Present password" in visitor.get("/account").text
    assert visitor.ask("POST", "/account/tokens", asked | {"password": PASSWORD}).status_code == 200


@pytest.mark.parametrize(("path", "method", "role"), SPOKEN)
def test_what_a_token_of_scope_read_may_do_is_get(
    house: House, program: tuple[Visitor, str, str], path: str, method: str, role: str | None
) -> None:
    place = path.replace("{job}", house.plan("petra")).replace("{upload}", "99999")
    answer = ask(house, program[1], method, place)
    assert (answer.status_code == 403) == (method not in ("GET", "HEAD", "OPTIONS"))
    if role is not None:
        for token in (None, "volumetool-unknown", program[0].token):
            refused = ask(house, token, method, place)
            assert refused.status_code in (401, 403)
            assert method != "GET" or refused.headers["www-authenticate"] == "Bearer"


def test_a_token_and_a_cookie_are_not_shown_together(house: House, program: tuple[Visitor, str, str]) -> None:
    visitor, token, _ = program
    both = ask(house, token, "GET", "/api/jobs", cookie=f"{COOKIE}={visitor.token}")
    assert (both.status_code, both.json()["code"]) == (400, "portal.request")
    shown = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{house.url}/", headers=shown, timeout=60).status_code == 303  # pages know no tokens
    assert ask(house, token, "GET", "/api/jobs", authorization=f"Basic {token}").status_code == 401


def test_a_cookie_does_nothing_without_the_token_of_its_forms(house: House, program: tuple[Visitor, str, str]) -> None:
    visitor, job = program[0], house.plan("petra")
    own = {"origin": house.url, "cookie": f"{COOKIE}={visitor.token}"}
    assert ask(house, None, "POST", f"/api/jobs/{job}/start", {}, **own).status_code == 403
    assert ask(house, program[2], "POST", f"/api/jobs/{job}/start", origin="https://elsewhere.example").status_code == 403
    found = house.database.job(job, None)
    assert found is not None
    assert found.state == PLANNED


def test_a_job_is_listed_started_stopped_and_deleted(house: House, program: tuple[Visitor, str, str]) -> None:
    job, token = house.plan("petra", 10), program[2]
    listed = ask(house, token, "GET", "/api/jobs").json()["jobs"]
    assert {"id": job, "state": "planned", "input": "/lab/in.tif", "account": "petra", "bytes": 10}.items() <= listed[0].items()
    assert ask(house, token, "GET", "/api/roots").json() == {"roots": [str(house.folder / "lab")]}
    assert "em-x4" in {model["name"] for model in ask(house, token, "GET", "/api/models").json()["models"]}
    assert ask(house, token, "GET", f"/api/jobs/{job}").json()["estimates"]["model"] == "em-x4"
    assert ask(house, token, "GET", f"/api/jobs/{job}/log").json() == {"log": ""}
    assert ask(house, token, "POST", f"/api/jobs/{job}/start").json()["state"] == "queued"
    ask(house, token, "POST", f"/api/jobs/{job}/stop")
    other = house.plan("petra", 10)
    assert ask(house, token, "POST", f"/api/jobs/{other}/remove").json() == {"id": other}
    assert ask(house, token, "GET", f"/api/jobs/{other}").status_code == 404
    unfinished = ask(house, token, "POST", f"/api/jobs/{job}/link", {"days": 7})
    assert (unfinished.status_code, unfinished.json()["code"]) == (409, "portal.state")
    done = house.plan("petra", 10, state=COMPLETE)
    link = ask(house, token, "POST", f"/api/jobs/{done}/link", {"days": 7})
    page, archive = link.json()["page"], link.json()["archive"]
    assert (link.status_code, archive) == (201, f"{page}/volume.zip")
    assert page.startswith(f"{house.url}/shared/")
    assert house.database.shared(hash_token(page.rpartition("/")[2])) is not None
    big = house.plan("petra", 10_000)
    full = ask(house, token, "POST", f"/api/jobs/{big}/start")
    assert (full.status_code, full.json()["code"]) == (409, "portal.state")


@pytest.mark.parametrize(
    ("wish", "headers", "status", "code"),
    [
        ({"input": "/elsewhere"}, {}, 422, "portal.value"),
        ({"input": "/x", "overwrite": True}, {}, 422, "portal.value"),
        ({"input": 7}, {}, 422, "portal.value"),
        ([], {}, 422, "portal.value"),
        ({"input": "/x"}, {"content-type": "text/plain"}, 415, "portal.media"),
        ({"input": "a" * 2**16}, {}, 413, "portal.size"),
    ],
)
def test_errors_are_those_of_rfc_9457_with_a_code(
    house: House, program: tuple[Visitor, str, str], wish: Any, headers: dict[str, str], status: int, code: str
) -> None:
    answer = ask(house, program[2], "POST", "/api/jobs", wish, **headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["type"], told["status"], told["code"]) == ("about:blank", status, code)
    assert told["title"]
    assert told["detail"]


def test_a_request_without_a_body_says_no_length(house: House, program: tuple[Visitor, str, str]) -> None:
    """As curl sends it with -X POST."""
    job, parts = house.plan("petra", 1), urlsplit(house.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
        head = f"POST /api/jobs/{job}/stop HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        connection.sendall(f"{head}Authorization: Bearer {program[2]}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_errors_of_the_library_keep_their_code(house: House, program: tuple[Visitor, str, str]) -> None:
    (house.folder / "lab" / "broken.tif").write_bytes(b"II*\0")
    told = ask(house, program[2], "POST", "/api/jobs", {"input": f"{house.folder}/lab/broken.tif"}).json()
    assert told["code"].startswith("input.")
    assert told["hint"]


def test_the_description_is_one_of_openapi_and_of_all_that_is_spoken(house: House) -> None:
    told = ask(house, None, "GET", "/api/openapi.json").json()
    assert told == describe((*ROUTES, *STREAMS))
    OpenAPIV31SpecValidator(told).validate()
    described = {(path, method.upper()) for path, methods in told["paths"].items() for method in methods}
    assert described == {(path, method) for path, method, _ in SPOKEN}
    names = [each["operationId"] for methods in told["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names))


def test_who_asks_too_often_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits()
    for kind, (most, seconds) in LIMITS.items():
        assert {limits.wait(kind, "ann") for _ in range(most)} == {0}
        assert 0 < limits.wait(kind, "ann") <= seconds
        assert limits.wait(kind, "bob") == 0
    assert place_of("2001:db8::1") == place_of("2001:db8::2") != place_of("2001:db8:0:1::1")
    visitor = house.newcomer("ulla")
    token = make_token(visitor)
    monkeypatch.setitem(LIMITS, "api", (3, 60))
    assert [ask(house, token, "GET", "/api/jobs").status_code for _ in range(3)] == [200, 200, 200]
    late = ask(house, token, "GET", "/api/jobs")
    assert (late.status_code, late.json()["code"]) == (429, "portal.limit")
    assert 0 < int(late.headers["retry-after"]) <= 60
    assert set(CODES) >= {400, 401, 403, 404, 409, 413, 415, 421, 422, 429, 500}
