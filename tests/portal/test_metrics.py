"""What the portal measures: text that Prometheus reads, for who has its token, and a line for each request without secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from browsing import House, Visitor, settings_of
from prometheus_client.parser import text_string_to_metric_families
from volumetool.cli.main import main

from volumetool.errors import ConfigError
from volumetool.logs import JsonFormatter
from volumetool.portal.facility.metrics import EDGES, PortalTraffic, metrics_text, read_token
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings

TOKEN = "a token of Prometheus"


def wait(until: Callable[[], bool]) -> None:
    for _ in range(6000):
        if until():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to that")


def figures(text: str) -> dict[str, float]:
    """Return samples by name and labels, as Prometheus reads them."""
    return {
        sample.name + "".join(f" {label}={text}" for label, text in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_was_asked_and_what_jobs_there_are(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    with serve(PortalSettings(**settings_of(tmp_path, metrics=tmp_path / "token"))) as served:
        ada = Visitor(served.url).join(served.invitation or "", "ada")
        assert ada.get("/").status_code == 200
        assert Visitor(served.url).log_in("ada", "wrong").status_code == 403
        assert ada.get("/metrics").status_code == 404
        for shown in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            assert httpx.get(f"{served.url}/metrics", headers={"authorization": shown}, timeout=60).status_code == 404
        asked = {"authorization": f"Bearer {TOKEN}"}
        count = "volumetool_portal_request_seconds_count"
        wait(lambda: figures(httpx.get(f"{served.url}/metrics", headers=asked, timeout=60).text)[count] >= 9)
        answer = httpx.get(f"{served.url}/metrics", headers=asked, timeout=60)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = figures(answer.text)
    assert told["volumetool_portal_requests_total method=GET route=/ status=200"] == 1
    assert told["volumetool_portal_requests_total method=POST route=/join/{token} status=303"] == 1
    assert told["volumetool_portal_logins_refused_total"] == 1
    assert told["volumetool_portal_jobs state=running"] == 0
    assert told["volumetool_portal_accounts"] == 1
    assert told["volumetool_portal_request_seconds_bucket le=+Inf"] == told[count] >= 9
    assert told["process_resident_memory_bytes"] > 2**20
    assert "ada" not in answer.text


def test_bins_are_cumulative_and_names_are_escaped(house: House) -> None:
    traffic = PortalTraffic()
    for seconds in (0.001, EDGES[0], 0.02, 100.0):
        traffic.count(("GET", 'a"b\\c\nd', 200), seconds)
    told = figures(metrics_text(house.database, PortalSettings(**settings_of(house.folder)), traffic))
    assert told['volumetool_portal_requests_total method=GET route=a"b\\c\nd status=200'] == 4
    assert [told[f"volumetool_portal_request_seconds_bucket le={edge}"] for edge in ("0.005", "0.025", "10", "+Inf")] == [
        2, 3, 3, 4,
    ]  # fmt: skip


def test_jobs_are_counted_by_state_with_their_bytes_and_their_wait(house: House) -> None:
    settings = PortalSettings(**settings_of(house.folder))
    house.newcomer("greta")
    before = figures(metrics_text(house.database, settings, PortalTraffic()))
    job = house.plan("greta", 700)
    greta = house.database.account("greta")
    assert greta is not None
    assert house.database.change(job, ("planned",), state="failed")
    after = figures(metrics_text(house.database, settings, PortalTraffic()))
    assert after["volumetool_portal_jobs state=failed"] == before["volumetool_portal_jobs state=failed"] + 1
    assert after["volumetool_portal_bytes_taken"] == before["volumetool_portal_bytes_taken"] + 700
    assert after["volumetool_portal_bytes_left"] > 0


@pytest.mark.parametrize(("text", "mode", "told"), [(TOKEN, 0o644, "open to others"), ("short", 0o600, "5 characters")])
def test_a_token_that_others_read_or_guess_is_none(tmp_path: Path, text: str, mode: int, told: str) -> None:
    (tmp_path / "token").write_text(text)
    (tmp_path / "token").chmod(mode)
    with pytest.raises(ConfigError, match=told):
        read_token(tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "absent")


def test_each_request_is_a_line_of_json_without_a_secret(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="volumetool.portal.facility.metrics"):
        secret = house.admin.invite().rpartition("/")[2]
        visitor = Visitor(house.url)
        visitor.get(f"/join/{secret}")
        visitor.join(f"/join/{secret}", "leo")
        visitor.get("/")
        httpx.get(f"{house.url}/login?token={secret}", headers={"host": "elsewhere"}, timeout=60)
        wait(lambda: "GET - 421" in caplog.text)  # a line is written when its answer is on its way
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    seen = [(line["account"], line["method"], line["route"], line["status"]) for line in lines]
    assert seen[-4:] == [
        (None, "GET", "/join/{token}", 200),
        (None, "POST", "/join/{token}", 303),
        ("leo", "GET", "/", 200),
        (None, "GET", "-", 421),
    ]
    assert all(line["address"] == "127.0.0.1" and line["ms"] >= 0 and line["time"] > 0 for line in lines)
    said = json.dumps(lines) + caplog.text
    assert secret not in said
    assert visitor.token is not None
    assert visitor.token not in said


def test_commands_see_to_accounts_while_the_portal_runs(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = house.database.engine.url.render_as_string(hide_password=False)
    config = tmp_path / "portal.yaml"
    config.write_text(json.dumps({"data": str(house.folder / "portal"), "database": url}))

    def ask(*words: str) -> dict[str, object]:
        with pytest.raises(SystemExit):
            main(["portal", *words, "--config", str(config), "--json"])
        told: dict[str, object] = json.loads(capsys.readouterr().out)
        return told

    made = ask("user", "mia", "--role", "operator")
    assert made["kind"] == "account"
    link = str(made["link"])
    token = link.rpartition("/")[2]
    other = Visitor(house.url)
    assert 'value="mia"' in other.get(f"/join/{token}").text
    assert other.ask("POST", f"/join/{token}", {"name": "ada", "password": "plain words are long"}).status_code == 303
    assert house.database.account("mia") is not None
    assert ask("user", "mia", "--mail", "mia@example.org", "--role", "user")["role"] == "user"
    again = str(ask("user", "mia", "--link")["link"]).rpartition("/")[2]
    new = "other words are long too"
    assert Visitor(house.url).ask("POST", f"/join/{again}", {"password": new}).status_code == 303
    assert other.get("/").status_code == 303  # logged out by the new password
    assert Visitor(house.url).log_in("mia").status_code == 403
    assert Visitor(house.url).log_in("mia", new).status_code == 303
    assert ask("user", "mia", "--disable")["disabled"] is True
    assert Visitor(house.url).log_in("mia", new).status_code == 403
    listed = ask("users")["accounts"]  # of the kind "accounts"
    assert isinstance(listed, list)
    assert {"name": "mia", "role": "user", "mail": "mia@example.org", "disabled": True, "link": None} in listed
    assert ask("user", "Mia!")["kind"] == "error"
    assert ask("user", "xx")["kind"] == "account"
    assert ask("user", "nobody", "--mail", "a@b.c")["kind"] == "error"
