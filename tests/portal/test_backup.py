"""Backups: taken while a portal runs, put back where none does, and then the ledgers say what is done."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from browsing import House, Visitor, settings_of
from sqlalchemy import text
from sqlalchemy.orm import Session
from test_jobs import Queue, programs
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.portal.accounts import hash_token
from volumetool.portal.facility.backup import GONE, back_up, restore
from volumetool.portal.queries import CANCELLED, COMPLETE, FAILED, RUNNING, Database, migrate, now, open_database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings
from volumetool.portal.supervisor import Supervisor
from volumetool.portal.tables import Account, Identity

DONE = 'print(\'{"kind": "run", "complete": true}\')'


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path)
    yield made
    made.end()


def names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        return set(tar.getnames())


def write_output(queue: Queue, job: str) -> None:
    """Let a job have the results of a real run."""
    folder = queue.supervisor.folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder.parents[2] / "in.tif"
    tifffile.imwrite(source, np.zeros((2, 16, 16), np.uint8), photometric="minisblack")
    vt.enhance(source, folder / "output.zarr", model="fake:identity?scale=1,1,1", voxel_size=(30.0, 8.0, 8.0))


def test_a_backup_of_a_portal_that_runs_holds_all_but_the_results(house: House, tmp_path: Path) -> None:
    job = house.plan("ada")
    folder = house.folder / "portal" / "jobs" / job
    (folder / "output.zarr").mkdir(parents=True)
    (folder / "output.zarr" / "zarr.json").write_text("{}")
    (folder / "log.txt").write_text("it said so")
    url = house.database.engine.url.render_as_string(hide_password=False)
    settings = PortalSettings(**settings_of(house.folder, quota=5000, database=url))
    about = back_up(settings, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").stat().st_mode & 0o077 == 0
    assert about["database"] == house.database.engine.dialect.name
    assert f"data/jobs/{job}/log.txt" in names(tmp_path / "b.tar")
    assert f"data/jobs/{job}/output.zarr/zarr.json" not in names(tmp_path / "b.tar")
    back_up(settings, tmp_path / "all.tar", results=True)
    assert f"data/jobs/{job}/output.zarr/zarr.json" in names(tmp_path / "all.tar")
    with pytest.raises(OutputError, match="is there already"):
        back_up(settings, tmp_path / "b.tar")
    with pytest.raises(ConfigError, match="another portal uses"):
        restore(settings, tmp_path / "b.tar")


def test_on_a_fresh_machine_accounts_jobs_and_logs_are_back_and_nobody_is_logged_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(deed: str, file: Path, settings: PortalSettings) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["portal", deed, str(file), "--data", str(settings.data), "--json"])
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = (PortalSettings(**settings_of(tmp_path / name)) for name in ("here", "there"))
    with serve(here) as served:
        former = Visitor(served.url).join(served.invitation or "", "ada")
        (here.data / "jobs" / "j1").mkdir(parents=True)
        (here.data / "jobs" / "j1" / "log.txt").write_text("it said so")
        ask("backup", tmp_path / "b.tar", here)
    told = ask("restore", tmp_path / "b.tar", there)
    assert (told["kind"], told["jobs"], told["former"]) == ("restored", 0, None)
    assert told["unknown"] == [str(there.data / "jobs" / "j1")]
    assert (there.data / "jobs" / "j1" / "log.txt").read_text() == "it said so"
    with serve(there) as served:
        assert served.invitation is None
        former.url = served.url
        assert former.get("/").status_code == 303
        assert Visitor(served.url).log_in("ada").status_code == 303


def test_after_a_restoration_the_ledger_says_what_is_done(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job ended before the backup and lost its results since; one ran meanwhile, and ended; one failed, and is done."""
    account = queue.account("ann")
    programs(monkeypatch, DONE)
    queue.add(account, "lost")
    queue.wait("lost", lambda job: job.state == COMPLETE)
    programs(monkeypatch, "1/0")
    queue.add(account, "failed")
    queue.wait("failed", lambda job: job.state == FAILED)
    programs(monkeypatch, f"import time, pathlib\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n{DONE}")
    queue.add(account, "runs")
    queue.wait("runs", lambda job: job.process is not None)
    back_up(queue.settings, tmp_path / "b.tar")
    (queue.supervisor.folder("runs") / "go").touch()
    queue.wait("runs", lambda job: job.state == COMPLETE)
    queue.add(account, "since", start=False)
    queue.supervisor.folder("since").mkdir()
    for job in ("runs", "failed"):
        write_output(queue, job)
    queue.database.engine.dispose()
    restored = restore(queue.settings, tmp_path / "b.tar")
    queue.database = Database(queue.settings)
    queue.supervisor = Supervisor(queue.database, queue.settings)
    assert (restored.jobs, restored.complete) == (3, 1)
    assert restored.without_results == ("lost",)
    assert restored.unknown == (str(queue.supervisor.folder("since")),)
    assert (queue.job("lost").state, queue.job("lost").reason) == (CANCELLED, GONE)
    assert queue.job("failed").state == COMPLETE
    assert queue.job("runs").state == RUNNING
    queue.supervisor.turn()
    assert (queue.job("runs").state, queue.job("runs").attempts) == (COMPLETE, 1)
    with closing(sqlite3.connect(restored.former or "")) as former:
        assert former.execute("SELECT count(*) FROM jobs").fetchone() == (4,)


