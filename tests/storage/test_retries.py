"""Retries: what passes is waited for, what does not ends at once, and nobody waits for ever."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.errors import InputError, LedgerError
from volumetool.storage.io import arrays, kvstore, retries
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.kvstore import create_key, read_key, read_version, replace_key, shared_context
from volumetool.storage.io.retries import BUDGET, DEADLINE, LONGEST_PAUSE, TRIES, Retries, Throttle, judge, judge_http
from volumetool.storage.open import open_volume

SLOW, AGAIN, NEVER = "slow", "retry", "never"
CODES = {
    SLOW: (429, 503),
    AGAIN: (408, 409, 425, 500, 502, 504, 506, 509, 510, 520, 521, 522, 523, 524, 529, 598, 599),
    NEVER: (301, 302, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 412, 413, 414, 416, 417, 422, 501, 505),
}
SYSTEM = {
    AGAIN: (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE),
    NEVER: (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EFBIG),
}
WORDS = {
    "UNAVAILABLE: CURL error Failure when receiving data from the peer: Connection reset by peer": AGAIN,
    "UNAVAILABLE: CURL error Could not connect to server: Connection refused": "unreachable",
    "DEADLINE_EXCEEDED: the store is busy": AGAIN,
    'DATA_LOSS: Error reading local file "c/0": Digest mismatch, stored digest is 0x1 but computed digest is 0x2': "bad",
    'FAILED_PRECONDITION: Error reading local file "0.0": Invalid blosc-compressed data; at byte 0': "bad",
    "PERMISSION_DENIED: no": NEVER,
    "NOT_FOUND: no": NEVER,
    "Error parsing object member 'kvstore'": NEVER,
}


class Time:
    """A clock that stands still while nobody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def quick(chance: Callable[[], float] = lambda: 1.0, **options: Any) -> tuple[Retries, Time]:
    time = Time()
    return Retries(time.clock, time.sleep, chance, **options), time


def failing(*failures: str, then: str = "done") -> Callable[[int], str]:
    """Fail with each message once, and succeed afterwards."""
    left = list(failures)

    def operation(_tries: int) -> str:
        if left:
            raise ValueError(left.pop(0))
        return then

    return operation


@pytest.mark.parametrize(("code", "verdict"), [(code, verdict) for verdict, codes in CODES.items() for code in codes])
def test_every_http_status_has_its_verdict(code: int, verdict: str) -> None:
    assert judge_http(code) == verdict
    assert judge(ValueError(f"UNAVAILABLE: some words [HTTP code {code}] [http_response_body='']")) == verdict


@pytest.mark.parametrize(
    ("number", "verdict"), [(number, verdict) for verdict, numbers in SYSTEM.items() for number in numbers]
)
def test_every_system_error_has_its_verdict(number: int, verdict: str) -> None:
    assert judge(OSError(number, os.strerror(number))) == verdict
    assert judge(ValueError(f"UNKNOWN: Failed to read [os_error_code='{number}']")) == verdict


@pytest.mark.parametrize(("words", "verdict"), WORDS.items(), ids=range(len(WORDS)))
def test_trouble_without_a_code_is_judged_by_its_words(words: str, verdict: str) -> None:
    assert judge(ValueError(words)) == verdict


def test_a_store_that_says_slow_down_in_words_alone_is_understood() -> None:
    assert judge_http(400, "<Code>SlowDown</Code> Please reduce your request rate.") == SLOW


def test_pauses_double_up_to_a_bound_and_are_drawn_from_zero_on() -> None:
    tries, time = quick()
    assert tries.call(failing(*["UNAVAILABLE: x [HTTP code 500]"] * 9)) == "done"
    assert time.slept == [min(LONGEST_PAUSE, 0.1 * 2**n) for n in range(9)]
    tries, time = quick(chance=lambda: 0.0)
    assert tries.call(failing(*["UNAVAILABLE: x [HTTP code 500]"] * 9)) == "done"
    assert time.slept == [0.0] * 9


def test_trouble_that_does_not_pass_ends_after_ten_tries_and_says_so() -> None:
    tries, time = quick()
    with pytest.raises(ValueError, match="HTTP code 502") as caught:
        tries.call(failing(*["UNAVAILABLE: x [HTTP code 502]"] * 99))
    assert len(time.slept) == TRIES["retry"] - 1
    assert retries.tried(caught.value) == f" (tried 10 times in {sum(time.slept):.0f} s)"


