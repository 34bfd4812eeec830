"""How S3 is reached, and what is said where it is not."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_server import BucketServer

from volumetool.errors import InputError, OutputError
from volumetool.storage.convert_volume import convert
from volumetool.storage.io import s3
from volumetool.storage.io.kvstore import kvstore_spec, read_key, write_key
from volumetool.storage.io.s3 import s3_credentials
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.testing import FaultyProxy, ProxyRequest, Reply

CREDENTIALS = """[default]
aws_access_key_id = of-default
aws_secret_access_key = x
[lab]
aws_access_key_id = of-lab
aws_secret_access_key = x
aws_session_token = of-an-hour
"""
CONFIG = """[default]
region = eu-north-1
[profile lab]
endpoint_url = http://lab.example:9000
region = eu-west-3
"""
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "of-environment", "AWS_SECRET_ACCESS_KEY": "x"}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take away every AWS setting of the machine, and give a folder ``.aws``, which is not there yet."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(s3, "_VENDOR", tmp_path / "nobody")
    return tmp_path / ".aws"


@pytest.fixture
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    """Serve S3 without any object, and give who asked: the name of the key, empty for nobody, and the session's token."""
    assert not home.exists()
    seen: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            signed = self.headers.get("Authorization", "").partition("Credential=")[2]
            seen.append((signed.partition("/")[0], self.headers.get("x-amz-security-token")))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Do nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield seen
        server.shutdown()


@pytest.mark.parametrize(
    ("environment", "files", "who"),
    [
        ({}, False, ("", None)),
        (ENVIRONMENT, False, ("of-environment", None)),
        (ENVIRONMENT | {"AWS_SESSION_TOKEN": "a", "AWS_PROFILE": "lab"}, True, ("of-environment", "a")),
        ({"AWS_ACCESS_KEY_ID": ""}, False, ("", None)),
        ({}, True, ("of-default", None)),
        ({"AWS_PROFILE": "lab"}, True, ("of-lab", "of-an-hour")),
    ],
)
def test_credentials_are_those_that_other_programs_would_take(
    home: Path,
    asked: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    files: bool,  # noqa: FBT001
    who: tuple[str, str | None],
) -> None:
    if files:
        home.mkdir()
        (home / "credentials").write_text(CREDENTIALS)
        (home / "config").write_text(CONFIG)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_key("s3://bucket/a", "k") is None
    assert asked == [who]


@pytest.mark.parametrize("source", ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE", "EC2"])
def test_machines_that_are_lent_may_have_credentials(home: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    assert s3_credentials() == {"aws_credentials": {"type": "anonymous"}}
    if source == "EC2":
        monkeypatch.setattr(s3, "_VENDOR", home.parent / "vendor")
        (home.parent / "vendor").write_text("Amazon EC2\n")
    else:
        monkeypatch.setenv(source, "x")
    assert s3_credentials() == {"aws_credentials": {"type": "default", "profile": "default"}}


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, {}),  # the region of a bucket at AWS is found, whatever the profile's is
        ({"AWS_REGION": "eu-west-1"}, {"aws_region": "eu-west-1"}),
        ({"AWS_PROFILE": "lab"}, {"endpoint": "http://lab.example:9000", "aws_region": "eu-west-3"}),
        ({"AWS_PROFILE": "lab", "AWS_ENDPOINT_URL": "http://h"}, {"endpoint": "http://h", "aws_region": "eu-west-3"}),
        (ENVIRONMENT | {"AWS_ENDPOINT_URL": "http://h"}, {"endpoint": "http://h", "aws_region": "us-east-1"}),
        (
            {"AWS_ENDPOINT_URL_S3": "http://s", "AWS_ENDPOINT_URL": "http://h"},
            {"endpoint": "http://s", "aws_region": "eu-north-1"},
        ),
    ],
)
def test_endpoint_and_region_come_from_the_environment_and_the_profile(
    home: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], settings: dict[str, str]
) -> None:
    home.mkdir()
    (home / "config").write_text(CONFIG)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert kvstore_spec("s3://bucket/a") == {"driver": "s3", "bucket": "bucket", "path": "a/"} | settings


