"""S6 and S9: what a file names is opened only where everybody may look; no URL carries a secret."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from volumetool.errors import ConfigError, InputError, VolumetoolError
from volumetool.jobs.job import read_job
from volumetool.storage.io.kvstore import canonical_url, kvstore_spec
from volumetool.storage.io.urls import check_foreign
from volumetool.storage.open import open_volume
from volumetool.training.config import read_config

NAMES = {
    "public.example": ["93.184.216.34"],
    "localhost": ["127.0.0.1"],
    "inner.example": ["10.0.0.5"],
    "rebinding.example": ["93.184.216.34", "127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "six.example": ["fe80::1%eth0"],
}


def lookup(host: str) -> list[str]:
    """Find names in the table and read numbers as the system does; asks nobody."""
    if host in NAMES:
        return NAMES[host]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=0 if _is_number(host) else socket.AI_NUMERICHOST)
    return [str(each[4][0]) for each in found]


def _is_number(host: str) -> bool:
    return host.replace(".", "").isalnum() and host[0].isdigit()


PRIVATE = (
    "http://127.0.0.1/v.zarr", "http://127.1/v", "http://2130706433/v", "http://0x7f000001/v", "http://0177.0.0.1/v",
    "http://0.0.0.0/v", "http://localhost:8080/v", "http://[::1]/v", "http://[::ffff:127.0.0.1]/v", "http://[::ffff:a9fe:a9fe]/v",
    "http://[64:ff9b::7f00:1]/v", "http://[2002:7f00:1::]/v", "http://[fe80::1]/v", "http://[fd00::1]/v", "http://[::]/v",
    "http://169.254.169.254/latest/meta-data", "https://metadata.google.internal/computeMetadata", "http://10.0.0.1/v",
    "http://172.16.3.4/v", "http://192.168.1.1:9000/v", "http://100.64.0.1/v", "http://inner.example/v",
    "http://rebinding.example/v", "http://six.example/v", "http://224.0.0.1/v", "http://nowhere.invalid/v",
)  # fmt: skip
MALFORMED = (
    "ftp://public.example/v", "gopher://127.0.0.1:6379/_SET", "dict://x/y", "reference://spec.json", "simplecache::s3://b/k",
    "zip://v.zarr::http://public.example/a.zip", "http://public.example/a::file:///etc/passwd", "s3://bucket::http://127.0.0.1/v",
    "jar:http://public.example!/v", "http://public.example\\@127.0.0.1/v", "http://pub lic.example/v", "http://public.example:99999/v",
    "http://public.example:x/v", "file://server/share/v", "s3:///v", "http:///v", "s3://bucket:80/v", "gs://../v", "javascript://x/y",
)  # fmt: skip
SECRET = (
    "https://public.example/v.zarr?sig=CANARY", "https://CANARY@public.example/v", "https://user:CANARY@public.example/v",
    "https://user:CAN/ARY@public.example/v", "s3://AKIA:CANARY@bucket/v", "s3://bucket/v?X-Amz-Signature=CANARY",
    "http://public.example/v#CANARY",
)  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_a_file_reaches_no_private_host(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_foreign(url, (), lookup)
    assert caught.value.code == "config.private-host"
    assert canonical_url(url) == url, "what the user types is the user's will"


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_plain_url_is_refused_whoever_names_it(url: str) -> None:
    if not url.startswith(("simplecache", "jar:")):
        with pytest.raises(VolumetoolError):
            check_foreign(url, (), lookup)
    if url.startswith("jar:"):
        return  # a local path: nothing of that name is there
    with pytest.raises(InputError) as caught:
        canonical_url(url)
    assert caught.value.code in ("input.url", "input.url-secret")


@pytest.mark.parametrize("url", SECRET)
def test_no_url_carries_a_secret_and_the_refusal_does_not_repeat_it(url: str) -> None:
    for refuse in (canonical_url, open_volume, lambda url: check_foreign(url, (), lookup)):
        with pytest.raises(InputError) as caught:
            refuse(url)
        said = f"{caught.value} {caught.value.as_dict()} {caught.value.args}"
        assert "CANARY" not in said.replace("#CANARY", "")
        assert "ARY@" not in said


@pytest.mark.parametrize("url", ["https://public.example/v.zarr", "s3://bucket/v", "gs://bucket/v", "/data/v.zarr", "v.zarr"])
def test_public_places_pass(url: str) -> None:
    check_foreign(url, (), lookup)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[object]]]:
    """Listen on loopback, and note who comes."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    connection, who = server.accept()
                    came.append(who)
                    connection.close()
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v.zarr", came
        server.shutdown(socket.SHUT_RDWR)


def test_files_are_refused_before_a_connection_and_allowed_by_name(listener: tuple[str, list[object]], tmp_path: Path) -> None:
    url, came = listener
    job, training = tmp_path / "job.yaml", tmp_path / "train.yaml"
    for name in ("input", "output", "mask"):
        places = {"input": "a", "output": "b"} | {name: url}
        job.write_text("\n".join(f"{option}: {place}" for option, place in places.items()))
        with pytest.raises(ConfigError, match="--allow-host 127"):
            read_job(job)
        assert getattr(read_job(job, ["127.0.0.1"]), name) == url
    for source in (f"path: '{url}'", f"path: a, noisy: '{url}'"):
        training.write_text(f"name: x\nsources: [{{{source}}}]")
        with pytest.raises(ConfigError, match="--allow-host 127"):
            read_config(training)
        assert read_config(training, ["127.0.0.1"]).sources
    assert came == []


def test_a_redirection_is_not_followed() -> None:
    """Neither to another host nor on the same one: what a URL names is what is read."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.2", 0)) as other:
        target = f"http://127.0.0.2:{other.getsockname()[1]}/secret".encode()
        other.settimeout(0.2)

        def answer() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(ConnectionError):  # whoever asked has left
                        asked.append(connection.recv(65536))
                        connection.sendall(
                            b"HTTP/1.1 302 Found\r\nLocation: " + target + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
            except OSError:
                return

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(InputError):
            open_volume(f"http://127.0.0.1:{server.getsockname()[1]}/v.zarr")
        assert asked
        with pytest.raises(TimeoutError):
            other.accept()
        server.shutdown(socket.SHUT_RDWR)


def test_signed_urls_come_from_the_environment_and_go_to_their_own_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUMETOOL_SIGNED_URLS", "https://h.example/box?sig=1 https://other.example/?sig=2")
    assert kvstore_spec("https://h.example/box/v.zarr/0")["base_url"] == "https://h.example?sig=1"
    assert kvstore_spec("https://h.example/boxes/v.zarr")["base_url"] == "https://h.example"
    assert kvstore_spec("http://h.example/box/v.zarr")["base_url"] == "http://h.example"
    assert kvstore_spec("https://other.example/v")["base_url"] == "https://other.example?sig=2"