def test_what_never_passes_is_tried_once() -> None:
    tries, time = quick()
    with pytest.raises(ValueError, match="403"):
        tries.call(failing("PERMISSION_DENIED: Forbidden [HTTP code 403]"))
    assert time.slept == []


def test_a_deadline_ends_the_tries_of_a_slow_operation() -> None:
    tries, time = quick()

    def slow(_: int) -> None:
        time.now += 50
        raise ValueError("UNAVAILABLE: x [HTTP code 504]")

    with pytest.raises(ValueError, match="504"):
        tries.call(slow)
    assert time.now <= DEADLINE + 50


def test_a_budget_bounds_what_all_operations_together_retry() -> None:
    tries, time = quick(budget=20)
    for _ in range(30):
        with pytest.raises(ValueError, match="500"):
            tries.call(failing(*["UNAVAILABLE: x [HTTP code 500]"] * 99))
    assert len(time.slept) == 20


def test_a_server_that_was_never_reached_is_given_up_soon_where_nothing_was_begun() -> None:
    tries, time = quick()
    with pytest.raises(ValueError, match="connect"):
        tries.call(failing(*["UNAVAILABLE: Could not connect to server"] * 99), patient=False)
    assert sum(time.slept) < 1


def test_a_server_that_has_answered_is_waited_for() -> None:
    """It may be starting again; another one is still as unknown as before."""
    tries, time = quick()
    tries.call(failing(), patient=False, server="a")
    down = ["UNAVAILABLE: Could not connect to server"] * 9
    assert tries.call(failing(*down), patient=False, server="a") == "done"
    assert sum(time.slept) > 10
    with pytest.raises(ValueError, match="connect"):
        tries.call(failing(*down), patient=False, server="b")


def test_slow_down_halves_the_requests_and_success_brings_them_back_one_by_one() -> None:
    tries, _ = quick()
    limits = []
    assert tries.call(failing(*["UNAVAILABLE: x [HTTP code 503]"] * 3)) == "done"
    for _ in range(16):
        limits.append(tries.throttle.limit)
        tries.call(failing())
    assert limits == [*range(3, 16), 16, 16, 16]  # 16 halved three times, and one more for the success
    least = Throttle(1)
    least.slow_down()
    assert least.limit == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_random_faults_lose_nothing_and_try_no_more_than_allowed(seed: int) -> None:
    """Each operation fails with 10 %, before or after its effect, for 60 s everything does: each write arrives or says no."""
    random = np.random.default_rng(seed)
    tries, time = quick(chance=random.random)
    stored: dict[int, int] = {}
    calls = 0

    def write(key: int) -> Callable[[int], None]:
        def attempt(_: int) -> None:
            nonlocal calls
            calls += 1
            time.now += 0.05
            burst = 20 <= time.now < 80
            if burst or random.random() < 0.1:
                if random.random() < 0.5:
                    stored[key] = key
                raise ValueError(f"UNAVAILABLE: x [HTTP code {random.choice([500, 503, 408, 429])}]")
            stored[key] = key

        return attempt

    refused = set()
    for key in range(1000):
        before = calls
        try:
            tries.call(write(key))
        except ValueError:
            refused.add(key)
        assert calls - before <= TRIES["retry"]
    assert stored.keys() | refused == set(range(1000))
    assert calls - 1000 <= BUDGET
    assert len(refused) < 10  # those of the burst, which is longer than ten tries last


class Counting:
    """A server that answers each path with the codes that it was told, one after the other, and with bytes at last."""

    def __init__(self) -> None:
        self.codes: dict[str, list[int]] = {}
        self.asked: list[str] = []
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                left = outer.codes.get(self.path, [404])
                code = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(code)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.close()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Let the product's retries wait in no time."""
    tries, time = quick()
    for module in (retries, kvstore, arrays):
        monkeypatch.setattr(module, "STORAGE", tries)
    return time


def test_libraries_below_do_not_retry(server: Counting, time: Time) -> None:
    """The physical requests are the tries counted here, and no more."""
    server.codes["/v/key"] = [503, 500, 200]
    assert read_key(f"{server.url}/v", "key") == b"{}"
    assert server.asked == ["/v/key"] * 3
    assert len(time.slept) == 2
    for pool in ("http_request_retries", "gcs_request_retries", "s3_request_retries"):
        assert shared_context()[pool].to_json()["max_retries"] == 0


