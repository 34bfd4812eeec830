"""One portal for the tests that only visit it; its jobs are never started."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from browsing import House, Visitor, settings_of
from letterbox import Letterbox, serve_letterbox
from postgres import cluster, missing, new_database
from selenium import webdriver
from sqlalchemy import URL

from volumetool.portal import accounts
from volumetool.portal.access.limits import LIMITS
from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings
from volumetool.portal.supervisor import Supervisor


@pytest.fixture(scope="session", autouse=True)
def cheap_hashes() -> Iterator[None]:
    """Hash passwords in a millisecond: what a hash costs is argon2's promise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_spare_process() -> Iterator[None]:
    """Begin no process ahead of its command: few of these tests would have one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "get_ready", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def patience_with_strangers() -> Iterator[None]:
    """Let many ask for links and tokens that nobody has: all tests of this process ask one portal from one address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIMITS, "absent", (1000, 900))
        yield


@pytest.fixture(scope="session")
def server_of_databases() -> Iterator[URL]:
    """Run PostgreSQL."""
    if why := missing():
        pytest.skip(why)
    with cluster() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def new_url(request: pytest.FixtureRequest) -> Callable[[], str | None]:
    """Return what makes a new, empty database, and returns its URL; None is a file of SQLite in the portal's folder."""
    if request.param == "sqlite":
        return lambda: None
    server = request.getfixturevalue("server_of_databases")
    return lambda: new_database(server, f"t{secrets.token_hex(6)}").render_as_string(hide_password=False)


class Resting(Supervisor):
    """Starts no job, and has no page made: what ended in the meantime would change what tests compare."""

    def turn(self) -> None:
        """Do nothing."""

    def draw_page(self, file: Path, command: list[str], account: int) -> None:
        """Do nothing."""


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    cheap_hashes: None,  # noqa: ARG001
    new_url: Callable[[], str | None],
) -> Iterator[House]:
    """Serve a portal; its database is one of SQLite, and in the slow tests one of PostgreSQL."""
    folder = tmp_path_factory.mktemp("house")
    settings = PortalSettings(**settings_of(folder, quota=5000, box_limit=20_000, database=new_url()))
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("volumetool.portal.serve.Supervisor", Resting)
            served = stack.enter_context(serve(settings))
        assert served.invitation is not None
        admin = Visitor(served.url).join(served.invitation, "ada")
        database = Database(settings)
        yield House(served.url, folder, database, admin)
        database.engine.dispose()


@pytest.fixture
def letterbox() -> Iterator[tuple[Letterbox, dict[str, str]]]:
    """Serve a mail server on loopback; give what it gets, and the setting that names it."""
    with serve_letterbox() as served:
        yield served


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Give a browser without window, driven from here."""
    with start_browser() as found:
        yield found


def start_browser() -> webdriver.Chrome:
    """Return a new browser without window, of somebody who was nowhere before."""
    from volumetool.viewer.browser import browser_flags, find_browser  # neuroglancer takes a second

    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = find_browser()
    for flag in browser_flags():
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@pytest.fixture
def stranger() -> Iterator[webdriver.Chrome]:
    """Give the browser of somebody else."""
    with start_browser() as found:
        yield found
