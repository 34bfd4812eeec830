"""What a request may do: routes by role, objects by owner, forms by token and origin, volumes by folder."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from browsing import House, Visitor
from starlette.routing import Route

from volumetool.portal.guard import HEADERS, LONGEST_FORM
from volumetool.portal.pages.routes import ROUTES
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings, Root
from volumetool.portal.web import UPLOADS

PLACES = [(path.replace(":int", "").replace("{token}", "99999"), method, role) for path, _, role, method in ROUTES]


def filled(path: str, job: str = "0123456789abcdef") -> str:
    """Return a route's path with a job, and with numbers that nobody has."""
    return (
        path.replace("{job}", job)
        .replace("{page}", "report")
        .replace("{upload}", "0123456789abcdef")
        .replace("{share}", "99999")
        .replace("{login}", "99999")
        .replace("{account}", "99999")
        .replace("{identity}", "99999")
        .replace("{path:path}", "x")
    )


@pytest.fixture(scope="module")
def users(house: House) -> tuple[Visitor, Visitor]:
    """Give two users who have nothing to do with each other."""
    return house.newcomer("anna"), house.newcomer("boris")


@pytest.mark.parametrize(("path", "method", "role"), PLACES)
def test_nothing_is_shown_or_done_before_a_login(house: House, path: str, method: str, role: str | None) -> None:
    answer = Visitor(house.url).ask(method, filled(path), {})
    if role is None:
        assert answer.status_code in (200, 204, 403, 404)
    elif path.startswith("/api/"):
        assert answer.status_code == 401
    else:
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, method, role in PLACES if role == "admin"])
def test_pages_of_administrators_do_not_exist_for_others(users: tuple[Visitor, Visitor], path: str, method: str) -> None:
    visitor = users[0]
    answer = visitor.send(filled(path)) if method == "POST" else visitor.get(filled(path))
    assert answer.status_code == 404


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, method, _ in PLACES if "{job}" in path])
def test_a_job_of_somebody_else_does_not_exist(house: House, users: tuple[Visitor, Visitor], path: str, method: str) -> None:
    job = house.plan("anna")
    place = filled(path, job)
    assert (users[1].send(place) if method == "POST" else users[1].get(place)).status_code == 404
    assert house.database.job(job, None) is not None
    assert job not in users[1].get("/").text
    assert job not in users[1].get("/api/jobs").text
    own = users[0].send(place) if method == "POST" else users[0].get(place)
    assert own.status_code in (200, 303) or any(why in own.text for why in ("has not been made", "complete", "no such link"))


def test_an_operator_sees_all_jobs_and_invites_nobody(house: House) -> None:
    job, operator = house.plan("ada"), house.newcomer("otto", "operator")
    assert operator.get(f"/jobs/{job}").status_code == 200
    assert operator.send("/people/invite", role="admin").status_code == 404


@pytest.mark.parametrize("path", [path for path, method, role in PLACES if method == "POST" and role is not None])
def test_a_form_without_the_token_of_this_login_does_nothing(users: tuple[Visitor, Visitor], path: str) -> None:
    mine, other = users
    if "people" in path:
        return
    for token in ({}, {"form_token": other.form_token}):
        assert mine.ask("POST", filled(path), token).status_code == 403


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1", ""])
def test_forms_of_other_pages_do_nothing(house: House, users: tuple[Visitor, Visitor], origin: str) -> None:
    sent = users[0].ask("POST", "/logout", {"form_token": users[0].form_token}, origin=origin)
    assert sent.status_code == 403
    assert users[0].get("/").status_code == 200
    bare = httpx.post(f"{house.url}/login", data={"name": "anna", "password": "x"}, timeout=60)
    assert bare.status_code == 403


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1", "localhost:1", "127.0.0.1.elsewhere.example"])
def test_another_host_is_not_answered(house: House, host: str) -> None:
    assert httpx.get(f"{house.url}/login", headers={"host": host}, timeout=60).status_code == 421


def test_a_form_is_bounded_whatever_it_says(house: House) -> None:
    body = b"name=" + b"a" * LONGEST_FORM
    assert Visitor(house.url).ask("POST", "/login", {"name": "a" * LONGEST_FORM}).status_code == 413
    chunked = httpx.post(f"{house.url}/login", content=iter([body]), headers={"origin": house.url}, timeout=60)
    assert chunked.status_code == 413
    assert Visitor(house.url).ask("POST", "/login", {f"field{n}": "" for n in range(101)}).status_code == 413


def test_a_number_that_no_database_holds_is_no_login(house: House) -> None:
    assert house.admin.send(f"/account/logins/{2**63}/end").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_get_head_and_post_are_answered(house: House, method: str) -> None:
    assert httpx.request(method, f"{house.url}/login", timeout=60).status_code == 405


