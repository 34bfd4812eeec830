"""What leaves the portal: the bytes of the result and no others, to its owner, and to whoever has a link until it ends."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from browsing import House, Visitor
from small_jobs import SMALL, noise, write_input
from small_jobs import run as run_job

import volumetool as vt
from volumetool.portal.accounts import hash_token
from volumetool.portal.pages.shares import DAYS
from volumetool.portal.queries import COMPLETE, now
from volumetool.portal.tables import Share
from volumetool.portal.transfer.archive import BLOCK, Archive
from volumetool.sealed import is_sound, seal
from volumetool.storage.io.kvstore import encode_json
from volumetool.storage.provenance import without_places


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a finished job's output."""
    folder = tmp_path_factory.mktemp("job")
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    run_job(input=str(folder / "in.zarr"), output=str(folder / "output.zarr"), **SMALL)
    return folder / "output.zarr"


@pytest.fixture
def shown(house: House, done: Path) -> Iterator[tuple[Visitor, str]]:
    """Give somebody with a complete job, and its number."""
    name = f"owner{len(house.database.accounts())}"
    visitor = house.newcomer(name)
    job = house.plan(name, state=COMPLETE)
    shutil.copytree(done.parent, house.folder / "portal" / "jobs" / job)
    yield visitor, job
    shutil.rmtree(house.folder / "portal" / "jobs" / job, ignore_errors=True)


def sent(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder; that of its root without the machine and the places of it."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    root = json.loads(files["zarr.json"])
    own = root["attributes"]["volumetool"]
    del own["host"], own["checksum"]
    own["job"]["input"] = "in.zarr"
    root["attributes"]["volumetool"] = seal(own)
    return files | {"zarr.json": encode_json(root)}


def test_the_zip_file_has_the_bytes_of_the_volume_and_nothing_that_lies_in_it(
    house: House, done: Path, shown: tuple[Visitor, str], tmp_path: Path
) -> None:
    visitor, job = shown
    inside = house.folder / "portal" / "jobs" / job / "output.zarr"
    (inside / "password.txt").write_text("secret")
    (inside / "0" / "link").symlink_to("/etc/passwd")
    answer = visitor.get(f"/jobs/{job}/volume.zip")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"] == f'attachment; filename="volume-{job[:8]}.zarr.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert found.testzip() is None
        assert {entry.compress_type for entry in found.infolist()} == {zipfile.ZIP_STORED}
        assert found.namelist()[0] == "zarr.json"
        assert {name: found.read(name) for name in found.namelist()} == sent(done)
    (tmp_path / "volume.zarr.zip").write_bytes(answer.content)
    whole, own = vt.open_volume(tmp_path / "volume.zarr.zip"), vt.open_volume(done)
    assert np.array_equal(whole[:, :, :], own[:, :, :])
    assert visitor.ask("HEAD", f"/jobs/{job}/volume.zip").headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"job": {"input": "s3://lab/em/raw.zarr/", "mask": "/srv/em/mask.zarr"}}, {"input": "raw.zarr", "mask": "mask.zarr"}),
        ({"job": {"model": "median -> /srv/our models/x.pt2;size=3 -> https://lab.org/a/y.onnx"}},
         {"model": "median -> x.pt2;size=3 -> y.onnx"}),
        ({"job": {"model": "bin;factors=1,2,2", "input": "C:\\x"}}, {"model": "bin;factors=1,2,2", "input": "C:\\x"}),
    ],
)  # fmt: skip
def test_of_the_places_that_were_read_the_last_name_stays(said: dict[str, Any], left: dict[str, Any]) -> None:
    sound = seal(said | {"host": "em1"})
    assert without_places(sound) == seal({"job": left})
    assert not is_sound(without_places(sound | {"version": "9"}))  # what is damaged is not made to look whole