@pytest.mark.parametrize(
    ("environment", "file", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "a"}, "", "AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_SECRET_ACCESS_KEY": "s3cret"}, "", "AWS_ACCESS_KEY_ID is not"),
        ({"AWS_PROFILE": "nobody"}, CREDENTIALS, "'nobody'"),
        ({"AWS_PROFILE": "lab"}, "s3cret\n", "cannot be read"),
        ({}, b"\xff s3cret", "cannot be read"),
    ],
)
def test_credentials_that_cannot_be_right_are_named_before_anything_is_asked(
    home: Path,
    asked: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    file: str | bytes,
    words: str,
) -> None:
    home.mkdir()
    (home / "credentials").write_bytes(file if isinstance(file, bytes) else file.encode())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for act in (lambda: open_volume("s3://bucket/a"), lambda: write_key("s3://bucket/a", "k", b"")):
        with pytest.raises(InputError, match=words) as caught:
            act()
        assert caught.value.code == "input.credentials"
        assert "s3cret" not in f"{caught.value} {caught.value.as_dict()}"
    assert asked == []


@pytest.mark.parametrize(
    ("status", "word", "code", "hint"),
    [
        (403, "InvalidAccessKeyId", "input.forbidden", "does not take these credentials"),
        (403, "SignatureDoesNotMatch", "input.forbidden", "does not take these credentials"),
        (400, "ExpiredToken", "input.unreadable", "AWS_SESSION_TOKEN"),
        (403, "AccessDenied", "input.forbidden", "s3:ListBucket"),
        (301, "PermanentRedirect", "input.unreadable", "another region"),
        (400, "AuthorizationHeaderMalformed", "input.unreadable", "another region"),
        (404, "NoSuchBucket", "input.unlistable", "the bucket's name"),
        (403, "RequestTimeTooSkewed", "input.unreadable", "clock"),
        (501, "NotImplemented", "input.unreadable", "AWS_ENDPOINT_URL"),
    ],
)
def test_what_the_server_refuses_is_told_with_its_word_and_what_to_do(
    kept: BucketServer, monkeypatch: pytest.MonkeyPatch, status: int, word: str, code: str, hint: str
) -> None:
    """Nothing of it is tried again; only while formats are tried it may mean that one of their files is not there."""
    with FaultyProxy(kept.url, lambda _: Reply(status, word=word)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(InputError, match=word) as caught:
            open_volume("s3://bucket/in.zarr")
        assert (caught.value.code, hint in caught.value.hint) == (code, True)
        assert len(proxy.requests) < 30
        proxy.reset(lambda _: Reply(status, word=word))
        with pytest.raises(OutputError, match=word) as refused:
            write_key("s3://bucket/out", "k", b"")
        assert (refused.value.code, hint in refused.value.hint) == ("output.unwritable", True)
        assert len(proxy.requests) == 1


@pytest.mark.usefixtures("asked")
def test_without_credentials_the_hint_says_that_none_were_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], lambda _: Reply(403)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(InputError, match="AccessDenied") as caught:
            open_volume("s3://bucket/a")
    assert "No credentials were found" in caught.value.hint


@pytest.mark.parametrize("name", ["ome-zarr-0.4", "n5", "precomputed"])
def test_a_public_bucket_that_may_not_be_listed_is_read(
    kept: BucketServer, filled: tuple[Volume, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Such a bucket answers "forbidden" for what does not exist, so for the files of all formats that are tried before."""
    volume = convert(filled[0].url, tmp_path / "volume", format=name)
    shutil.copytree(volume.url, kept.folder / "bucket" / "in")

    def forbid(request: ProxyRequest) -> Reply | None:
        return None if (kept.folder / request.path.partition("?")[0][1:]).is_file() else Reply(403)

    with FaultyProxy(kept.url, forbid) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        found = open_volume("s3://bucket/in")
        assert (found.format, found.voxel_size) == (volume.format, volume.voxel_size)
        assert (found.open().read().result() == volume.open().read().result()).all()