@pytest.mark.usefixtures("time")
@pytest.mark.parametrize("code", [400, 403, 404])
def test_a_permanent_answer_is_asked_for_once(server: Counting, code: int) -> None:
    server.codes["/v/key"] = [code]
    if code == 404:
        assert read_key(f"{server.url}/v", "key") is None
    else:
        with pytest.raises(InputError) as caught:
            read_key(f"{server.url}/v", "key")
        assert caught.value.code == ("input.forbidden" if code == 403 else "input.unreadable")
    assert server.asked == ["/v/key"]


@pytest.mark.usefixtures("time")
def test_a_volume_behind_forbidden_is_not_called_missing(server: Counting) -> None:
    """Where every key of a volume answers 403, the error says so; where keys are missing it is not found."""
    with pytest.raises(InputError) as caught:
        open_volume(f"{server.url}/v")
    assert caught.value.code == "input.not-found"
    for key in ("zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json"):
        server.codes[f"/w/{key}"] = [403]
    with pytest.raises(InputError) as caught:
        open_volume(f"{server.url}/w")
    assert caught.value.code == "input.forbidden"


@pytest.mark.usefixtures("time")
def test_a_forbidden_chunk_is_not_read_as_zeros(server: Counting) -> None:
    metadata = {"dtype": "|u1", "shape": [4, 4, 4], "chunks": [4, 4, 4], "compressor": None, "fill_value": 0, "order": "C"}
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "http", "base_url": server.url, "path": "/a/"},
        "metadata": metadata | {"filters": None, "zarr_format": 2},
    }
    array = ts.open(spec, open=True, read=True, assume_metadata=True, context=shared_context()).result()
    server.codes["/a/0.0.0"] = [403]
    with pytest.raises(ValueError, match="403"):
        read_part(array, (slice(0, 4),) * 3)
    assert len(server.asked) == 1


class Handle:
    """A handle on an array that gives bad bytes for as long as it is not opened anew."""

    def __init__(self, bad: int) -> None:
        self.bad = bad
        self.opened = 1

    def __getitem__(self, _: Any) -> Handle:
        return self

    def result(self) -> Any:
        if self.bad >= self.opened:
            raise ValueError("DATA_LOSS: Error reading: Digest mismatch")
        return np.ones(3)


@pytest.mark.usefixtures("time")
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_read_is_read_again_through_a_fresh_handle(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    handle = Handle(bad)

    def reopen(array: Handle) -> Handle:
        array.opened += 1
        return array

    monkeypatch.setattr(arrays, "reopened", reopen)
    monkeypatch.setattr(arrays, "read_bounded", Handle.result)
    assert read_part(handle, ()).sum() == 3  # type: ignore[arg-type]
    assert handle.opened == bad + 1


class LostAnswer:
    """A store whose conditional write takes effect, though its answer is lost."""

    def __init__(self, real: ts.KvStore) -> None:
        self.real = real
        self.lost = False

    def read(self, *args: Any) -> Any:
        return self.real.read(*args)

    def write(self, *args: Any, **options: Any) -> Any:
        made = self.real.write(*args, **options)
        if not self.lost:
            self.lost = True
            made.result()
            raise ValueError("UNAVAILABLE: CURL error Connection reset by peer")
        return made


@pytest.mark.usefixtures("time")
def test_a_conditional_write_whose_answer_is_lost_has_not_lost_its_race(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The try after it is refused, and finds its own bytes."""
    stores: dict[str, LostAnswer] = {}
    real = kvstore._open
    monkeypatch.setattr(kvstore, "_open", lambda url, *_: stores.setdefault(url, LostAnswer(real(url))))
    url = str(tmp_path)
    assert create_key(url, "segment", b"mine")
    stores.clear()
    _, generation = read_version(url, "segment")
    assert replace_key(url, "segment", b"mine too", generation) == read_version(url, "segment")[1]
    stores.clear()
    (tmp_path / "other").write_bytes(b"another's")
    assert not create_key(url, "other", b"mine")
    assert read_key(url, "other") == b"another's"


def test_an_error_that_is_not_the_storages_passes_at_once() -> None:
    tries, time = quick()

    def refuse(_: int) -> None:
        raise LedgerError("ledger.overtaken", "another run")

    with pytest.raises(LedgerError):
        tries.call(refuse)
    assert time.slept == []
