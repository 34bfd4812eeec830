"""Neuroglancer beside the pages: whom its links are for, when they end, and what its origin gives out."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from browsing import House, Visitor
from pydantic import ValidationError
from small_jobs import SMALL, Interrupting, noise, run, write_input

from volumetool.portal import job_views
from volumetool.portal.accounts import hash_token
from volumetool.portal.job_views import HOURS, LONGEST_STATE, JobView, JobViews
from volumetool.portal.queries import COMPLETE
from volumetool.portal.settings import PortalSettings
from volumetool.portal.supervisor import Supervisor
from volumetool.portal.view_server import HEADERS, POLICY
from volumetool.viewer.server import KeyReader


@dataclass
class Looking:
    """A job that is complete, its owner, and the link to Neuroglancer on it."""

    house: House
    owner: Visitor
    job: str
    link: str

    @property
    def origin(self) -> str:
        return self.link.partition("/v/")[0]

    @property
    def token(self) -> str:
        return self.link.split("/")[-2]

    def ask(self, kind: str, rest: str = "", method: str = "GET", **given: object) -> httpx.Response:
        return httpx.request(method, f"{self.origin}/{kind}/{self.token}{rest}", timeout=60, **given)  # type: ignore[arg-type]

    def state(self) -> tuple[dict[str, Any], str]:
        """Return the state that a new client is told, and its name."""
        with httpx.stream("GET", f"{self.origin}/events/{self.token}?c=new&gc=&gs=", timeout=60) as events:
            told = json.loads(next(line for line in events.iter_lines() if line).removeprefix("data: "))
        return told["s"], told["g"]


@pytest.fixture(scope="module")
def job(house: House) -> str:
    """Run a small job in its folder; return its number."""
    house.newcomer("lea")
    write_input(house.folder / "lab" / "raw.zarr", noise((4, 16, 16)))
    return put(house, "lea", house.folder / "lab" / "raw.zarr")


def put(house: House, name: str, raw: Path) -> str:
    """Run a small job of somebody in the folder of the portal."""
    job = house.plan(name, state=COMPLETE, input=str(raw))
    output = folder_of(house, job) / "output.zarr"
    output.parent.mkdir(parents=True)
    assert run(**{**SMALL, "input": str(raw), "output": str(output)}).complete
    return job


def folder_of(house: House, job: str) -> Path:
    return house.folder / "portal" / "jobs" / job


@pytest.fixture
def looking(house: House, job: str) -> Looking:
    """Log its owner in once more, and look at the job."""
    owner = Visitor(house.url)
    assert owner.log_in("lea").status_code == 303
    return Looking(house, owner, job, owner.get(f"/api/jobs/{job}").json()["view"])


def test_the_page_shows_raw_and_enhanced_from_another_origin(looking: Looking) -> None:
    page = looking.owner.get(f"/jobs/{looking.job}")
    assert f'src="{looking.link}"' in page.text
    assert page.headers["content-security-policy"].endswith(f"; frame-src {looking.origin}")
    assert looking.origin.startswith("http://localhost:")
    assert looking.owner.url.startswith("http://127.0.0.1:")
    assert looking.ask("v", "/").text.startswith("<!doctype html>")
    state, _ = looking.state()
    assert [layer["name"] for layer in state["layers"]] == ["raw.zarr", "output.zarr"]
    urls = [layer["source"]["url"] for layer in state["layers"]]
    assert urls == [f"{looking.origin}/volumes/{looking.token}/{n}/|zarr3:" for n in (0, 1)]
    output = folder_of(looking.house, looking.job) / "output.zarr"
    stored = [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert stored
    for key in stored:
        assert looking.ask("volumes", f"/1/{key}").content == (output / key).read_bytes()


def test_a_link_of_nobody_is_none(looking: Looking) -> None:
    for token in ("", "x", looking.token[:-1], looking.token.upper(), "../" + looking.token):
        for kind in ("v", "events", "volumes"):
            assert httpx.get(f"{looking.origin}/{kind}/{token}/1/zarr.json", timeout=60).status_code == 404


def test_a_link_ends_with_its_login(looking: Looking) -> None:
    assert looking.ask("volumes", "/1/zarr.json").status_code == 200
    looking.owner.send("/logout")
    for kind in ("v", "events", "volumes"):
        assert looking.ask(kind, "/1/zarr.json").status_code == 404
    assert looking.ask("state", method="POST", json={}).status_code == 404


def test_a_link_ends_with_its_job(looking: Looking) -> None:
    house, job = looking.house, looking.house.plan("lea", state=COMPLETE, input="/gone.tif")
    shutil.copytree(folder_of(house, looking.job) / "output.zarr", folder_of(house, job) / "output.zarr")
    removed = Looking(house, looking.owner, job, looking.owner.get(f"/api/jobs/{job}").json()["view"])
    assert [layer["name"] for layer in removed.state()[0]["layers"]] == ["output.zarr"]  # the input is gone already
    assert looking.owner.send(f"/jobs/{job}/remove").status_code == 303
    assert removed.ask("volumes", "/0/zarr.json").status_code == 404


def test_a_link_ends_after_hours_and_the_page_makes_another(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    now = monotonic()
    monkeypatch.setattr(job_views, "monotonic", lambda: now + HOURS * 3600 + 1)
    assert looking.ask("volumes", "/1/zarr.json").status_code == 404
    fresh = looking.owner.get(f"/api/jobs/{looking.job}").json()["view"]
    assert fresh != looking.link
    assert httpx.get(fresh, timeout=60).status_code == 200


def test_nobody_else_gets_a_link_and_every_login_has_its_own(looking: Looking) -> None:
    other = looking.house.newcomer("ursula")
    assert other.get(f"/api/jobs/{looking.job}").status_code == 404
    again = looking.owner.get(f"/api/jobs/{looking.job}").json()["view"]
    assert again == looking.link
    operator = looking.house.newcomer("otis", "operator")
    assert operator.get(f"/api/jobs/{looking.job}").json()["view"] not in (None, looking.link)


def guest(looking: Looking, link: str) -> Looking:
    """Return a stranger who opens a shared link, and looks."""
    stranger = Visitor(looking.house.url)
    page = stranger.get(link)
    view = re.search(r'id="look-frame"[^>]* src="([^"]+)"', page.text)
    assert view is not None
    assert page.headers["content-security-policy"].endswith(f"; frame-src {looking.origin}")
    return Looking(looking.house, stranger, looking.job, view[1])


def shared(looking: Looking) -> str:
    found = re.search(r"(/shared/[\w-]+)<", looking.owner.send(f"/jobs/{looking.job}/share", days="7").text)
    assert found is not None
    return found[1]


def test_a_shared_link_shows_its_result_alone_and_to_each_visitor_apart(
    looking: Looking, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (guest(looking, link) for link in [shared(looking)] * 2)
    assert len({looking.token, one.token, other.token}) == 3
    assert [layer["name"] for layer in one.state()[0]["layers"]] == ["output.zarr"]  # the input is not in what was shared
    assert one.ask("volumes", "/0/zarr.json").status_code == 200
    assert one.ask("volumes", "/1/zarr.json").status_code == 404
    looking.house.database.end_share(looking.job, looking.house.database.shares(looking.job)[0].id)
    for kind in ("v", "events", "volumes"):
        assert one.ask(kind, "/0/zarr.json").status_code == 404
    assert looking.ask("volumes", "/0/zarr.json").status_code == 200
    monkeypatch.setattr(job_views, "MOST_GUESTS", 2)
    view, page = registry.view(looking.job), "http://127.0.0.1:1"
    guests = [registry.views.guest_link(number, looking.job, page) for number in range(5)]
    assert len(registry.views._views) == 3
    assert hash_token(guests[-1].split("/")[-2]) in registry.views._views
    assert registry.views.find(view.token) is view


def test_shared_links_of_an_account_that_is_disabled_give_nothing(looking: Looking) -> None:
    house, link = looking.house, shared(looking)
    stranger = guest(looking, link)
    number = next(each.id for each in house.database.accounts() if each.name == "lea")
    house.admin.send(f"/people/{number}/disable")
    assert stranger.ask("volumes", "/0/zarr.json").status_code == 404
    for path in ("", "/volume.zip", "/box.tif?box=0:1,0:9,0:9", "/provenance", "/provenance.json"):
        assert stranger.owner.get(link + path).status_code == 404, path
    house.admin.send(f"/people/{number}/enable")
    assert stranger.owner.get(link).status_code == 200  # it ends when it was made to


def test_nothing_but_the_token_is_needed_and_no_cookie_is_set(looking: Looking) -> None:
    """Not even the cookie of another login changes an answer: it is not read."""
    for cookie in ({}, {"cookie": "__Host-volumetool=x"}):
        answer = looking.ask("volumes", "/1/zarr.json", headers=cookie)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "place",
    [
        "/",
        "/v",
        "/v/TOKEN/",
        "/v/TOKEN/no.js",
        "/volumes/TOKEN/1/zarr.json",
        "/volumes/TOKEN/1/no",
        "/state/TOKEN",
        "/static/x",
        "/jobs",
    ],
)
def test_every_answer_of_the_view_has_the_headers(looking: Looking, place: str) -> None:
    asked = looking.origin + place.replace("TOKEN", looking.token)
    for headers in ({}, {"host": "elsewhere.example"}, {"origin": looking.owner.url}):
        answer = httpx.get(asked, headers=headers, timeout=60)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        known = "TOKEN" in place and not headers and "state" not in place
        page = looking.owner.url if known else "'none'"
        assert answer.headers["content-security-policy"] == POLICY.format(page=page)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.status_code == 200 or not headers or answer.status_code in (403, 421)


@pytest.mark.parametrize(
    "rest",
    ["", "/", "/1", "/1/", "/1/0", "/1/../zarr.json", "/1/%2e%2e/zarr.json", "/1//etc/passwd", "/2/zarr.json", "/1/output.zarr",
     "/1/../../portal.sqlite", "/../1/zarr.json", "/1/0/", "/1/..%2f..%2fportal.sqlite"],
)  # fmt: skip
def test_keys_are_those_of_the_volumes(looking: Looking, rest: str) -> None:
    assert looking.ask("volumes", rest).status_code == 404
    assert looking.ask("v", f"/{rest}x").status_code == 404


def test_a_client_says_where_it_is_and_others_of_the_view_follow(looking: Looking) -> None:
    state, seen = looking.state()
    moved = state | {"position": [1, 2, 3]}
    sent = looking.ask("state", method="POST", json={"s": moved, "g": 7, "pg": seen, "c": "a"})
    assert sent.json() == {"g": "a/7"}
    assert looking.state() == (moved, "a/7")
    assert looking.ask("state", method="POST", json={"s": state, "g": 8, "pg": seen, "c": "c"}).status_code == 412
    for wrong in ([], {}, {"s": 1, "g": 1, "pg": "", "c": ""}, {"s": {}, "g": "x" * 200, "pg": "a/7", "c": ""}):
        assert looking.ask("state", method="POST", json=wrong).status_code == 400
    assert looking.ask("state", method="POST", content=b"[" * LONGEST_STATE).status_code == 400
    assert looking.ask("state", method="POST", content=b" " * (LONGEST_STATE + 1)).status_code == 413
    assert looking.state() == (moved, "a/7")


@dataclass
class Registry:
    """Views without a server, of one login."""

    views: JobViews
    login: int

    def view(self, job: str) -> JobView:
        link = self.views.link(self.login, job, "http://127.0.0.1:1")
        assert link is not None
        found = self.views.find(link.split("/")[-2])
        assert found is not None
        return found


@pytest.fixture
def registry(house: House, looking: Looking) -> Registry:
    settings = PortalSettings(data=house.folder / "portal", port=0)
    account = house.database.account("lea")
    assert account is not None
    assert looking.owner.token is not None
    login = house.database.logins(account.id)[0].id
    return Registry(JobViews(settings, house.database, Supervisor(house.database, settings), 1), login)


def test_the_least_recently_seen_are_closed_and_opened_again(
    house: House, job: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_views, "MOST_OPEN", 1)
    monkeypatch.setattr(job_views, "MOST", 2)
    jobs = [job, *(house.plan("lea", state=COMPLETE, input="/gone.tif") for _ in range(2))]
    for other in jobs[1:]:
        shutil.copytree(folder_of(house, job) / "output.zarr", folder_of(house, other) / "output.zarr")
    first, second = registry.view(jobs[0]), registry.view(jobs[1])
    registry.views.open(first)
    moved = {**(first.state or {}), "position": [3, 2, 1]}
    assert first.take(moved, "a/1", first.generation)
    registry.views.open(second)
    registry.view(jobs[1])
    assert (first.opened is None, second.opened is None) == (True, False)
    assert registry.views.open(registry.view(jobs[0])).layers[0].name == "raw.zarr"
    assert (first.opened is None, second.opened is None) == (False, True)
    assert first.state == moved
    registry.view(jobs[2])  # one more than are known
    assert registry.views.find(second.token) is None
    assert registry.views.find(first.token) is first


def test_a_growing_result_is_read_again_where_more_of_it_is_there(house: House, registry: Registry) -> None:
    raw = house.folder / "lab" / "growing.zarr"
    write_input(raw, noise((4, 40, 40)))
    job = house.plan("lea", state=COMPLETE, input=str(raw))
    output = folder_of(house, job) / "output.zarr"
    output.parent.mkdir(parents=True)
    options = {**SMALL, "input": str(raw), "output": str(output)}
    assert registry.views.link(registry.login, job, "http://127.0.0.1:1") is None  # nothing is written yet
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(1), **options)
    view = registry.view(job)
    some = registry.views.open(view)
    named = list(view.names)
    assert view.take({**(view.state or {}), "position": [3, 2, 1]}, "a/1", view.generation)
    registry.views.refresh(view)
    assert (view.names, view.generation) == (named, "a/1")  # there is no more of it
    assert run(**options).complete
    registry.views.refresh(view)
    assert view.state is not None
    assert view.state["position"] == [3, 2, 1]
    assert view.names[0] == named[0]
    assert view.names[1] != named[1]
    assert [layer["source"]["url"] for layer in view.state["layers"]] == [f"{view.volume(name)}/|zarr3:" for name in view.names]
    whole = registry.views.open(view)
    levels = [len(told(reader)) for reader in (some.readers[named[1]], whole.readers[view.names[1]])]
    assert levels[0] < levels[1] == len(whole.layers[1].volume.levels)
    assert set(whole.readers) == {*named, *view.names}  # the former name stays for what is being read


def told(reader: KeyReader) -> list[object]:
    """Return the levels that a client gets to know."""
    content = asyncio.run(reader("zarr.json"))  # type: ignore[arg-type]  # a coroutine
    assert content is not None
    levels: list[object] = json.loads(content.read(0, content.size))["attributes"]["ome"]["multiscales"][0]["datasets"]
    return levels


def test_a_link_in_the_place_of_an_input_is_not_followed(house: House, registry: Registry, tmp_path: Path) -> None:
    raw = house.folder / "lab" / "swapped.zarr"
    write_input(raw, noise((4, 16, 16)))
    job = put(house, "lea", raw)
    shutil.move(raw, tmp_path / "secret.zarr")
    raw.symlink_to(tmp_path / "secret.zarr")
    assert [layer.name for layer in registry.views.open(registry.view(job)).layers] == ["output.zarr"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"url": "https://a.example", "viewer_url": "https://a.example:8443"}, "give Neuroglancer another name"),
        ({"url": "https://a.example", "viewer_url": "http://b.example"}, "is not https://HOST"),
        ({"viewer_url": "https://b.example"}, "needs a `url`"),
        ({"port": 8850, "viewer_port": 8850}, "a port of its own"),
    ],
)
def test_an_origin_that_gets_the_cookie_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PortalSettings(**given)


def test_behind_a_proxy_views_have_an_address_or_there_are_none(house: House, job: str, registry: Registry) -> None:
    settings = PortalSettings(data=house.folder / "portal", url="https://a.example", viewer_url="https://b.example/")
    views = JobViews(settings, house.database, Supervisor(house.database, settings), 1)
    link = views.link(registry.login, job, "https://a.example")
    assert link is not None
    assert link.startswith("https://b.example/v/")
    assert {"b.example"} <= views.hosts
    assert not PortalSettings(url="https://a.example").has_viewer
