"""The tables: migrations lead to what the code describes, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError

from volumetool.errors import ConfigError
from volumetool.portal.queries import PLANNED, Database, migrate, now, open_database, revisions
from volumetool.portal.settings import PortalSettings, make_folder, read_settings
from volumetool.portal.tables import Account, Login, PortalJob, Table


def test_migrations_lead_up_to_the_tables_of_the_code_and_down_to_none(
    tmp_path: Path, new_url: Callable[[], str | None]
) -> None:
    engine = create_engine(new_url() or f"sqlite:///{tmp_path}/x.sqlite")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    with engine.begin() as connection:
        named = {"name": "ann", "role": "user", "password": None, "created": now()}
        connection.execute(insert(Account).values(**named))
    migrate(engine, "0003_uploads")
    with engine.connect() as connection:
        assert str(connection.scalar(select(Account.password))).startswith("$argon2id$")  # one that nobody knows
    migrate(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert {"accounts", "jobs"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_a_database_in_use_is_brought_up_to_date_from_former_versions(
    tmp_path: Path, new_url: Callable[[], str | None]
) -> None:
    """With rows that refer to each other, as every portal has them: SQLite makes tables anew to change them."""
    for version in (revisions()[1], revisions()[-1]):  # the last one, and the first one, from which all steps are taken
        engine = open_database(new_url() or f"sqlite:///{tmp_path}/{version}.sqlite")
        migrate(engine)
        migrate(engine, version)
        fields = {"role": "user", "password": "x", "created": now(), "disabled": False}
        with engine.begin() as connection:
            connection.execute(insert(Account).values(name="ann", **fields))
            login = {"account_id": 1, "token": "t", "form_token": "f", "began": now(), "seen": now(), "browser": "b"}
            connection.execute(insert(Login).values(**login))
        migrate(engine)
        with engine.begin() as connection:
            assert connection.scalar(select(Login.account_id)) == connection.scalar(select(Account.id))
            if engine.dialect.name == "sqlite":
                assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            with pytest.raises(IntegrityError):
                connection.execute(insert(Login).values(**login | {"account_id": 99, "token": "u"}))
        engine.dispose()


@pytest.mark.parametrize("url", ["nothing://x", "sqlite:////proc/nothing/x.sqlite", "not a url"])
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as told:
        Database(PortalSettings(database=url))
    assert told.value.code == "config.database"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "192.0.2.1"}, "there is no url"),
        ({"host": "192.0.2.1", "url": "http://em.example.org"}, "is not https"),
        ({"url": "https://em.example.org/portal"}, "is not https"),
        ({"roots": [{"path": "/data"}]}, "accounts"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_are_unsafe_or_unknown_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_settings(None, **given)


def test_settings_that_do_not_go_together_are_refused_without_the_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_settings(None, data=tmp_path, host="0.0.0.0", database="postgresql://u:sekret@h/x")  # noqa: S104
    assert str(refused.value).startswith("host 0.0.0.0 is reached by others")
    assert "sekret" not in str(refused.value)


@pytest.fixture
def database(tmp_path: Path, new_url: Callable[[], str | None]) -> Iterator[Database]:
    """Open a new database."""
    settings = PortalSettings(data=tmp_path / "portal", quota=100, database=new_url())
    make_folder(settings)
    made = Database(settings)
    yield made
    made.engine.dispose()


def together(deeds: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do several things at the same moment."""
    gate = Barrier(len(deeds))

    def begin(deed: Callable[[], Any]) -> Any:
        gate.wait(60)
        return deed()

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(begin, deeds))


def join(database: Database, name: str) -> Account:
    database.invite(f"for {name}", "user")
    made = database.accept(f"for {name}", name, "hash")
    assert made is not None
    return made


def test_of_eight_who_use_an_invitation_at_once_one_gets_the_account(database: Database) -> None:
    database.invite("token", "user")
    made = together([partial(database.accept, "token", f"n{number}", "hash") for number in range(8)])
    assert sum(account is not None for account in made) == 1
    assert len(database.accounts()) == 1
    for number in range(8):
        database.invite(f"t{number}", "user")
    made = together([partial(database.accept, f"t{number}", "same", "hash") for number in range(8)])
    assert sum(account is not None for account in made) == 1


def test_an_identity_is_of_one_account_however_many_ask_at_once(database: Database) -> None:
    accounts = [join(database, f"a{number}") for number in range(6)]
    linked = together([partial(database.link, account.id, "https://idp", "somebody") for account in accounts])
    assert linked.count(True) == 1
    enrolled = together([partial(database.enrol, f"e{number}", "https://idp", "another") for number in range(6)])
    assert sum(account is not None for account in enrolled) == 1
    assert database.account_of("https://idp", "Somebody") is None  # to the letter


def test_the_last_way_in_stays_when_two_are_forgotten_at_once(database: Database) -> None:
    account = database.enrol("lise", "https://idp", "one")
    assert account is not None
    database.link(account.id, "https://idp", "two")
    ways = database.identities(account.id)
    assert sorted(together([partial(database.unlink, account.id, way.id) for way in ways])) == [False, True]
    assert len(database.identities(account.id)) == 1


def test_a_login_that_ends_while_it_is_used_is_no_error(database: Database) -> None:
    account = join(database, "ann")
    database.log_in(account.id, "login", "form", "browser")
    with database.engine.begin() as connection:
        connection.execute(update(Login).values(seen=now() - timedelta(minutes=5)))
    number = database.logins(account.id)[0].id
    together(
        [partial(database.login, "login"), partial(database.log_out, account.id, number), partial(database.login, "login")]
    )
    assert database.login("login") is None


def test_moments_options_and_long_texts_come_back_as_they_went(database: Database) -> None:
    account = join(database, "ann")
    asked = datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2)))
    options = {"roi": "0:1,0:2,0:3", "nested": [1.5, None, {"é": "\u2028"}]}
    fields: dict[str, Any] = {"input": "/" + "ü" * 4095, "estimates": {}, "attempts": 0, "bytes": 2**40}
    database.add_plan(PortalJob(id="j", account_id=account.id, state=PLANNED, options=options, asked=asked, **fields))
    found = database.job("j", account.id)
    assert found is not None
    assert (found.asked, found.options, found.input, found.bytes) == (asked, options, fields["input"], 2**40)
    assert found.asked.utcoffset() == timedelta(0)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="is open to others"):
        make_folder(PortalSettings(data=tmp_path / "open"))
    make_folder(PortalSettings(data=tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
