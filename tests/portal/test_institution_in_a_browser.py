"""The login of an institution in a real browser: there, back, out again, and back where nobody was sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import House, Visitor, settings_of
from identity_server import CLIENT, SECRET, IdentityServer, serve_identities
from selenium import webdriver
from selenium.webdriver.common.by import By
from waiting import press, wait

from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.usefixtures("chromium"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture
def institution() -> Iterator[IdentityServer]:
    """Serve an institution by another host name than that of the portal: for the browser it is another site."""
    with serve_identities() as served:
        served.issuer = served.issuer.replace("127.0.0.1", "localhost")
        served.has_form = True
        yield served


@pytest.fixture
def lab(institution: IdentityServer, tmp_path: Path) -> Iterator[House]:
    """Serve a portal that takes its login, from everybody whose group is em."""
    (tmp_path / "secret").write_text(SECRET)
    oidc = {"issuer": institution.issuer, "client_id": CLIENT, "client_secret_file": tmp_path / "secret"}
    oidc |= {"name": "Example University", "accounts": {"claim": "groups", "value": "em"}}
    settings = PortalSettings(**settings_of(tmp_path, oidc=oidc))
    with serve(settings) as served:
        institution.callbacks.add(f"{served.url}/login/institution/callback")
        database = Database(settings)
        yield House(served.url, tmp_path, database, Visitor(served.url).join(str(served.invitation), "ada"))
        database.engine.dispose()


def arrive(browser: webdriver.Chrome, title: str) -> None:
    wait(browser, lambda shown: shown.title == title)


def test_somebody_comes_by_the_institution_and_goes(
    lab: House, institution: IdentityServer, browser: webdriver.Chrome, stranger: webdriver.Chrome
) -> None:
    def log_in() -> None:
        browser.get(f"{lab.url}/login")
        press(browser, "Log in with Example University")
        arrive(browser, "Example University")
        press(browser, "I am who I am")

    def role(name: str) -> str:
        account = lab.database.account(name)
        assert account is not None
        return account.role

    institution.person = {"sub": "n1", "preferred_username": "noether", "groups": ["em"]}
    log_in()
    arrive(browser, "Jobs - volumetool")
    assert role("noether") == "user"
    assert browser.find_elements(By.LINK_TEXT, "noether")
    assert not browser.find_elements(By.LINK_TEXT, "People")
    press(browser, "Log out")
    arrive(browser, "Log in - volumetool")
    browser.get(f"{lab.url}/")
    arrive(browser, "Log in - volumetool")

    institution.person = {"sub": "b1"}  # in no group: by invitation
    log_in()
    arrive(browser, "This did not work - volumetool")
    browser.get(lab.url + lab.admin.invite("admin"))
    browser.find_element(By.NAME, "name").send_keys("bose")
    press(browser, "Make the account, and log in with Example University")
    arrive(browser, "Example University")
    press(browser, "I am who I am")
    arrive(browser, "Jobs - volumetool")
    assert role("bose") == "admin"
    assert browser.find_elements(By.LINK_TEXT, "People")
    press(browser, "Log out")
    arrive(browser, "Log in - volumetool")

    back = f"{lab.url}/login/institution/callback"
    browser.get(f"{lab.url}/login")
    press(browser, "Log in with Example University")
    arrive(browser, "Example University")
    for state in ("", "&state=", "&state=x"):
        browser.get(f"{back}?code=x{state}&iss={institution.issuer}")
        arrive(browser, "This did not work - volumetool")
    browser.get(f"{lab.url}/login")
    press(browser, "Log in with Example University")
    arrive(browser, "Example University")
    stranger.get(browser.current_url)  # a link of somebody else, which would let them into an account that is not theirs
    press(stranger, "I am who I am")
    arrive(stranger, "This did not work - volumetool")
    for each in (browser, stranger):
        each.get(f"{lab.url}/")
        arrive(each, "Log in - volumetool")
