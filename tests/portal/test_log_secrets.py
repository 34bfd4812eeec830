"""A whole visit with every secret that there is: none of them is in what the portal says or logs."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from browsing import PASSWORD, Visitor, settings_of
from identity_server import CLIENT, SECRET, serve_identities
from test_institution import depart

from volumetool.logs import JsonFormatter, LogFormatter
from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings

WRONG, NEW = "a wrong password that was typed", "a new phrase that was chosen"

NOT_THE_PORTAL = ("httpx", "httpcore", "werkzeug", "authlib.oauth2.rfc")
"""Loggers of the browser and of the institution, which run in this process, too."""


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """Catch what every logger says, of libraries too, as the screen, a log file and JSON show it."""
    caught, root = io.StringIO(), logging.getLogger()
    handlers = [logging.StreamHandler(caught) for _ in range(3)]
    for handler, form in zip(
        handlers,
        (LogFormatter("%(message)s", traces=False), LogFormatter("%(message)s", traces=True), JsonFormatter()),
        strict=True,
    ):
        handler.setFormatter(form)
        handler.addFilter(lambda record: not record.name.startswith(NOT_THE_PORTAL))
        root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    yield caught
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def test_no_secret_of_a_visit_is_in_any_log(
    tmp_path: Path, said: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)  # as it is unless the program that calls asks for it
    (tmp_path / "secret").write_text(SECRET)
    secrets = {"password": PASSWORD, "wrong": WRONG, "new": NEW, "client": SECRET}
    with serve_identities() as server:
        oidc = {"issuer": server.issuer, "client_id": CLIENT, "client_secret_file": tmp_path / "secret"}
        with serve(PortalSettings(**settings_of(tmp_path, oidc=oidc))) as served:
            server.callbacks.add(f"{served.url}/login/institution/callback")
            secrets["first"] = str(served.invitation).rpartition("/")[2]
            admin = Visitor(served.url).join(str(served.invitation), "ada")
            secrets |= {"cookie": str(admin.token), "form": admin.form_token}
            secrets["invitation"] = admin.invite().rpartition("/")[2]
            Visitor(served.url).get(f"/join/{secrets['invitation']}")
            Visitor(served.url).log_in("ada", WRONG)
            made = admin.send("/account/tokens", name="n", scope="run", days="7").text
            secrets["token"] = re.search(r"(volumetool-[\w-]{40,})<", made)[1]  # type: ignore[index]
            shown = {"authorization": f"Bearer {secrets['token']}"}
            assert httpx.get(f"{served.url}/api/jobs", headers=shown, timeout=60).status_code == 200
            httpx.get(f"{served.url}/api/jobs?token={secrets['token']}", headers=shown, timeout=60)
            # the way to the institution and back, and a way back that is refused
            url = depart(admin, "/account/identities")
            secrets |= {name: value for name, value in parse_qsl(urlsplit(url).query) if name in ("state", "nonce")}
            back = dict(parse_qsl(urlsplit(httpx.get(url, timeout=60).headers["location"]).query))
            secrets |= {"code": back["code"], "away": admin.others["__Host-volumetool-institution"]}
            assert admin.get(f"/login/institution/callback?{urlencode(back)}").status_code == 303
            assert admin.get(f"/login/institution/callback?{urlencode(back)}").status_code == 403
            # a fault of the portal itself, whose trace is logged
            with monkeypatch.context() as patch:
                patch.setattr(Database, "jobs", None)
                assert admin.get("/").status_code == 500
                patch.setattr(Database, "login", None)
                unknown = admin.get(f"/shared/{secrets['invitation']}")
                assert (unknown.status_code, unknown.json()["code"]) == (500, "portal.fault")
            with monkeypatch.context() as patch:
                patch.setattr(Database, "invitation", None)
                assert admin.get(f"/join/{secrets['invitation']}").status_code == 500
            admin.send("/account/password", password=PASSWORD, new=NEW)
            admin.log_in("ada", NEW)
            secrets["again"] = str(admin.token)
            admin.send("/logout")
    told = said.getvalue() + "".join(capfd.readouterr())
    assert "/account/password" in told
    assert "Traceback" in told
    found = [name for name, secret in secrets.items() if secret in told]
    assert len(set(secrets.values())) == len(secrets) == 14
    assert not found