def test_a_zip_file_is_made_block_by_block_of_what_it_began_with(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "output.zarr"
    shutil.copytree(done, copy)
    archive = Archive(vt.open_volume(copy))
    blocks = list(archive)
    assert max(map(len, blocks)) <= BLOCK
    assert sum(map(len, blocks)) == archive.size
    assert b"".join(archive) == b"".join(blocks)
    chunk = next(file for file in copy.rglob("c/*/*/*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes() + b"x")
    with pytest.raises(OSError, match="is not what it was"):
        list(archive)


def test_a_box_as_tiff_has_its_voxels_and_their_size(done: Path, shown: tuple[Visitor, str], tmp_path: Path) -> None:
    visitor, job = shown
    answer = visitor.get(f"/jobs/{job}/box.tif?box=2:5,4:30,8:")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-length"] == str(len(answer.content))
    own = vt.open_volume(done)
    assert np.array_equal(tifffile.imread(io.BytesIO(answer.content)), own[2:5, 4:30, 8:])
    (tmp_path / "box.tif").write_bytes(answer.content)
    assert vt.open_volume(tmp_path / "box.tif").voxel_size == own.voxel_size
    for box, status in (("", 422), ("1:2", 422), ("0:0,0:1,0:1", 422), ("99:100,:,:", 422), ("a:b,:,:", 422)):
        assert visitor.get(f"/jobs/{job}/box.tif?box={box}").status_code == status, box


def test_a_box_that_is_too_large_is_refused_with_both_sizes(shown: tuple[Visitor, str]) -> None:
    visitor, job = shown
    answer = visitor.get(f"/jobs/{job}/box.tif?box=:,:,:")
    assert answer.status_code == 413
    assert "The box has 260 KiB; at most 19.5 KiB" in answer.text


def test_the_page_to_cite_says_model_data_version_and_fingerprint(done: Path, shown: tuple[Visitor, str]) -> None:
    visitor, job = shown
    told = vt.open_volume(done).attributes
    page = visitor.get(f"/jobs/{job}/provenance").text
    for fact in (told["version"], told["model"]["name"], told["model"]["sha256"], told["spec"]["input"], told["fingerprint"]):
        assert fact.replace("&", "&amp;") in page
    as_json = visitor.get(f"/jobs/{job}/provenance.json").json()
    assert as_json["spec"] == told["spec"]
    for text in (page, json.dumps(as_json)):
        assert str(done.parent) not in text
        assert socket.gethostname() not in text


def test_a_link_gives_one_result_to_anybody_until_it_ends(house: House, done: Path, shown: tuple[Visitor, str]) -> None:
    owner, job = shown
    page = owner.send(f"/jobs/{job}/share", days="7").text
    found = re.search(r"(/shared/([\w-]+))<", page)
    assert found is not None
    link, token = found.groups()
    stranger = Visitor(house.url)
    for path in ("", "/volume.zip", "/box.tif?box=0:1,0:9,0:9", "/provenance", "/provenance.json"):
        assert stranger.get(link + path).status_code == 200, path
    with zipfile.ZipFile(io.BytesIO(stranger.get(f"{link}/volume.zip").content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == sent(done)
    assert stranger.get(f"/jobs/{job}").headers["location"] == "/login"
    assert "Log out" not in stranger.get(link).text
    share = house.database.shares(job)[0]
    assert share.token == hash_token(token) != token
    assert token not in owner.get(f"/jobs/{job}").text
    assert owner.send(f"/jobs/{job}/shares/{share.id}/end").status_code == 303
    assert {stranger.get(link + path).status_code for path in ("", "/volume.zip", "/provenance")} == {404}
    noted = [deed.what for deed in house.database.deeds() if job in deed.target]
    assert {"shared", "share ended", "shared download", "shared download of a box", "shared result seen"} <= set(noted)


def test_links_end_by_themselves_and_with_their_job(house: House, shown: tuple[Visitor, str]) -> None:
    owner, job = shown
    tokens = [re.search(r"/shared/([\w-]+)<", owner.send(f"/jobs/{job}/share", days=str(days)).text) for days in DAYS]
    links = [f"/shared/{token[1]}" for token in tokens if token]
    assert {Visitor(house.url).get(link).status_code for link in links} == {200}
    with house.database._writing() as session:
        session.query(Share).filter_by(token=hash_token(links[0].rpartition("/")[2])).update(
            {"ends": now() - timedelta(seconds=1)}
        )
    assert [Visitor(house.url).get(link).status_code for link in links] == [404, 200, 200, 200]
    assert owner.send(f"/jobs/{job}/share", days="36500").status_code == 422
    assert owner.send(f"/jobs/{job}/remove").status_code == 303
    assert {Visitor(house.url).get(link).status_code for link in links} == {404}


def test_only_results_of_complete_jobs_are_shared_and_sent(house: House, shown: tuple[Visitor, str]) -> None:
    name = "unready"
    visitor, job = house.newcomer(name), house.plan(name)
    assert visitor.send(f"/jobs/{job}/share", days="7").status_code == 409
    assert {visitor.get(f"/jobs/{job}/{what}").status_code for what in ("volume.zip", "box.tif", "provenance")} == {409}
    assert shown[0].send(f"/jobs/{job}/share", days="7").status_code == 404
    share = shown[0].send(f"/jobs/{shown[1]}/share", days="7")
    assert share.status_code == 200
    number = house.database.shares(shown[1])[0].id
    assert visitor.send(f"/jobs/{job}/shares/{number}/end").status_code == 404
    assert len(house.database.shares(shown[1])) == 1


@pytest.mark.parametrize("trick", ["x/../../jobs", "%2e%2e", "a" * 300, "'; drop table shares; --", "\u202e"])
def test_a_token_that_is_none_gives_nothing(house: House, trick: str) -> None:
    assert Visitor(house.url).get(f"/shared/{trick}").status_code == 404
