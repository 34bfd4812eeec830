"""One portal for the tests that only visit it; its jobs are never started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from browsing import House, Visitor, settings_of

from volumetool.portal import accounts
from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings


@pytest.fixture(scope="session", autouse=True)
def cheap_hashes() -> Iterator[None]:
    """Hash passwords in a millisecond: what a hash costs is argon2's promise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, cheap_hashes: None) -> Iterator[House]:  # noqa: ARG001
    """Serve a portal."""
    folder = tmp_path_factory.mktemp("house")
    settings = PortalSettings(**settings_of(folder, quota=5000))
    with serve(settings) as served:
        assert served.invitation is not None
        admin = Visitor(served.url).join(served.invitation, "ada")
        yield House(served.url, folder, Database(settings), admin)