def test_a_backup_of_a_newer_version_or_of_another_kind_or_a_torn_one_is_refused(tmp_path: Path) -> None:
    settings = PortalSettings(**settings_of(tmp_path))
    with serve(settings):
        back_up(settings, tmp_path / "b.tar")
    before = (settings.data / "portal.sqlite").read_bytes()
    whole = (tmp_path / "b.tar").read_bytes()
    for change, told in (({"schema": "9999"}, "are not known"), ({"database": "postgresql"}, "is of postgresql")):
        with tarfile.open(tmp_path / "b.tar") as old, tarfile.open(tmp_path / "changed.tar", "w") as new:
            for member in old:
                held = old.extractfile(member)
                assert held is not None
                data = held.read()
                if member.name == "backup.json":
                    data = json.dumps(json.loads(data) | change).encode()
                    member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        with pytest.raises(ConfigError, match=told):
            restore(settings, tmp_path / "changed.tar")
    for torn in (whole[:1000], whole[: len(whole) // 2], b"no tar", b""):
        (tmp_path / "torn.tar").write_bytes(torn)
        with pytest.raises(InputError, match="no backup"):
            restore(settings, tmp_path / "torn.tar")
    assert (settings.data / "portal.sqlite").read_bytes() == before
    assert [place.name for place in settings.data.iterdir() if place.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data/../../up", tarfile.REGTYPE),
        ("/up", tarfile.REGTYPE),
        ("data/jobs", tarfile.SYMTYPE),
        ("data/jobs", tarfile.LNKTYPE),
        ("data/pipe", tarfile.FIFOTYPE),
        ("data/disk", tarfile.BLKTYPE),
        ("backup.json", tarfile.REGTYPE),
    ],
)
def test_a_backup_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    settings = PortalSettings(**settings_of(tmp_path))
    with serve(settings):
        back_up(settings, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar", "a") as tar:
        member = tarfile.TarInfo(f"{tmp_path}{name}" if name.startswith("/") else name)
        member.type, member.linkname = kind, "/etc"
        tar.addfile(member)
    before = {place.relative_to(tmp_path) for place in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="no backup of a portal"):
        restore(settings, tmp_path / "b.tar")
    assert {place.relative_to(tmp_path) for place in tmp_path.rglob("*")} == before


def test_either_database_is_put_back_as_it_was_over_tables_of_a_newer_version_too(
    new_url: Callable[[], str | None], tmp_path: Path
) -> None:
    settings = PortalSettings(**settings_of(tmp_path, database=new_url()))
    with serve(settings) as served:
        Visitor(served.url).join(served.invitation or "", "ada")
    engine = open_database(settings.database_url)
    migrate(engine, "0003_uploads")  # as a former version of volumetool has left it
    about = back_up(settings, tmp_path / "b.tar")
    assert (about["database"], about["schema"]) == (engine.dialect.name, "0003_uploads")
    with serve(settings), Session(engine) as session, session.begin():  # this version, whose tables are more
        session.add(Account(name="since", role="user", password="x", created=now(), disabled=False))
        session.flush()
        session.add(Identity(account_id=2, issuer="https://idp", subject="since", linked=now()))
    restored = restore(settings, tmp_path / "b.tar")
    assert Path(restored.former or "").stat().st_mode & 0o077 == 0
    database = Database(settings)
    assert [account.name for account in database.accounts()] == ["ada"]
    assert database.account_of("https://idp", "since") is None
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    if engine.dialect.name == "postgresql":
        with pytest.raises(ConfigError, match="the tables 9999_later of a newer volumetool"):
            restore(settings, tmp_path / "b.tar")
        assert [account.name for account in database.accounts()] == ["ada"]
    database.engine.dispose()
    engine.dispose()


def test_what_was_ended_since_a_backup_stays_ended_and_so_does_all_else_that_opens_a_door(
    new_url: Callable[[], str | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = PortalSettings(**settings_of(tmp_path, database=new_url()))
    with serve(settings) as served:
        ada = Visitor(served.url).join(served.invitation or "", "ada")
        invitation, ben = ada.invite(), Visitor(served.url).join(ada.invite(), "ben")
        page = ben.send("/account/tokens", name="n", scope="run", days="9").text
        token = re.search(r">(volumetool-[\w-]+)<", page)
        database = Database(settings)
        house = House(served.url, tmp_path, database, ada)
        assert database.share(house.plan("ben", state=COMPLETE), "hash of a link", 7)
        database.change_account("ben", mail_asked="b@example.org", mail_token="hash of another")
        back_up(settings, tmp_path / "b.tar")
        database.change_account("ben", disabled=True)
        database.engine.dispose()  # the file that it has open is replaced
    (tmp_path / "portal.yaml").write_text(json.dumps(settings_of(tmp_path, database=settings.database), default=str))
    with pytest.raises(SystemExit):
        main(["portal", "restore", str(tmp_path / "b.tar"), "--config", str(tmp_path / "portal.yaml")])
    told = " ".join(capsys.readouterr().out.split())
    assert "ended: 2 logins, 1 invitations, 1 tokens, 1 links; everybody logs in again" in told
    assert "accounts that stay disabled: ben" in told
    with serve(settings) as served:
        for visitor in (ada, ben):
            visitor.url = served.url
            assert visitor.get("/").headers["location"] == "/login"
        assert Visitor(served.url).get(invitation).status_code == 404
        assert database.shared("hash of a link") is None
        assert token is not None
        assert database.token(hash_token(token[1])) is None
        assert database.accounts()[1].mail_token is None
        assert Visitor(served.url).log_in("ben").status_code == 403
        assert Visitor(served.url).log_in("ada").status_code == 303
    database.engine.dispose()


def test_a_backup_is_put_back_over_a_damaged_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who was disabled since cannot be known then, and that is said."""
    settings = PortalSettings(**settings_of(tmp_path))
    with serve(settings) as served:
        Visitor(served.url).join(served.invitation or "", "ada")
        back_up(settings, tmp_path / "b.tar")
    damaged = b"SQLite format 3\0" + b"x" * 5000
    (settings.data / "portal.sqlite").write_bytes(damaged)
    restored = restore(settings, tmp_path / "b.tar")
    assert Path(restored.former or "").read_bytes() == damaged
    assert "disable again the accounts" in caplog.text
    with serve(settings) as served:
        assert Visitor(served.url).log_in("ada").status_code == 303
