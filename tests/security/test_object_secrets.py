"""S9, for object stores: keys, tokens and signatures open them, and show up in nothing that a command prints or writes."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest
from bucket_server import BucketServer
from small_jobs import SMALL, noise, write_input
from volumetool.cli.main import main

from volumetool.errors import InputError
from volumetool.storage.io.kvstore import read_key
from volumetool.storage.open import open_volume
from volumetool.testing import FaultyProxy, Reply

KEY, SECRET, TOKEN = "k3y-canary", "s3cr3t-canary", "t0k3n-canary"
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
LEAKY = f"InvalidAccessKeyId</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId><Code>InvalidAccessKeyId"
"""S3's answer to a wrong key, which repeats it."""


def ends(*commands: list[str]) -> list[object]:
    """Run commands; return their exit codes."""
    codes = []
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main(command)
        codes.append(ended.value.code)
    return codes


@pytest.mark.parametrize("place", ["environment", pytest.param("profile", marks=pytest.mark.slow)])
def test_a_job_between_buckets_leaves_no_key_anywhere(
    kept: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    """Not where all is well, and not where the server refuses, in a region or at once, and repeats the key in its answer."""
    write_input(kept.folder / "bucket" / "in.zarr", noise((6, 16, 16)))
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "aws_session_token": TOKEN}
    if place == "environment":
        for name, value in keys.items():
            monkeypatch.setenv(name.upper(), value)
    else:
        (home / ".aws" / "credentials").write_text("[lab]\n" + "".join(f"{name}={value}\n" for name, value in keys.items()))
        for name in list(keys)[:2]:
            monkeypatch.delenv(name.upper())
        monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("VOLUMETOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VOLUMETOOL_TRACEBACK", "1")
    source, out = "s3://bucket/in.zarr", "s3://bucket/out.zarr"
    enhance = ["enhance", source, out, *OPTIONS, "--log-format", "json", "--json"]
    others = [[name, out, "--json"] for name in ("info", "status", "verify", "validate")]
    assert ends(enhance, *others, ["convert", source, "s3://bucket/copy.n5"]) == [0] * 6
    with FaultyProxy(kept.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for part, wanted in (("/c/", [3, 0, 1]), ("", [1, 2, 2])):
            proxy.reset(lambda request, part=part: Reply(403, word=LEAKY) if part in request.path else None)  # type: ignore[misc]
            again = ["enhance", source, f"s3://bucket/refused{len(part)}.zarr", *OPTIONS, "--json"]
            convert = ["convert", source, str(tmp_path / f"copy{len(part)}.zarr")]
            assert ends(again, ["info", source, "--json"], convert) == wanted
    said = capfd.readouterr()
    files = [file for file in tmp_path.rglob("*") if file.is_file() and ".aws" not in file.parts]
    texts = {"stdout": said.out, "stderr": said.err} | {str(file): file.read_bytes().decode("latin-1") for file in files}
    assert len(files) > 20
    for canary in (KEY, SECRET, TOKEN):
        assert [name for name, text in texts.items() if canary in text] == []


def test_a_shared_access_signature_arrives_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is how volumes in Azure's containers are read: by https, with the query that opens the container."""
    volume = write_input(tmp_path / "container" / "in.zarr", noise((4, 16, 16)))
    query = "sv=2026-02-06&sr=c&sp=r&sig=a%2Bb%2F" + SECRET + "%3D"
    seen: list[str] = []

    class Container(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, signature = self.path.partition("?")
            seen.append(signature)
            file = volume.parent / path.lstrip("/").removeprefix("container/")
            known = signature == query and file.is_file()
            body = file.read_bytes() if known else b""
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Do nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Container) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        container = f"http://127.0.0.1:{server.server_port}/container"
        monkeypatch.setenv("VOLUMETOOL_SIGNED_URLS", f"{container}?{query}")
        found = open_volume(f"{container}/in.zarr")
        assert SECRET not in f"{found} {found.url}"
        assert read_key(found.url, "zarr.json") == (volume / "zarr.json").read_bytes()
        assert set(seen) == {query}
        monkeypatch.setenv("VOLUMETOOL_SIGNED_URLS", f"{container}?sig=wrong-{SECRET}")
        with pytest.raises(InputError, match="is forbidden") as caught:
            open_volume(f"{container}/in.zarr")
        server.shutdown()
    assert SECRET not in f"{caught.value} {caught.value.as_dict()}"


@pytest.mark.parametrize("url", ["az://container/v.zarr", "abfss://container@account.dfs.core.windows.net/v.zarr"])
def test_a_place_in_azure_is_told_how_to_be_reached(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_volume(url)
    assert caught.value.code == "input.url"
    assert "blob.core.windows.net" in caught.value.hint
    assert "VOLUMETOOL_SIGNED_URLS" in caught.value.hint
