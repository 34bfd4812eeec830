"""A portal behind a proxy that encrypts: whose address counts, which names are its own, and HSTS."""

from __future__ import annotations

from pathlib import Path

import httpx
from browsing import Visitor, settings_of
from ports import lasting_ports

from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings

PUBLIC = "https://em.example.org"
TRIES = 12


def test_what_the_proxy_says_last_counts_and_browsers_are_told_to_stay_with_tls(tmp_path: Path) -> None:
    (port,) = lasting_ports(1)
    settings = PortalSettings(**settings_of(tmp_path, url=PUBLIC, port=port))
    with serve(settings) as served:
        assert str(served.invitation).startswith(f"{PUBLIC}/join/")
        local = f"http://127.0.0.1:{port}"
        headers = {"host": "em.example.org", "origin": PUBLIC, "x-forwarded-for": "192.0.2.7, 198.51.100.9"}
        page = httpx.get(f"{local}/login", headers=headers, timeout=60)
        assert page.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
        form = {"name": "mallory", "password": "wrong"}
        assert httpx.post(f"{local}/login", data=form, headers=headers, timeout=60).status_code == 403
        assert Database(settings).deeds()[0].address == "198.51.100.9"  # what a browser wrote itself stands before it
        lines = [*headers.items(), ("x-forwarded-for", "2001:db8::7")]  # as proxies do that write a line of their own
        for end in range(TRIES):
            lines[-1] = ("x-forwarded-for", f"2001:db8::{end:x}")
            assert httpx.post(f"{local}/login", data=form, headers=lines, timeout=60).status_code == 403
        tried = [deed.address for deed in Database(settings).deeds() if deed.what == "password refused"]
        assert len(tried) == 11  # all of a customer's network of IPv6 are one place
        assert tried[0] == "2001:db8::9"
        elsewhere = headers | {"host": "em.example.org.mallory.example"}
        assert httpx.get(f"{local}/login", headers=elsewhere, timeout=60).status_code == 421
        assert Visitor(local).get("/login").status_code == 200  # from this machine, by its own name


def test_forms_are_taken_from_an_address_that_is_written_otherwise_than_browsers_do(tmp_path: Path) -> None:
    url = "https://EM.example.org:443/"
    (port,) = lasting_ports(1)
    given = {"url": url, "port": port, "viewer_url": url.replace("em.", "em-view.").replace("EM.", "em-view.")}
    settings = PortalSettings(**settings_of(tmp_path, **given))
    assert (settings.url, settings.viewer_url) == (PUBLIC, "https://em-view.example.org")
    with serve(settings) as served:
        assert str(served.invitation).startswith(f"{PUBLIC}/join/")
        join = f"http://127.0.0.1:{port}{str(served.invitation).removeprefix(PUBLIC)}"
        for host in ("em.example.org", "em.example.org:443"):  # as some proxies hand it on
            headers = {"host": host, "origin": PUBLIC}
            answer = httpx.post(join, data={"name": "ada", "password": "short"}, headers=headers, timeout=60)
            assert (answer.status_code, "has 12 to 256 characters" in answer.text) == (422, True)
        for wrong in ("http://em.example.org", "https://em.example.org:8443", "null"):
            headers = {"host": "em.example.org", "origin": wrong}
            assert httpx.post(join, data={}, headers=headers, timeout=60).status_code == 403
