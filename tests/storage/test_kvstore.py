"""Places and keys."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

import pytest

from volumetool.errors import InputError, OutputError
from volumetool.paths import empty_leftover
from volumetool.storage.io.kvstore import (
    canonical_url,
    create_key,
    delete_key,
    delete_prefix,
    is_local,
    join_url,
    kvstore_spec,
    list_keys,
    local_path,
    parent_url,
    read_key,
    shared_context,
    write_key,
)


def test_a_key_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_key(str(tmp_path), "a/b c.json", b"\x00{}")
    assert read_key(str(tmp_path), "a/b c.json") == b"\x00{}"
    assert (tmp_path / "a" / "b c.json").read_bytes() == b"\x00{}"


def test_a_missing_key_is_none_also_where_its_folder_is_missing(tmp_path: Path) -> None:
    assert read_key(str(tmp_path), "nothing") is None
    assert read_key(str(tmp_path / "no" / "folder"), "nothing") is None


def test_keys_are_listed_sorted_by_prefix_and_without_the_locks_of_killed_writers(tmp_path: Path) -> None:
    for key in ("r/10", "r/2", "s/1", "top"):
        write_key(str(tmp_path), key, b"x")
    (tmp_path / "r" / "3.__lock").write_bytes(b"")
    assert list_keys(str(tmp_path)) == ["r/10", "r/2", "s/1", "top"]
    assert list_keys(str(tmp_path), "r/") == ["r/10", "r/2"]
    assert list_keys(str(tmp_path / "missing")) == []


def test_deleting_a_place_takes_everything_below_and_nothing_beside(tmp_path: Path) -> None:
    write_key(str(tmp_path), "out/a/b", b"x")
    write_key(str(tmp_path), "out2/a", b"x")
    (tmp_path / "out" / "stale.__lock").write_bytes(b"")
    delete_prefix(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert list_keys(str(tmp_path)) == ["out2/a"]
    delete_prefix(str(tmp_path / "out"))


def test_a_deletion_that_is_cut_short_leaves_the_key_that_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("b/zarr.json", "zarr.json", "a/0", "c/0"):
        write_key(str(tmp_path / "out"), key, b"x")
    left, remove = [2], shutil.rmtree

    def dying(place: Path) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        remove(place)

    monkeypatch.setattr(shutil, "rmtree", dying)
    for remaining in (3, 2, 1):
        left[0] = 2
        with pytest.raises(KeyboardInterrupt):
            delete_prefix(str(tmp_path / "out"), last="zarr.json")
        assert len(list_keys(str(tmp_path / "out"))) == remaining
        assert read_key(str(tmp_path / "out"), "zarr.json") == b"x"


def test_deleting_a_key_twice_is_harmless(tmp_path: Path) -> None:
    write_key(str(tmp_path), "a", b"x")
    delete_key(str(tmp_path), "a")
    delete_key(str(tmp_path), "a")
    assert read_key(str(tmp_path), "a") is None


def test_a_place_that_refuses_writes_gives_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        write_key(str(tmp_path / "file"), "a", b"x")
    assert caught.value.code == "output.unwritable"


def test_an_unreachable_server_gives_an_input_error() -> None:
    with pytest.raises(InputError) as caught:
        list_keys("http://127.0.0.1:9/volume")
    assert caught.value.code == "input.unlistable"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/a/b/", "/a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("s3://bucket/key/", "s3://bucket/key"),
        ("zarr://s3://bucket/key", "s3://bucket/key"),
        ("n5:///a/b", "/a/b"),
        ("https://host/v.zarr/|zarr3:", "https://host/v.zarr"),
    ],
)
def test_one_place_has_one_spelling(given: str, wanted: str) -> None:
    assert canonical_url(given) == wanted


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="s3") as caught:
        canonical_url("ftp://host/volume")
    assert caught.value.code == "input.url"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_url("v.zarr") == str(tmp_path / "v.zarr")
    assert local_path("v.zarr") == tmp_path / "v.zarr"


def test_only_paths_and_file_urls_are_local() -> None:
    assert is_local("/a")
    assert is_local("file:///a")
    assert not is_local("s3://bucket/a")
    with pytest.raises(InputError):
        local_path("s3://bucket/a")


def test_joining_and_parting_are_opposites() -> None:
    assert join_url("s3://bucket/a/", "", "/b/", "c") == "s3://bucket/a/b/c"
    assert parent_url("s3://bucket/a/b") == ("s3://bucket/a", "b")
    assert parent_url("s3://bucket") == ("", "")
    assert parent_url("/a") == ("", "")


def test_specs_name_the_driver_of_each_kind_of_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kvstore_spec("/a/b") == {"driver": "file", "path": "/a/b/"}
    assert kvstore_spec("s3://bucket/a/b") == {"driver": "s3", "bucket": "bucket", "path": "a/b/"}
    assert kvstore_spec("s3://bucket") == {"driver": "s3", "bucket": "bucket", "path": ""}
    assert kvstore_spec("gs://bucket/a") == {"driver": "gcs", "bucket": "bucket", "path": "a/"}
    assert kvstore_spec("https://h:8/a") == {"driver": "http", "base_url": "https://h:8", "path": "/a/"}


def test_a_process_has_one_context_per_bound() -> None:
    assert shared_context(2) is shared_context(2)
    assert shared_context(2) is not shared_context(3)
    assert shared_context(2)["file_io_concurrency"].to_json() == {"limit": 2}
    assert shared_context(2)["cache_pool"].to_json() in ({}, {"total_bytes_limit": 0})


@pytest.mark.parametrize("data", [b"", b"new"])
def test_nothing_of_what_a_killed_writer_left_stands_in_a_file_that_is_written_next(tmp_path: Path, data: bytes) -> None:
    for key, write in (("created", create_key), ("written", write_key)):
        (tmp_path / f"{key}.__lock").write_bytes(b"old" * 100)
        write(str(tmp_path), key, data)
        assert (tmp_path / key).read_bytes() == data


def test_what_a_living_writer_holds_is_left_to_it(tmp_path: Path) -> None:
    file = tmp_path / "key.__lock"
    file.write_bytes(b"being written")
    with file.open("r+b") as held:
        # As tensorstore locks it: of this open file, not of the process.
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        empty_leftover(file)
        assert file.read_bytes() == b"being written"
    empty_leftover(file)
    assert file.read_bytes() == b""
