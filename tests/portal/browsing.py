"""A portal that is really served, and browsers that visit it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from volumetool.portal.accounts import invite
from volumetool.portal.queries import PLANNED, Database, now
from volumetool.portal.tables import PortalJob, Table
from volumetool.portal.web import COOKIE, READING

PASSWORD = "plain words are long"

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here speaks TLS; without it, httpx reads all certificates of the system for each request."""


@dataclass
class Visitor:
    """A browser: it keeps the cookie, which httpx would not send without TLS, and sends Origin with forms."""

    url: str
    token: str | None = None
    forms: tuple[str | None, str] | None = None
    others: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a request; redirections are not followed."""
        sent = {"origin": self.url} if method not in READING else {}
        if self.token is not None:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in {COOKIE: self.token, **self.others}.items())
        elif self.others:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.others.items())
        answer = httpx.request(
            method, self.url + path, data=form if method == "POST" else None, headers=sent | headers, timeout=60, verify=TLS
        )
        for cookie in answer.headers.get_list("set-cookie"):
            found = re.match(r'(__Host-[a-z-]+)=("?)([^;"]*)\2;', cookie)
            assert found is not None, cookie
            if found[1] == COOKIE:
                self.token = found[3] or None
            else:
                self.others[found[1]] = found[3]
        return answer

    def get(self, path: str) -> httpx.Response:
        """Get a page."""
        return self.ask("GET", path)

    def send(self, path: str, **form: str) -> httpx.Response:
        """Send a form with the token of this login's forms."""
        if path.startswith("/api/jobs"):  # as a script of a page does
            given = {"origin": self.url, "cookie": f"{COOKIE}={self.token}", "x-form-token": self.form_token}
            return httpx.post(self.url + path, json=form, headers=given, timeout=60)
        return self.ask("POST", path, form | {"form_token": self.form_token})

    @property
    def form_token(self) -> str:
        """The token that stands in the forms of every page while this login lasts."""
        if self.forms is None or self.forms[0] != self.token:
            found = re.search(r'name="form_token" value="([^"]+)"', self.get("/").text)
            self.forms = (self.token, found[1] if found else "")
        return self.forms[1]

    def join(self, link: str, name: str) -> Visitor:
        """Make an account by an invitation."""
        answer = self.ask("POST", link.removeprefix(self.url), {"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return self

    def invite(self, role: str = "user") -> str:
        """Return the link of a new invitation."""
        found = re.search(r"(/join/[\w-]+)<", self.send("/people/invite", role=role).text)
        assert found is not None
        return found[1]

    def log_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Log in."""
        return self.ask("POST", "/login", {"name": name, "password": password})


def settings_of(folder: Path, **given: Any) -> dict[str, Any]:
    """Return settings of a portal in a folder, with a folder of volumes that is open to everybody."""
    (folder / "lab").mkdir(exist_ok=True)
    roots = [{"path": folder / "lab", "accounts": ["everybody"]}]
    return {"data": folder / "portal", "port": 0, "roots": roots} | given


@dataclass
class House:
    """A served portal, its database, and an administrator who is logged in."""

    url: str
    folder: Path
    database: Database
    admin: Visitor

    def newcomer(self, name: str, role: str = "user") -> Visitor:
        """Return somebody with a new account."""
        return Visitor(self.url).join(f"/join/{invite(self.database, role)}", name)

    def stored(self) -> str:
        """Return all that the database holds, but for what was done and when somebody was there."""
        kept = [
            select(*(column for column in table.columns if column.name not in ("seen", "used")))
            for table in Table.metadata.sorted_tables
            if table.name != "deeds"
        ]
        with self.database.engine.connect() as connection:
            return "\n".join(sorted(str(row) for wanted in kept for row in connection.execute(wanted)))

    def plan(self, name: str, size: int = 1000, **fields: object) -> str:
        """Put a planned job of somebody into the database; return its number."""
        account = self.database.account(name)
        assert account is not None
        job = f"{name}{now().timestamp():.6f}".replace(".", "")
        told = {"model": "em-x4", "input": "1 x 1 x 1", "voxels": "1 x 1 x 1", "output": "1 x 4 x 4", "seconds": 1.0}
        estimates = told | {"objects": 1, "memory": 1, "notes": [], "gate": None}
        kept = {"input": "/lab/in.tif", "options": {}, "state": PLANNED, "attempts": 0} | fields
        self.database.add_plan(PortalJob(id=job, account_id=account.id, estimates=estimates, bytes=size, asked=now(), **kept))
        return job
