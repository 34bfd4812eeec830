"""Volumes and small files in a bucket."""

from __future__ import annotations

import io
import zipfile
from typing import Any, get_args

import numpy as np
import pytest
from bucket_server import BucketServer

from volumetool.errors import InputError, OutputError
from volumetool.storage import convert as convert_module
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert, convert_volume
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing, write_attributes
from volumetool.storage.io import retries, s3
from volumetool.storage.io.arrays import read_part, reopened
from volumetool.storage.io.kvstore import create_key, delete_prefix, list_keys, read_key, read_version, replace_key, write_key
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import WrittenName

pytestmark = pytest.mark.s3


def test_small_files_in_a_bucket(bucket: str) -> None:
    write_key(f"{bucket}/job", "records/1.json", b"{}")
    write_key(f"{bucket}/job2", "records/1.json", b"{}")
    assert read_key(f"{bucket}/job", "records/1.json") == b"{}"
    assert read_key(f"{bucket}/job", "records/2.json") is None
    assert list_keys(f"{bucket}/job") == ["records/1.json"]
    delete_prefix(f"{bucket}/job", last="records/1.json")
    assert list_keys(bucket) == ["job2/records/1.json"]


def test_a_volume_in_a_bucket_is_created_written_read_and_valid(bucket: str, layout: VolumeLayout) -> None:
    url = f"{bucket}/v.zarr"
    volume = create_volume(url, layout, {"n": 1})
    voxels = np.random.default_rng(0).integers(0, 255, volume.shape, dtype=np.uint8)
    open_for_writing(url, layout).write(voxels).result()
    write_attributes(url, {"n": 2})
    again = open_volume(url)
    assert (again, again.attributes) == (volume, {"n": 2})
    np.testing.assert_array_equal(again.open().read().result(), voxels)
    assert validate_volume(url) == []
    with pytest.raises(OutputError) as caught:
        create_volume(url, layout, {"n": 1})
    assert caught.value.code == "output.exists"


def test_a_local_volume_moves_to_a_bucket_with_its_voxels(bucket: str, filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    volume = convert(filled[0].url, f"{bucket}/copy.zarr")
    np.testing.assert_array_equal(volume.open().read().result(), filled[1])


def test_a_zip_file_in_a_bucket_is_read_where_it_lies(bucket: str, filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    volume, voxels = filled
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for key in list_keys(volume.url):
            archive.writestr(key, read_key(volume.url, key) or b"")
    write_key(bucket, "filled.ozx", packed.getvalue())
    remote = open_volume(f"{bucket}/filled.ozx")
    assert remote.identity == volume.identity
    np.testing.assert_array_equal(remote.open()[3:9, 5:40, 7:30].read().result(), voxels[3:9, 5:40, 7:30])


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("ome-zarr-0.5", "precomputed-sharded") else pytest.param(name, marks=pytest.mark.slow)
        for name in get_args(WrittenName)
    ],
)
def test_a_killed_conversion_from_bucket_to_bucket_goes_on_to_the_same_objects(
    kept: BucketServer, filled: tuple[Volume, np.ndarray[Any, Any]], name: WrittenName, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, write, notes = convert(filled[0].url, "s3://bucket/in.zarr"), convert_module.write_attributes, []

    def killed(url: str, attributes: dict[str, Any]) -> None:
        notes.append(attributes)
        if len(notes) == 2:
            raise KeyboardInterrupt
        write(url, attributes)

    def go() -> dict[str, bytes]:
        made = convert_volume(plan_conversion(source, "s3://bucket/out", format=name, memory=1))
        np.testing.assert_array_equal(made.open().read().result(), filled[1])
        assert validate_volume(made.url) == []
        folder = kept.folder / "bucket" / "out"
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    straight = go()
    delete_prefix("s3://bucket/out")
    with monkeypatch.context() as patched:
        patched.setattr(convert_module, "write_attributes", killed)
        with pytest.raises(KeyboardInterrupt):
            go()
    assert open_volume("s3://bucket/out").attributes["status"] == "unfinished"
    assert go() == straight


def test_a_volume_that_vanishes_from_a_bucket_is_named(
    bucket: str, layout: VolumeLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
    array = create_volume(f"{bucket}/v.zarr", layout, {}).open(strict=True)
    delete_prefix(f"{bucket}/v.zarr")
    with pytest.raises(InputError, match=f"{bucket}/v.zarr/0 is gone") as caught:
        read_part(array, (slice(0, 1), slice(0, 1), slice(0, 1)))
    assert caught.value.code == "input.vanished"


def test_another_handle_has_the_credentials_of_the_first(
    bucket: str, layout: VolumeLayout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without them the AWS library looks for some at every place that it knows, and says so in many lines."""
    array = create_volume(f"{bucket}/v.zarr", layout, {}).open()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr(s3, "_may_have_credentials", lambda: False)
    assert reopened(array).read().result().shape == array.shape
    assert capfd.readouterr().err == ""


def test_nothing_in_a_bucket_is_not_found(bucket: str) -> None:
    with pytest.raises(InputError) as caught:
        open_volume(f"{bucket}/nowhere")
    assert caught.value.code == "input.not-found"


def test_a_key_is_created_and_replaced_by_one_writer_alone(bucket: str) -> None:
    """Compare-and-swap: what was read decides; whoever comes second writes nothing."""
    assert create_key(bucket, "k", b"1")
    assert not create_key(bucket, "k", b"2")
    value, generation = read_version(bucket, "k")
    assert value == b"1"
    assert replace_key(bucket, "k", b"3", generation) is not None
    assert replace_key(bucket, "k", b"4", generation) is None
    assert read_key(bucket, "k") == b"3"
    missing, absent = read_version(bucket, "other")
    assert missing is None
    assert replace_key(bucket, "other", b"5", absent) is not None
