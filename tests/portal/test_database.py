"""The tables: migrations lead to what the code describes, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from volumetool.errors import ConfigError
from volumetool.portal.queries import Database, migrate
from volumetool.portal.settings import PortalSettings, read_settings
from volumetool.portal.tables import Table


def test_migrations_lead_up_to_the_tables_of_the_code_and_down_to_none(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x.sqlite")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    migrate(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert {"accounts", "jobs"} <= set(inspect(engine).get_table_names())
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
