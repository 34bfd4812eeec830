"""Mail of the portal, caught by a mail server of the test: who is told what, once, and at a confirmed address alone."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from browsing import Visitor, settings_of
from letterbox import Letterbox
from test_jobs import Queue, programs

from volumetool.portal.facility.doctor import examine_portal
from volumetool.portal.facility.mail import Mailer
from volumetool.portal.queries import COMPLETE, FAILED, now
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings


def test_owners_are_told_once_how_jobs_ended_though_the_mail_server_was_full(
    letterbox: tuple[Letterbox, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, mail = letterbox
    queue = Queue(tmp_path, mail=mail)
    account, silent = queue.account("ann"), queue.account("silent")
    queue.database.change_account("ann", mail="ann@example.org")
    programs(monkeypatch, 'print(\'{"kind": "run", "complete": true}\')')
    for owner, job in ((account, "good"), (silent, "unheard"), (account, "old")):
        queue.add(owner, job)
        queue.wait(job, lambda job: job.state == COMPLETE)
    programs(monkeypatch, 'print(\'{"kind": "error", "exit_code": 5, "error": {"message": "the disk is full", "hint": ""}}\')')
    queue.add(account, "bad")
    queue.wait("bad", lambda job: job.state == FAILED)
    programs(monkeypatch, "import time; time.sleep(600)")
    queue.add(account, "stopped")
    queue.wait("stopped", lambda job: job.process is not None)
    queue.supervisor.stop(queue.job("stopped"))
    queue.database.change("old", (COMPLETE,), ended=now() - timedelta(days=2))
    box.full = True
    mailer = Mailer(queue.database, queue.settings, "https://em.example.org")
    with pytest.raises(OSError, match="no room"):
        mailer.turn()
    box.full = False
    Mailer(queue.database, queue.settings, "https://em.example.org").turn()  # as after the next start
    mailer.turn()
    queue.end()
    mailer.turn()
    assert [(found["To"], found["From"], found["Subject"]) for found in box.mails] == [
        ("ann@example.org", "em@example.org", "volumetool: job good is complete"),
        ("ann@example.org", "em@example.org", "volumetool: job bad is failed"),
    ]
    good, bad = (found.get_content() for found in box.mails)
    assert "https://em.example.org/jobs/good" in good
    assert "the disk is full" in bad


def test_an_address_is_told_nothing_before_its_link_was_used_by_its_owner(
    letterbox: tuple[Letterbox, dict[str, str]], tmp_path: Path
) -> None:
    box, mail = letterbox
    settings = PortalSettings(**settings_of(tmp_path, mail=mail))
    with serve(settings) as served:
        ada = Visitor(served.url).join(served.invitation or "", "ada")
        other = Visitor(served.url).join(ada.invite(), "other")
        assert ada.send("/account/mail", mail="no address").status_code == 422
        assert ada.send("/account/mail", mail="ada@example.org").status_code == 303
        (told,) = box.mails
        assert told["To"] == "ada@example.org"
        link = re.search(rf"{served.url}(/account/mail/[\w-]+)", told.get_content())
        assert link is not None
        assert ada.get(link[1]).status_code == 200
        page = ada.get("/account").text
        assert 'value="ada@example.org"' not in page  # looking at the link changes nothing
        assert "A link was sent to ada@example.org" in page
        assert other.send(link[1]).status_code == 404
        assert ada.send(link[1]).status_code == 303
        assert 'value="ada@example.org"' in ada.get("/account").text
        assert ada.send(link[1]).status_code == 404
        assert ada.send("/account/mail", mail="").status_code == 303
        assert "ada@example.org" not in ada.get("/account").text
        for _ in range(9):
            last = ada.send("/account/mail", mail="victim@example.org")
        assert last.status_code == 429 or len(box.mails) == 10
        assert ada.send("/account/mail", mail="victim@example.org").status_code == 429
        assert len(box.mails) <= 10


def test_doctor_says_whether_the_mail_server_answers_and_no_password(
    letterbox: tuple[Letterbox, dict[str, str]], tmp_path: Path
) -> None:
    box, mail = letterbox
    settings = PortalSettings(**settings_of(tmp_path, mail=mail))
    found = {each.name: each for each in examine_portal(settings).findings}
    assert found["mail"].state == "fine"
    assert box.mails == []
    silent = mail | {"server": "smtp://me:sekret@127.0.0.1:9"}
    found = {each.name: each for each in examine_portal(PortalSettings(**settings_of(tmp_path, mail=silent))).findings}
    assert found["mail"].state == "note"
    assert "sekret" not in repr(found) + repr(PortalSettings(**settings_of(tmp_path, mail=silent)))


def test_doctor_finds_what_a_portal_would_stumble_over(tmp_path: Path) -> None:
    settings = PortalSettings(**settings_of(tmp_path, metrics=tmp_path / "absent"))
    assert {each.name for each in examine_portal(settings).findings if each.state == "missing"} == {"metrics"}
    plain = PortalSettings(**settings_of(tmp_path))
    with serve(plain) as served:
        Visitor(served.url).join(served.invitation or "", "ada")
        found = examine_portal(plain)
        assert {each.name: each.found for each in found.findings}["portal"] == "one runs"
        assert found.ok
    plain.data.chmod(0o755)
    open_root = [{"path": tmp_path, "accounts": ["everybody"]}]
    found = examine_portal(plain.model_copy(update={"roots": PortalSettings(**settings_of(tmp_path, roots=open_root)).roots}))
    assert {each.name for each in found.findings if each.state == "missing"} == {"folder", "volumes"}
    plain.data.chmod(0o700)
    (plain.data / "portal.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert not examine_portal(plain).ok
