"""An object store that stumbles: no region is lost or wrong, and what cannot be helped has a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from bucket_server import BucketServer
from crash_jobs import OPTIONS, SHAPES
from small_jobs import SMALL, Recording, digest, noise, read_levels, run, write_input

from volumetool.errors import VolumetoolError
from volumetool.events import RegionEnded
from volumetool.jobs.records.lease import acquire
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.storage.io import kvstore, retries
from volumetool.storage.io.kvstore import list_keys, read_key, write_key
from volumetool.testing import FaultyProxy, ProxyRequest, Reply
from volumetool.testing.proxy import Decide

Options = dict[str, Any]

ANSWERS = (0, 500, 503, 429, 409)
"""What a store says that is busy; 0 is no word at all."""


@pytest.fixture
def bucket(kept: BucketServer) -> str:
    """Give an empty bucket, of the server that takes least time for a request."""
    assert kept.url
    return "s3://bucket"


@pytest.fixture
def proxy(kept: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Put a proxy before the store, and let no time pass between two tries."""
    with FaultyProxy(kept.url) as made, monkeypatch.context() as patch:
        patch.setattr(retries.STORAGE, "_sleep", lambda _seconds: None)
        patch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture
def options(tmp_path: Any, bucket: str) -> Options:
    source = write_input(tmp_path / "in.zarr", noise(SHAPES["least"]))
    return {"input": str(source), "output": f"{bucket}/out.zarr", **OPTIONS["least"]}


@pytest.fixture
def wanted(tmp_path: Any, options: Options) -> dict[str, bytes]:
    """Give the files of the same job on a disk; the group's metadata name the place."""
    output = tmp_path / "straight.zarr"
    assert run(**options | {"output": str(output)}).complete
    assert len(read_levels(output)) > 1
    files = (file for file in output.rglob("*") if file.is_file() and file != output / "zarr.json")
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def stumble(options: Options) -> str | None:
    """Run the job once; return the code of its error."""
    try:
        outcome = run(**options)
    except VolumetoolError as error:
        return error.code
    codes = {record.error["code"] for record in outcome.failures}
    assert "region.unexpected" not in codes, outcome.failures
    return None if outcome.complete else codes.pop()


def assert_right(proxy: FaultyProxy, options: Options, wanted: dict[str, bytes]) -> None:
    """Run the job on the mended store, and hold what is there against the same job on a disk."""
    proxy.reset()
    assert stumble(options) is None
    keys = [key for key in list_keys(options["output"]) if key != "zarr.json"]
    assert {key: read_key(options["output"], key) for key in keys} == wanted
    assert open_ledger(stored_plan(options["output"])).damaged == 0


def forget(options: Options) -> None:
    for place in (options["output"], options["output"] + ".job"):
        kvstore.delete_prefix(place)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("effect", ["before", "after"])
