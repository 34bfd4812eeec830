"""Uploads: every byte arrives, whatever is cut; nobody gets more room, more names, or more of others than is theirs."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from browsing import House, Visitor, settings_of
from sending import BYTES, TUS, begin, metadata, offset_of, send, send_and_cut, told_when, tus, whole

from volumetool.portal import supervisor
from volumetool.portal.access.limits import LIMITS
from volumetool.portal.pages.tus import shown_name
from volumetool.portal.queries import CANCELLED, QUEUED, RECEIVING, Database, now
from volumetool.portal.queries.uploads import MOST_UNFINISHED
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings, make_folder
from volumetool.portal.supervisor import Supervisor
from volumetool.portal.tables import Upload
from volumetool.portal.transfer import intake
from volumetool.portal.transfer.inspection import look_at
from volumetool.portal.transfer.intake import Intake, Overtaken
from volumetool.portal.web import COOKIE, UPLOADS

QUOTA = 10_000_000


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    cheap_hashes: None,  # noqa: ARG001
    new_url: Callable[[], str | None],
) -> Iterator[House]:
    """Serve a portal with room for uploads, on either database; nobody looks at their previews, so none is drawn."""
    folder = tmp_path_factory.mktemp("store")
    settings = PortalSettings(**settings_of(folder, quota=QUOTA, upload_limit=4_000_000, database=new_url()))
    told = supervisor._told
    with pytest.MonkeyPatch.context() as patch, serve(settings) as served:
        patch.setattr(supervisor, "_told", lambda command, seconds: {} if "try" in command else told(command, seconds))
        admin = Visitor(served.url).join(served.invitation or "", "ada")
        database = Database(settings)
        yield House(served.url, folder, database, admin)
        database.engine.dispose()


def intake_of(store: House) -> Intake:
    """Return another intake of the same uploads, which looks after nothing by itself."""
    settings = PortalSettings(**settings_of(store.folder, quota=QUOTA))
    return Intake(store.database, settings, Supervisor(store.database, settings))


def stack(dtype: str = "uint8", shape: tuple[int, ...] = (3, 64, 80)) -> bytes:
    """Return a TIFF file of noise that says no voxel size."""
    file = io.BytesIO()
    voxels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    tifffile.imwrite(file, voxels, photometric="minisblack")
    return file.getvalue()


def files_of(store: House, place: str) -> list[Path]:
    return list((store.folder / "portal" / "uploads" / place.rpartition("/")[2]).iterdir())


def test_an_upload_that_is_cut_at_50_places_has_every_byte(store: House) -> None:
    visitor, chance = store.newcomer("cutter"), random.Random(7)  # noqa: S311
    data = chance.randbytes(2_000_000)
    place, cuts = begin(visitor, len(data)), 0
    while cuts < 50:
        offset = offset_of(visitor, place)
        assert data.startswith(files_of(store, place)[0].read_bytes())
        send_and_cut(visitor, place, data[offset:], min(chance.randrange(80_000), len(data) - offset - 1), offset)
        cuts += 1
    for _ in range(60):  # the last of the cut requests may begin after it was asked how much is there
        offset = offset_of(visitor, place)
        assert 0 < offset < len(data)
        if (answer := send(visitor, place, data[offset:], offset)).status_code != 409:
            break
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(len(data)))
    told = told_when(visitor, place, lambda told: told["state"] != "looked at")
    assert told["state"] == "refused"  # noise is no volume: it was looked at, and deleted
    assert files_of(store, place) == []


def test_the_bytes_of_a_file_are_those_that_were_sent(store: House) -> None:
    visitor, data = store.newcomer("sender"), stack("uint16")
    place = begin(visitor, len(data), "../tissue.tif", voxel_size="30,8,8")
    half = len(data) // 2
    for begins, ends in ((0, half), (half, len(data))):
        digest = base64.b64encode(hashlib.sha256(data[begins:ends]).digest()).decode()
        assert send(visitor, place, data[begins:ends], begins, upload_checksum=f"sha256 {digest}").status_code == 204
    told = told_when(visitor, place, lambda told: told["state"] == "ready")
    assert (told["name"], told["voxel_size"], told["facts"]["dtype"]) == ("tissue.tif", "30,8,8", "uint16")
    assert told["facts"]["shape"] == [3, 64, 80]
    kept = [file for file in files_of(store, place) if file.suffix == ".tif"]
    assert [(file.name, file.read_bytes() == data, file.stat().st_mode & 0o777) for file in kept] == [
        ("volume.tif", True, 0o600)
    ]


def test_a_later_request_overtakes_one_that_still_looks_open(store: House) -> None:
    """As after a cable was pulled: the server hears nothing of it for minutes."""
    visitor, data = store.newcomer("puller"), os.urandom(3000)
    place, other = begin(visitor, len(data)), intake_of(store)
    upload = store.database.upload(place.rpartition("/")[2], None)
    assert upload is not None
    hanging = other.take(upload)
    hanging.write(data[:1000])
    later = other.take(upload)
    assert later.began == 1000
    with pytest.raises(Overtaken):
        hanging.write(b"late")
    hanging.take_back()
    hanging.close()
    later.write(data[1000:2000])
    later.close()
    assert offset_of(visitor, place) == 2000
    assert files_of(store, place)[0].read_bytes() == data[:2000]


def test_what_is_removed_takes_no_more_of_the_disk(store: House) -> None:
    """Room is given back at once: who still sends must not go on to write a file that nobody sees."""
    visitor, own = store.newcomer("remover"), intake_of(store)
    upload = store.database.upload(begin(visitor, 3000).rpartition("/")[2], None)
    assert upload is not None
    sending = own.take(upload)
    assert own.remove(upload)
    with pytest.raises(Overtaken):
        sending.write(b"late")
    sending.close()
    with pytest.raises(Overtaken):
        own.take(upload)  # by a request that had looked it up before


def test_what_is_whole_gets_no_second_file(store: House) -> None:
    visitor, own = store.newcomer("second"), intake_of(store)
    place = begin(visitor, 3000)
    upload = store.database.upload(place.rpartition("/")[2], None)
    assert upload is not None
    part = own.place(upload)
    part.rename(part.with_name("volume.tif"))
    assert tus(visitor, "HEAD", place).status_code == 409
    assert send(visitor, place, b"a").status_code == 409
    assert [file.name for file in files_of(store, place)] == ["volume.tif"]


def test_a_portal_that_ends_waits_for_no_queue_of_files(store: House, monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = intake_of(store), []

    def look(number: str) -> None:
        seen.append(number)
        own._ending.wait()

    monkeypatch.setattr(own, "look", look)
    with own:
        for number in ("one", "two", "three"):
            own._whole.put(number)
    assert len(seen) <= 1


def test_an_upload_leaves_room_on_the_disk_while_it_comes(store: House, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = store.newcomer("filler")
    place = begin(visitor, 3000)
    assert send(visitor, place, b"a" * 1000).status_code == 204
    with monkeypatch.context() as patch:
        patch.setattr(intake, "SPARE", 2**60)
        refused = send(visitor, place, b"b" * 2000, 1000)
    assert (refused.status_code, refused.json()["code"]) == (507, "portal.disk")
    assert refused.headers["tus-resumable"] == "1.0.0"
    assert offset_of(visitor, place) == 1000


def test_what_came_whole_before_the_portal_was_killed_is_looked_at(store: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "inspect", look_at)
    visitor, data = store.newcomer("killed"), stack()
    place = begin(visitor, len(data))
    files_of(store, place)[0].write_bytes(data)
    assert offset_of(visitor, place) == len(data)
    assert told_when(visitor, place, lambda told: told["state"] not in ("receiving", "looked at"))["state"] == "ready"


def test_requests_that_do_not_fit_are_refused_and_change_nothing(store: House) -> None:
    visitor = store.newcomer("protocol")
    place = begin(visitor, 1000)
    assert send(visitor, place, b"a" * 400).status_code == 204
    wrong = base64.b64encode(b"x" * 32).decode()
    refused = [
        (tus(visitor, "PATCH", place, b"b", upload_offset="399", content_type="application/offset+octet-stream"), 409),
        (send(visitor, place, b"b", 401), 409),
        (tus(visitor, "PATCH", place, b"b", upload_offset="400", content_type="text/plain"), 415),
        (send(visitor, place, b"b" * 601, 400), 413),
        (tus(visitor, "PATCH", place, b"b", content_type="application/offset+octet-stream"), 400),
        (send(visitor, place, b"b" * 100, 400, upload_checksum=f"sha256 {wrong}"), 460),
        (send(visitor, place, b"b" * 100, 400, upload_checksum="md5 abcd"), 400),
        (send(visitor, place, b"b", 400, tus_resumable="0.2.2"), 412),
        (send(visitor, place, b"b", 400, x_form_token="another"), 403),
        (send(visitor, place, b"b", 400, origin="https://elsewhere.example"), 403),
        (tus(visitor, "POST", UPLOADS), 400),
        (tus(visitor, "POST", UPLOADS, upload_length="0"), 400),
        (tus(visitor, "POST", UPLOADS, upload_length="4000001"), 413),
        (tus(visitor, "POST", UPLOADS, upload_length="1", upload_metadata="filename %%%"), 400),
        (tus(visitor, "POST", UPLOADS, upload_length="1", upload_metadata=metadata(voxel_size="1,2")), 422),
    ]
    assert [answer.status_code for answer, _ in refused] == [status for _, status in refused]
    assert refused[7][0].headers["tus-version"] == "1.0.0"
    told = {(answer.headers["content-type"], answer.json()["status"]) for answer, _ in refused}
    assert told == {("application/problem+json", status) for _, status in refused}
    assert offset_of(visitor, place) == 400
    headers = {"origin": store.url, "x-form-token": visitor.form_token, "cookie": f"{COOKIE}={visitor.token}", **TUS, **BYTES}
    nothing = httpx.request("PATCH", store.url + place, headers=headers | {"upload-offset": "400"}, timeout=60)
    assert (nothing.status_code, nothing.headers["upload-offset"]) == (204, "400")  # no body, and no length of one
    options = tus(visitor, "OPTIONS", UPLOADS)
    assert options.headers["tus-extension"] == "creation,termination,expiration,checksum"
    assert tus(visitor, "DELETE", place).status_code == 204
    assert tus(visitor, "HEAD", place).status_code == 404


def test_what_is_no_volume_is_told_by_the_name_that_its_owner_knows(store: House) -> None:
    visitor = store.newcomer("texter")
    told = whole(visitor, b"%PDF-1.7" + bytes(300), "thesis.pdf")
    assert told["state"] == "refused"
    assert "thesis.pdf is no TIFF, MRC or PNG file" in told["reason"]
    assert str(store.folder) not in told["reason"]
    assert "thesis.pdf is no TIFF" in visitor.get(f"/uploads/{told['id']}").text
    assert store.database.bytes_left(store.database.account("texter").id) == QUOTA  # type: ignore[union-attr]


def test_room_is_taken_when_an_upload_begins_and_given_once(store: House) -> None:
    visitor = store.newcomer("hoarder")
    account = store.database.account("hoarder")
    assert account is not None
    first = begin(visitor, 4_000_000)
    visitor.form_token  # noqa: B018  (asked for once, before several ask at the same time)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: tus(visitor, "POST", UPLOADS, upload_length="4000000"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 413, 413, 413]
    assert store.database.bytes_left(account.id) == 2_000_000
    assert store.database.start(store.plan("hoarder", 3_000_000), account.id) == 1_000_000
    assert tus(visitor, "DELETE", first).status_code == 204
    assert store.database.bytes_left(account.id) == 6_000_000


def test_unfinished_uploads_are_so_many_and_end(store: House) -> None:
    visitor = store.newcomer("beginner")
    places = [begin(visitor, 10) for _ in range(MOST_UNFINISHED)]
    assert tus(visitor, "POST", UPLOADS, upload_length="1").status_code == 429
    old = places[0].rpartition("/")[2]
    store.database.change_upload(old, (RECEIVING,), touched=now() - timedelta(days=8))
    other = intake_of(store)
    other.end_old_ones()
    assert tus(visitor, "HEAD", places[0]).status_code == 404
    assert not other.folder(old).exists()
    assert tus(visitor, "HEAD", places[1]).status_code == 200
    assert tus(visitor, "POST", UPLOADS, upload_length="1").status_code == 201


TRICKS = (
    "../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "C:\\x.tif", "..", ".", "", " ", "a/../../b.tif", "%2e%2e%2fb.tif",
    "a.tif\0.png", "a\r\nSet-Cookie: x=1", "\u202efit.exe", "~root/.ssh/authorized_keys", "$(touch x).tif", "`id`.tif", "-rf",
    "--help", "a;b.tif", "|cat", "CON", "a" * 4000 + ".tif", "<script>alert(1)</script>.tif", '"><img src=x>.tif',
    "portal.sqlite", "file:///etc/passwd", "part", "volume.tif", "\U0001f600.tif", "{{ 7*7 }}",
)  # fmt: skip


def test_names_of_files_escape_nothing(store: House) -> None:
    """No file on the disk has a name that somebody chose: a name is a text that pages show."""
    assert len(TRICKS) == 30
    before = {path for path in store.folder.rglob("*") if "uploads" not in path.parts}
    visitor = store.newcomer("trickster")
    for trick in TRICKS:
        place = begin(visitor, 10, trick)
        number = place.rpartition("/")[2]
        assert len(number) == 16
        assert int(number, 16) >= 0
        assert [file.name for file in files_of(store, place)] == ["part"]
        page = visitor.get(f"/uploads/{number}").text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "49" not in visitor.get(place).json()["name"]
        assert tus(visitor, "DELETE", place).status_code == 204
    assert {path for path in store.folder.rglob("*") if "uploads" not in path.parts} <= before | {
        store.folder / "portal" / f"portal.sqlite{end}" for end in ("", "-wal", "-shm")
    }


@pytest.mark.parametrize("trick", ["..", ".", "", "\u202e", "/", "a/..", "\0\n"])
def test_a_name_that_is_none_is_replaced(trick: str) -> None:
    assert shown_name(trick) == "upload"


def test_an_upload_of_somebody_else_does_not_exist(store: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "inspect", look_at)  # in this process: that is faster
    owner, other = store.newcomer("olga"), store.newcomer("piet")
    told = whole(owner, stack(), voxel_size="30,8,8")
    place, number = f"{UPLOADS}/{told['id']}", told["id"]
    assert told["state"] == "ready"
    for method in ("HEAD", "PATCH", "DELETE"):
        assert tus(other, method, place, upload_offset="0").status_code == 404, method
    for path in (place, f"/uploads/{number}", f"/uploads/{number}/preview", f"/new?upload={number}"):
        assert other.get(path).status_code == 404, path
        assert owner.get(path).status_code == 200 or path.endswith("preview"), path
    for path in ("describe", "preview", "remove"):
        assert other.send(f"/uploads/{number}/{path}").status_code == 404, path
    assert (
        other.send("/new", upload=number, model="auto").status_code == 404
        or "no such upload" in other.send("/new", upload=number).text
    )
    assert number not in other.get("/uploads").text + other.get(UPLOADS).text
    assert offset_of(owner, place) == told["length"]


def test_an_upload_that_a_job_reads_is_kept(tmp_path: Path) -> None:
    settings = PortalSettings(**settings_of(tmp_path))
    make_folder(settings)
    house = House("", tmp_path, Database(settings), Visitor(""))
    own = Intake(house.database, settings, Supervisor(house.database, settings))
    house.database.invite("token", "user")
    account = house.database.accept("token", "rita", "hash")
    assert account is not None
    upload = Upload(account_id=account.id, name="a.tif", length=9, modified=0, voxel_size="")
    assert own.begin(upload) is None
    job = house.plan("rita", input=str(own.place(upload)))
    assert house.database.start(job, account.id) is None
    assert not own.remove(upload)
    assert own.place(upload).exists()
    house.database.change(job, (QUEUED,), state=CANCELLED)
    assert own.remove(upload)
    assert not own.folder(upload.id).exists()
    assert house.database.bytes_left(account.id) == settings.quota - 1000
    house.database.engine.dispose()


def test_the_voxel_size_is_asked_for_and_begins_the_preview(store: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "inspect", look_at)
    commands: list[list[str]] = []
    monkeypatch.setattr(supervisor, "_told", lambda command, _: commands.append(command))
    visitor = store.newcomer("sizer")
    told = whole(visitor, stack())
    assert (told["state"], told["voxel_size"]) == ("ready", "")
    page = visitor.get(f"/uploads/{told['id']}").text
    assert "not said by the file" in page
    assert "New job on it" not in page
    assert visitor.send(f"/uploads/{told['id']}/describe", voxel_size="30,8").status_code == 422
    assert visitor.send(f"/uploads/{told['id']}/describe", voxel_size="30, 8, 8").status_code == 303
    assert told_when(visitor, f"{UPLOADS}/{told['id']}", lambda told: told["preview"] == "ready")["voxel_size"] == "30,8,8"
    assert commands[-1][3:5] == ["try", "--voxel-size=30,8,8"]
    assert 'value="30,8,8"' in visitor.get(f"/new?upload={told['id']}").text
    monkeypatch.setitem(LIMITS, "page", (1, 3600))
    assert visitor.send(f"/uploads/{told['id']}/describe", voxel_size="30,8,9").status_code == 429
