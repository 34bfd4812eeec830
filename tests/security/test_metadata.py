"""S8: a volume made by a stranger is refused by name before memory is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_jobs import noise, write_input
from small_views import write_n5, write_precomputed, write_zarr2

from volumetool.errors import VolumetoolError
from volumetool.storage.formats.precomputed import find_precomputed
from volumetool.storage.open import open_volume

Change = Callable[[dict[str, Any]], object]


def _image(group: dict[str, Any]) -> dict[str, Any]:
    image: dict[str, Any] = group["attributes"]["ome"]["multiscales"][0]
    return image


def _level(path: str) -> Change:
    return lambda group: _image(group)["datasets"][0].update(path=path)


def _scale(*values: object) -> Change:
    return lambda group: _image(group)["datasets"][0].update(
        coordinateTransformations=[{"type": "scale", "scale": list(values)}]
    )


def _chunk(*shape: int) -> Change:
    def change(array: dict[str, Any]) -> None:
        array["chunk_grid"]["configuration"]["chunk_shape"] = list(shape)
        array["codecs"][0]["configuration"]["chunk_shape"] = list(shape)

    return change


def _codec(*codecs: dict[str, Any]) -> Change:
    return lambda array: array.update(codecs=list(codecs))


def _tiny_chunks_in_a_huge_shard(array: dict[str, Any]) -> None:
    array["shape"] = [2**20] * 3
    array["chunk_grid"]["configuration"]["chunk_shape"] = [2**20] * 3
    array["codecs"][0]["configuration"]["chunk_shape"] = [1, 1, 1]


GROUP: dict[str, Change] = {
    "level above": _level("../elsewhere"),
    "level at the root": _level("0/../../../etc"),
    "level percent-encoded": _level("%2e%2e/elsewhere"),
    "level as URL": _level("s3://bucket/elsewhere"),
    "level as chain": _level("0::file:///etc"),
    "level with query": _level("0?key=x"),
    "level with NUL": _level("0\0"),
    "level with backslash": _level("..\\elsewhere"),
    "a thousand levels": lambda group: _image(group).update(datasets=_image(group)["datasets"] * 1000),
    "no levels": lambda group: _image(group).update(datasets=[]),
    "levels that are text": lambda group: _image(group).update(datasets="0"),
    "scale of NaN": _scale(float("nan"), 1, 1),
    "scale of infinity": _scale(float("inf"), 1, 1),
    "scale of nothing": _scale(0, 1, 1),
    "scale below nothing": _scale(1, -1, 1),
    "scale as text": _scale("a", 1, 1),
    "scale beyond floats": _scale(10**400, 1, 1),
    "axes that are numbers": lambda group: _image(group).update(axes=[1, 2, 3]),
    "axes without end": lambda group: _image(group).update(axes=[{"name": "z"}] * 10_000),
    "attributes that are a list": lambda group: group.update(attributes=[]),
    "ome that is a number": lambda group: group["attributes"].update(ome=5),
}
ARRAY: dict[str, Change] = {
    "shape of 2^62": lambda array: array.update(shape=[2**62, 1, 1]),
    "shape of 2^90": lambda array: array.update(shape=[2**30] * 3),
    "shape of nothing": lambda array: array.update(shape=[0, 16, 16]),
    "shape below nothing": lambda array: array.update(shape=[-1, 16, 16]),
    "shape of text": lambda array: array.update(shape=["16", 16, 16]),
    "too many dimensions": lambda array: array.update(shape=[1] * 1000),
    "chunk of a terabyte": _chunk(2**14, 2**13, 2**13),
    "chunk of nothing": _chunk(0, 16, 16),
    "shard index of 2^64": _tiny_chunks_in_a_huge_shard,
    "unknown codec": _codec({"name": "bytes"}, {"name": "https://evil.example/codec.py"}),
    "codec of a plugin": _codec({"name": "numcodecs.pickle"}),
    "codecs without end": _codec(*[{"name": "transpose", "configuration": {"order": [0, 1, 2]}}] * 10_000),
    "unknown data type": lambda array: array.update(data_type="object"),
    "data type of a plugin": lambda array: array.update(data_type={"name": "numpy.load", "configuration": {}}),
    "storage transformers": lambda array: array.update(storage_transformers=[{"name": "reference", "url": "http://127.0.0.1"}]),
    "must be understood": lambda array: array.update(evil={"must_understand": True}),
}
TEXTS = {
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "long number": b'{"zarr_format": ' + b"9" * 10_000 + b"}",
    "no text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return write_input(tmp_path / "v.zarr", noise((8, 32, 32)), levels=2)


def _refused(open_it: Callable[[], object]) -> VolumetoolError:
    before = psutil.Process().memory_info().rss
    with pytest.raises(VolumetoolError) as caught:
        open_it()
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert caught.value.code.startswith("input.")
    return caught.value


def _edit(file: Path, change: Change) -> None:
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "change"), [("", c) for c in GROUP.values()] + [("0", c) for c in ARRAY.values()], ids=[*GROUP, *ARRAY]
)
def test_changed_metadata_are_refused(key: str, change: Change, volume: Path) -> None:
    write_input(volume.parent / "elsewhere", noise((8, 32, 32)))
    open_volume(volume)
    _edit(volume / key / "zarr.json", change)
    _refused(lambda: open_volume(volume))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("key", ["zarr.json", "0/zarr.json"])
def test_metadata_that_are_no_metadata_are_refused(key: str, text: bytes, volume: Path) -> None:
    (volume / key).write_bytes(text)
    _refused(lambda: open_volume(volume))


def test_metadata_that_fill_memory_are_refused_by_their_size(volume: Path) -> None:
    with (volume / "zarr.json").open("r+b") as file:
        file.truncate(2**40)
    _refused(lambda: open_volume(volume))


@pytest.mark.parametrize("size", [[2**20] * 3, [0, 4, 2], [-1, 4, 2]])
def test_other_formats_have_the_same_bounds(size: list[int], tmp_path: Path) -> None:
    voxels = noise((6, 10, 14))
    n5, zarr2 = write_n5(tmp_path / "v.n5", voxels, (30.0, 8.0, 4.0)), write_zarr2(tmp_path / "bare.zarr", voxels)
    precomputed = write_precomputed(tmp_path / "precomputed", voxels, (30.0, 8.0, 4.0))
    _edit(n5 / "attributes.json", lambda array: array.update(blockSize=size))
    _edit(zarr2 / ".zarray", lambda array: array.update(chunks=size))
    _edit(precomputed / "info", lambda info: info["scales"][0].update(chunk_sizes=[size]))
    _refused(lambda: open_volume(n5))
    _refused(lambda: open_volume(zarr2, voxel_size=(1.0, 1.0, 1.0)))
    with pytest.raises(VolumetoolError):
        _open_precomputed(precomputed)


def _open_precomputed(path: Path) -> object:
    found = find_precomputed(str(path))
    return None if found is None else found.open()


def test_a_user_raises_the_bound_on_chunks(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUMETOOL_CHUNK_LIMIT", "1kB")
    assert _refused(lambda: open_volume(volume)).code == "input.too-large"
    monkeypatch.setenv("VOLUMETOOL_CHUNK_LIMIT", "1MiB")
    open_volume(volume)


def test_what_a_volume_says_of_itself_is_shown_and_not_obeyed(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from volumetool.cli.main import main

    evil = "\x1b]0;title\x07[/red][link=http://evil.example]x"
    _edit(volume / "zarr.json", lambda group: group["attributes"].update(volumetool={"status": evil, "model": evil}))
    with pytest.raises(SystemExit) as ended:
        main(["info", str(volume)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "[/red][link=http://evil.example]x" in said
    assert "\x1b" not in said
    assert "\x07" not in said