@pytest.mark.parametrize("path", [*(filled(path) for path, method, _ in PLACES if method == "GET"), "/static/portal.css"])
def test_every_answer_has_the_headers(house: House, path: str) -> None:
    answers = (
        Visitor(house.url).get(path),
        house.admin.get(path),
        httpx.get(house.url + path, headers={"host": "x"}, timeout=60),
    )
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize("path", ["/static/../web.py", "/static/%2e%2e/web.py", "/static//etc/passwd", "/static/..%2fweb.py"])
def test_static_files_are_those_of_the_folder(house: House, path: str) -> None:
    assert httpx.get(house.url + path, timeout=60).status_code == 404


def test_volumes_outside_of_the_open_folders_are_none(house: House, users: tuple[Visitor, Visitor], tmp_path: Path) -> None:
    lab, other = house.folder / "lab", tmp_path / "private"
    other.mkdir()
    (other / "in.tif").write_bytes(b"II*\0")
    beside = house.folder / "lab-of-others"
    beside.mkdir()
    (beside / "in.tif").write_bytes(b"II*\0")
    (lab / "link").symlink_to(other)
    (lab / "link.tif").symlink_to(other / "in.tif")
    os.mkfifo(lab / "pipe")
    tricks = (
        "", ".", "/", "in.tif", "lab/in.tif", str(lab), f"{lab}/", f"{lab}/.", f"{lab}/..", f"{lab}/../lab-of-others/in.tif",
        f"{beside}/in.tif", f"{other}/in.tif", f"{lab}/link/in.tif", f"{lab}/link.tif", f"{lab}/link", f"{lab}/link/../../x",
        f"file://{other}/in.tif", f"file:{lab}/../x", "s3://bucket/v.zarr", "http://127.0.0.1/v.zarr", "gs://b/v",
        "~/in.tif", f"{lab}/absent.tif", f"{lab}/\0", f"{lab}/in.tif\0.zarr", "--help", "-o", f"{lab}/%2e%2e/x",
        f"//{str(lab).lstrip('/')}/../x", f"{lab}/" + "a" * 5000, f"{lab}/" + "a/" * 2000,
        f"{house.folder}/portal/portal.sqlite",
    )  # fmt: skip
    for trick in tricks:
        answer = users[0].send("/new", input=trick, model="auto", voxel_size="", roi="")
        assert answer.status_code == 422, trick
        assert ("holds the character NUL" if "\0" in trick else "There is no such volume") in answer.text, trick


def test_results_of_others_are_no_volumes_even_in_an_open_folder(tmp_path: Path) -> None:
    settings = PortalSettings(data=tmp_path / "portal", port=0, roots=[Root(path=tmp_path, accounts=("everybody",))])
    with serve(settings) as served:
        visitor = Visitor(served.url).join(served.invitation or "", "ada")
        (tmp_path / "portal" / "uploads" / "1").mkdir(parents=True)
        (tmp_path / "portal" / "uploads" / "1" / "volume.tif").write_bytes(b"II*\0")
        answer = visitor.send("/new", input=str(tmp_path / "portal" / "uploads" / "1" / "volume.tif"), model="auto")
        assert "There is no such volume" in answer.text


@pytest.mark.parametrize("field", [{"model": "../../x.pt"}, {"model": "fake:nan"}, {"roi": "--overwrite"}, {"voxel_size": "1"}])
def test_options_are_those_of_the_form(house: House, users: tuple[Visitor, Visitor], field: dict[str, str]) -> None:
    (house.folder / "lab" / "real.tif").write_bytes(b"II*\0")
    answer = users[0].send("/new", **({"input": f"{house.folder}/lab/real.tif", "model": "auto"} | field))
    assert answer.status_code == 422


def test_names_of_volumes_are_shown_as_text(house: House, users: tuple[Visitor, Visitor]) -> None:
    job = house.plan("anna", input='/lab/<script>alert("1")</script>.tif', reason="<img src=x>")
    shown = users[0].get(f"/jobs/{job}").text + users[0].get("/").text
    assert "<script>alert" not in shown
    assert "<img" not in shown


def test_the_table_of_routes_is_what_is_served() -> None:
    assert all(Route(path, lambda: None) for path, *_ in ROUTES)
    assert {method for path, *_, method in ROUTES if path not in (UPLOADS, UPLOADS + "/{upload}")} == {"GET", "POST"}


def test_a_page_with_a_script_of_its_own_has_no_origin(house: House, users: tuple[Visitor, Visitor]) -> None:
    """So it can neither read pages of the portal nor send its forms, whatever a volume's name brought into it."""
    job = house.plan("anna")
    folder = house.folder / "portal" / "jobs" / job
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<script>1</script>")
    answer = users[0].get(f"/jobs/{job}/pages/report")
    assert answer.text == "<script>1</script>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    assert {name: answer.headers.get(name) for name in HEADERS if name != "Content-Security-Policy"} == {
        name: value for name, value in HEADERS.items() if name != "Content-Security-Policy"
    }
    assert users[0].get(f"/jobs/{job}/pages/log").status_code == 404
