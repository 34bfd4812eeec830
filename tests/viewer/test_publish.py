"""`volumetool publish`: another format of a volume, made as it is asked for, with the bytes that `convert` would write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from volumetool.errors import InputError, OutputError
from volumetool.geometry.levels import plan_levels
from volumetool.storage.convert_volume import convert
from volumetool.storage.create import OWN_KEY, VolumeLayout, create_volume, open_for_writing
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import write_status
from volumetool.storage.pyramid import build_pyramid
from volumetool.storage.writing.names import PublishedName
from volumetool.viewer.publish import publish

SHAPE, SIZE, PLACE = (9, 20, 30), (30.0, 8.0, 4.0), (45.0, -20.0, 10.0)
NAMES: tuple[PublishedName, ...] = get_args(PublishedName)


def make(place: Path, channels: int | None = None) -> Path:
    """Write a finished volume in shards, blank in one corner, whose name and windows a copy keeps."""
    kept = {"omero": {"channels": [{"color": "FFFFFF", "window": {"min": 0, "max": 255, "start": 20, "end": 200}}]}}
    levels = plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (8, 16, 16))
    layout = VolumeLayout("uint16", levels, channels, name="image", kept={} if channels else kept)
    create_volume(str(place), layout, {})
    for channel in range(channels or 1):
        voxels = np.random.default_rng(channel).integers(1, 900, SHAPE).astype(np.uint16)
        voxels[:4, :8, :8] = 0
        open_for_writing(str(place), layout, 0, channel).write(voxels).result()
    write_status(str(place), "complete")
    return Path(build_pyramid(str(place)).url)


def without_origin(content: bytes) -> Any:
    root = json.loads(content)
    root.get("attributes", root).pop(OWN_KEY)
    return root


def unpacked(content: bytes) -> bytes:
    """Return what is stored, with gzip's part unpacked: of the same bytes gzip makes other ones from call to call."""
    head, magic, rest = content.partition(b"\x1f\x8b\x08")
    return head + gzip.decompress(magic + rest) if magic else content


@pytest.mark.parametrize(("name", "channels"), [*((name, None) for name in NAMES), ("n5", 2)])
def test_what_is_served_is_what_convert_writes(tmp_path: Path, name: PublishedName, channels: int | None) -> None:
    source = make(tmp_path / "in.zarr", channels)
    written = Path(convert(source, tmp_path / "out", format=name, chunk=(4, 8, 8)).url)
    files = [file for file in written.rglob("*") if file.is_file()]
    with publish(source, name) as url, httpx.Client(timeout=60) as client:
        for file in files:
            key = str(file.relative_to(written))
            served = client.get(f"{url}/{key}")
            assert served.status_code == 200, key
            plain = without_origin if key == WRITTEN[name].root else unpacked
            assert plain(served.content) == plain(file.read_bytes()), key
        volume, given = open_volume(url), open_volume(source)
        assert [(each.voxel_size, each.translation) for each in volume.levels] == [
            (each.voxel_size, each.translation) for each in open_volume(written).levels
        ]
        for level in range(len(given.levels)):
            for channel in range(channels or 1):
                there, here = (each.open(level, channel).read().result() for each in (volume, given))
                np.testing.assert_array_equal(there, here)


def test_levels_are_served_as_they_are_and_not_made_again(tmp_path: Path) -> None:
    source = make(tmp_path / "in.zarr")
    volume = open_volume(source)
    open_for_writing(str(source), volume, 1)[:1].write(7).result()
    with publish(source, "n5") as url:
        assert (open_volume(url).open(1)[0].read().result() == 7).all()


def test_a_blank_chunk_and_what_is_no_key_are_not_there(tmp_path: Path) -> None:
    source = make(tmp_path / "in.zarr")
    with publish(source, "n5") as url:
        for key in ("s0/0/0/0", "s0/99/0/0", "s99/0/0/0", "zarr.json", "../in.zarr/zarr.json", "s0/-1/0/0", "s0"):
            assert httpx.get(f"{url}/{key}", timeout=60).status_code == 404
        assert httpx.get(f"{url}/s0/1/1/1", timeout=60).status_code == 200
        assert httpx.get(f"{url}/s0/1/1/1", headers={"Origin": "https://example.org"}, timeout=60).status_code == 403


def test_what_cannot_be_published_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in.zarr", channels=2)
    with pytest.raises(OutputError) as channels, publish(source, "precomputed"):
        pass
    assert channels.value.code == "output.channels"
    write_status(str(source), "unfinished")
    with pytest.raises(InputError) as unfinished, publish(source, "n5"):
        pass
    assert unfinished.value.code == "input.unfinished"