@pytest.mark.parametrize("step", [150, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_any_request_that_fails_once_is_absorbed(
    proxy: FaultyProxy, options: Options, wanted: dict[str, bytes], effect: str, step: int
) -> None:
    """Before it took effect, or after, when the same request comes again to a store that is no longer the same."""
    assert stumble(options) is None
    total = len(proxy.requests)
    for number in range(1, total + 1, step):
        forget(options)
        status = ANSWERS[number % len(ANSWERS)]

        def once(request: ProxyRequest, number: int = number, status: int = status) -> Reply | None:
            refused = Reply(status, "after" if effect == "after" else "before")
            return refused if request.number == number and (status != 409 or request.conditional) else None

        proxy.reset(once)
        code = stumble(options)
        assert code is None, f"request {number} of {total}, {proxy.requests[number - 1]}, {status}: {code}"
        assert_right(proxy, options, wanted)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("faults", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_store_that_fails_one_time_in_ten(
    proxy: FaultyProxy, options: Options, wanted: dict[str, bytes], faults: int
) -> None:
    random = Random(13)  # noqa: S311
    seen = 0

    def sometimes(_request: ProxyRequest) -> Reply | None:
        nonlocal seen
        if random.random() >= 0.1:
            return None
        seen += 1
        return Reply(random.choice((0, 500, 503)), random.choice(("before", "after")))

    while seen < faults:
        proxy.reset(sometimes)
        assert stumble(options) is None
        assert_right(proxy, options, wanted)
        forget(options)


@pytest.fixture
def read_there(tmp_path: Path, bucket: str) -> Options:
    """Give a job on a disk whose input, with a blank chunk, is in the store."""
    voxels = noise((8, 32, 32))
    voxels[4:, 16:, 16:] = 0
    source = write_input(tmp_path / "in.zarr", voxels)
    for file in source.rglob("*"):
        if file.is_file():
            write_key(f"{bucket}/in.zarr", str(file.relative_to(source)), file.read_bytes())
    return SMALL | {"input": f"{bucket}/in.zarr", "output": str(tmp_path / "out.zarr"), "region": "1,1,1"}


def test_an_input_in_a_store_that_stumbles_is_waited_for(proxy: FaultyProxy, read_there: Options, tmp_path: Path) -> None:
    """One request in ten is refused: for voxels, for metadata, and for what is stored at all."""
    straight = read_there | {"output": str(tmp_path / "straight.zarr")}
    assert stumble(straight) is None
    random = Random(13)  # noqa: S311
    proxy.reset(lambda _request: Reply(503) if random.random() < 0.1 else None)
    assert stumble(read_there) is None
    assert digest(read_there["output"]) == digest(straight["output"])


def test_an_input_whose_metadata_are_forbidden_midway_is_named(proxy: FaultyProxy, read_there: Options) -> None:
    """A region with a blank chunk looks whether the array is still there, and gets no answer."""

    class Forbidding(Recording):
        def after_region(self, _: RegionEnded) -> None:
            proxy.reset(lambda request: Reply(403) if request.path.endswith("/0/zarr.json") else None)

    failures = run(Forbidding(), **read_there).failures
    assert failures
    assert {record.error["code"] for record in failures} == {"data.unreadable"}


@pytest.mark.parametrize("status", [403, 400])
def test_what_will_never_work_is_said_by_name_and_not_tried_again(proxy: FaultyProxy, options: Options, status: int) -> None:
    proxy.reset(lambda request: Reply(status) if request.method == "PUT" and "/c/" in request.path else None)
    assert stumble(options) == "output.unwritable"
    asked = [request.path for request in proxy.requests if request.method == "PUT" and "/c/" in request.path]
    assert len(asked) == len(set(asked))


def test_a_store_without_room_is_named(proxy: FaultyProxy, options: Options, wanted: dict[str, bytes]) -> None:
    proxy.reset(lambda request: Reply(507) if request.method == "PUT" and "/c/" in request.path else None)
    assert stumble(options) == "output.full"
    assert_right(proxy, options, wanted)


@pytest.mark.parametrize("body", [pytest.param("short", marks=pytest.mark.slow), "wrong"])
def test_answers_with_other_bytes_never_count(
    proxy: FaultyProxy, options: Options, wanted: dict[str, bytes], body: Any
) -> None:
    """Every shard that is read back comes torn: no region is done. Then the store is itself again."""
    proxy.reset(lambda request: Reply(effect="none", body=body) if request.method == "GET" and "/c/" in request.path else None)
    code = stumble(options)
    assert code in ("data.read-back", "data.unreadable", "output.unwritable")
    assert_right(proxy, options, wanted)


def test_a_claim_whose_answer_was_lost_is_ones_own(proxy: FaultyProxy, bucket: str) -> None:
    """The library asks again and is told that somebody was faster: it was this run itself."""
    proxy.reset(_lose_first_answers())
    claim = acquire(f"{bucket}/job")
    claim.beat()
    assert not claim.lost
    proxy.reset(_lose_first_answers())
    claim.beat()
    assert not claim.lost
    claim.release()


def test_a_segment_whose_answer_was_lost_is_ones_own(proxy: FaultyProxy, bucket: str) -> None:
    ledger = Ledger(f"{bucket}/job", 4)
    ledger.begin()
    for region in range(3):
        proxy.reset(_lose_first_answers())
        ledger.append(Record(region=region, state="done", worker="host:1", finished=1.0 + region))
        ledger.flush()
    assert Ledger(f"{bucket}/job", 4).done == 3


def _lose_first_answers() -> Decide:
    """Lose the answer to the first conditional write of every key."""
    lost: set[str] = set()

    def decide(request: ProxyRequest) -> Reply | None:
        if not request.conditional or request.path in lost:
            return None
        lost.add(request.path)
        return Reply(503, "after")

    return decide
