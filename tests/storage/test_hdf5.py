"""HDF5 files: which dataset is meant, what its writers say of it, and what is refused, each by its name."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner
from volumetool.cli.main import app

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

SIZE, AT = (30.0, 8.0, 4.0), (300.0, 80.0, 40.0)
SHAPE = (9, 26, 37)
VOXELS = np.random.default_rng(3).integers(1, 60000, SHAPE, np.uint16)


def _write(path: Path, name: str = "raw", voxels: NDArray[Any] = VOXELS, **options: Any) -> Path:
    with h5py.File(path, "a") as file:
        made = file.create_dataset(name, data=voxels, **options)
        made.attrs["resolution"], made.attrs["offset"] = SIZE[-made.ndim :], AT[-made.ndim :]
    return path


def _refused(place: Path, code: str, says: str) -> InputError:
    with pytest.raises(InputError, match=says) as caught:
        open_volume(place, voxel_size=SIZE)
    assert caught.value.code == code
    return caught.value


def _read(place: Path, **options: Any) -> NDArray[Any]:
    read: NDArray[Any] = open_volume(place, **options).open().read().result()
    return read


def test_the_only_dataset_is_taken_and_any_is_named_by_its_path(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", "volumes/raw")
    for place in (path, path / "volumes", path / "volumes" / "raw"):
        volume = open_volume(place)
        assert (volume.url, volume.voxel_size, volume.translation) == (f"{path}/volumes/raw", SIZE, AT)
    _write(path, "volumes/labels/cells", VOXELS // 7)
    np.testing.assert_array_equal(_read(path / "volumes" / "raw"), VOXELS)
    np.testing.assert_array_equal(_read(path / "volumes" / "labels"), VOXELS // 7)
    error = _refused(path, "input.not-a-volume", r"/volumes/raw \(9 x 26 x 37, uint16\), /volumes/labels/cells \(9 x")
    assert f"{path}/volumes/raw" in error.hint
    _refused(path / "volumes" / "row", "input.not-found", "nothing at volumes/row, but /volumes/raw")
    _refused(path / "volumes" / "raw" / "more", "input.not-found", "nothing at volumes/raw/more")


def test_sections_and_tables_beside_a_volume_are_no_volumes(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", "image", VOXELS[0])
    assert open_volume(path, voxel_size=SIZE).shape == (1, *SHAPE[1:])
    with h5py.File(path, "a") as file:
        file["names"] = np.full((2, 2, 2), b"a")
        file["empty"] = h5py.Empty("u1")
    np.testing.assert_array_equal(_read(_write(path), voxel_size=SIZE), VOXELS)
    empty = tmp_path / "empty.h5"
    h5py.File(empty, "w").close()
    _refused(empty, "input.not-a-volume", "no dataset of two or more dimensions")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (4, 16, 16)},
        {"chunks": (4, 16, 16), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (4, 16, 16), "compression": "lzf", "shuffle": True},
        {"chunks": (4, 16, 16), "compression": "lzf", "maxshape": (None, 26, 37)},
        {"chunks": (4, 16, 16), "maxshape": (None, None, 37)},
    ],
    ids=["contiguous", "chunks", "gzip", "lzf", "growing", "growing twice"],
)
@pytest.mark.parametrize("dtype", ["<u2", ">i2", ">f4"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_layout_and_byte_order_is_what_h5py_reads(tmp_path: Path, options: Any, dtype: str, libver: str) -> None:
    path, voxels = tmp_path / "v.h5", (VOXELS // 97).astype(dtype)
    with h5py.File(path, "w", libver=libver, userblock_size=0 if libver == "latest" else 1024) as file:
        made = file.create_dataset("raw", SHAPE, dtype, fillvalue=7, **options)
        made[:5] = voxels[:5]  # the other chunks are not stored
    with h5py.File(path) as file:
        np.testing.assert_array_equal(_read(path, voxel_size=SIZE), file["raw"][...])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_box_of_any_dataset_is_what_h5py_reads(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 30)] * data.draw(st.integers(2, 4))))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    dtype = data.draw(st.sampled_from(["u1", "i1", "<u2", ">u2", "<i2", "<f4", ">f4"]))
    packed = data.draw(st.sampled_from([{}, {"compression": "lzf"}, {"compression": "gzip", "compression_opts": 1}]))
    options = {"chunks": chunks, "shuffle": data.draw(st.booleans()), "fletcher32": data.draw(st.booleans()), **packed}
    voxels = np.resize(VOXELS // data.draw(st.sampled_from([1, 20000])), shape).astype(dtype)
    path = tmp_path / "v.h5"
    with h5py.File(path, "w", libver=data.draw(st.sampled_from(["earliest", "v110", "latest"]))) as file:
        file.create_dataset("raw", data=voxels, **(options if data.draw(st.booleans()) else {}))
    reader = open_volume(path, voxel_size=SIZE).reader
    assert reader is not None
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    read = reader.read_box(box)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, voxels[box])


def test_a_chunk_that_a_filter_would_not_shrink_is_stored_without_it(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", chunks=(4, 16, 16), compression="lzf")
    with h5py.File(path) as file:
        assert file["raw"].id.get_chunk_info(0).filter_mask == 1
    np.testing.assert_array_equal(_read(path), VOXELS)


def test_what_was_never_written_is_the_fill_value_and_few_bytes_stand_in_the_header(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("blank", SHAPE, "u2", fillvalue=7)
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.COMPACT)
        small = h5py.h5d.create(file.id, b"small", h5py.h5t.STD_U16LE, h5py.h5s.create_simple((2, 3, 4)), made)
        small.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(VOXELS[:2, :3, :4]))
    assert (_read(tmp_path / "v.h5" / "blank", voxel_size=SIZE) == 7).all()
    np.testing.assert_array_equal(_read(tmp_path / "v.h5" / "small", voxel_size=SIZE), VOXELS[:2, :3, :4])


def test_axes_are_named_by_ilastik_funlib_and_hdf5_itself(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        ilastik = file.create_dataset("ilastik", data=VOXELS[np.newaxis, ..., np.newaxis])
        ilastik.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tzyxc"]})
        ilastik.attrs["element_size_um"] = (0.03, 0.008, 0.004)
        funlib = file.create_dataset("funlib", data=np.stack([VOXELS, VOXELS // 3]))
        funlib.attrs.update({"axis_names": ["c^", "z", "y", "x"], "units": ["um"] * 3, "voxel_size": [0.03, 0.008, 0.004]})
        turned = file.create_dataset("turned", data=VOXELS.transpose())
        turned.attrs["resolution"] = SIZE[::-1]
        for dimension, label in zip(turned.dims, "xyz", strict=True):
            dimension.label = label
        file.create_dataset("time", data=VOXELS[np.newaxis].repeat(2, 0)).dims[0].label = "t"
        for number, label in enumerate("tzyx"):
            file["time"].dims[number].label = label
    for name in ("ilastik", "funlib", "turned"):
        volume = open_volume(path / name)
        assert volume.voxel_size == pytest.approx(SIZE)
        np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    np.testing.assert_array_equal(open_volume(path / "funlib").open(channel=1).read().result(), VOXELS // 3)
    _refused(path / "time", "input.axes", "2 time points")


def test_arrays_of_matlab_and_velox_have_their_own_order_of_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.mat", "w", userblock_size=512) as file:
        file["stack"] = VOXELS.transpose(0, 2, 1)  # rows, columns, sections, the first being the fastest
        file["stack"].attrs["MATLAB_class"] = np.bytes_("uint16")
    with h5py.File(tmp_path / "v.emd", "w") as file:
        file["Data/Image/0f3a/Data"] = VOXELS.transpose(1, 2, 0)
    for name in ("v.mat", "v.emd"):
        np.testing.assert_array_equal(_read(tmp_path / name, voxel_size=SIZE), VOXELS)


def test_a_voxel_size_in_no_known_unit_is_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5")
    for attributes in ({"resolution": [0.03, 0.008, 0.004]}, {"units": ["pixel"] * 3}):
        with h5py.File(path, "a") as file:
            file["raw"].attrs.update(attributes)
        with pytest.raises(InputError) as caught:
            open_volume(path)
        assert caught.value.code == "input.no-voxel-size"


def test_two_voxel_sizes_that_disagree_are_both_shown(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5")
    with h5py.File(path, "a") as file:
        file["raw"].attrs["element_size_um"] = (0.04, 0.008, 0.004)
    with pytest.raises(InputError, match=r"40 x 8 x 4 nm .* by element_size_um, 30 x 8 x 4 nm .* by resolution"):
        open_volume(path)
    assert open_volume(path, voxel_size=SIZE).voxel_size == SIZE


def write_imaris(path: Path, channels: int = 1) -> None:
    """Write what Imaris does: texts as single letters, sizes of the extents, chunks that are filled up."""

    def letters(value: object) -> NDArray[Any]:
        return np.array([*str(value)], "S1")

    with h5py.File(path, "w") as file:
        image = file.create_group("DataSetInfo/Image").attrs
        image["Unit"] = letters("um")
        for axis, (size, count, at) in enumerate(zip(SIZE[::-1], SHAPE[::-1], AT[::-1], strict=True)):
            image[f"ExtMin{axis}"] = letters((at - size / 2) / 1000)
            image[f"ExtMax{axis}"] = letters((at - size / 2 + count * size) / 1000)
        for level, voxels in enumerate((VOXELS, VOXELS[:, ::2, ::2])):
            for channel in range(channels):
                group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel {channel}")
                for axis, count in zip("ZYX", voxels.shape, strict=True):
                    group.attrs[f"ImageSize{axis}"] = letters(count)
                data = group.create_dataset("Data", (16, 32, 64), "u2", chunks=(8, 16, 16), compression="gzip")
                data[tuple(map(slice, voxels.shape))] = voxels
                group["Histogram"] = np.zeros(256, "u8")
        file["Thumbnail/Data"] = np.zeros((16, 64), "u1")


def test_an_imaris_file_lies_where_its_extents_say_without_what_fills_its_chunks(tmp_path: Path) -> None:
    write_imaris(tmp_path / "v.ims")
    volume = open_volume(tmp_path / "v.ims")
    assert volume.voxel_size == pytest.approx(SIZE)
    assert volume.translation == pytest.approx(AT)
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    coarse = open_volume(tmp_path / "v.ims" / "DataSet" / "ResolutionLevel 1" / "TimePoint 0" / "Channel 0" / "Data")
    assert coarse.voxel_size == pytest.approx((30, 16, 37 * 4 / 19))
    np.testing.assert_array_equal(coarse.open().read().result(), VOXELS[:, ::2, ::2])
    write_imaris(tmp_path / "two.ims", channels=2)
    _refused(tmp_path / "two.ims", "input.not-a-volume", "Channel 0/Data .*Channel 1/Data")


def test_a_file_of_bigdataviewer_holds_uint16_as_int16_and_its_xml_says_how_large_voxels_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["s00/resolutions"] = [[1.0, 1.0, 1.0], [2.0, 2.0, 1.0]]
        file.create_dataset("t00000/s00/0/cells", data=VOXELS.view(np.int16), chunks=(4, 16, 16), compression="gzip")
        file["t00000/s00/1/cells"] = VOXELS[:, ::2, ::2].view(np.int16)
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "v.h5")
    assert caught.value.code == "input.no-voxel-size"
    setup = "<ViewSetup><id>0</id><voxelSize><unit>um</unit><size>0.004 0.008 0.03</size></voxelSize></ViewSetup>"
    (tmp_path / "v.xml").write_text(f"<SpimData><ViewSetups>{setup}</ViewSetups></SpimData>")
    volume = open_volume(tmp_path / "v.h5")
    assert volume.dtype == np.uint16
    assert volume.voxel_size == pytest.approx(SIZE)
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    coarse = open_volume(tmp_path / "v.h5" / "t00000" / "s00" / "1" / "cells")
    assert coarse.voxel_size == pytest.approx((30, 16, 8))
    assert coarse.translation == pytest.approx((0, 4, 2))


def test_what_lies_outside_of_a_file_is_not_opened(tmp_path: Path) -> None:
    _write(tmp_path / "other.h5")
    (tmp_path / "raw.bin").write_bytes(bytes(24))
    path = tmp_path / "v.h5"
    virtual = h5py.VirtualLayout(SHAPE, "u2")
    virtual[...] = h5py.VirtualSource(tmp_path / "other.h5", "raw", SHAPE)
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/raw")
        file["through"] = h5py.SoftLink("/link")
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("stored", (2, 3, 4), "u1", external=[(str(tmp_path / "raw.bin"), 0, 24)])
    for name in ("link", "through"):
        _refused(path / name, "input.unsupported", "link to another file .other.h5/raw")
    _refused(path / "virtual", "input.unsupported", "virtual.*other.h5")
    _refused(path / "stored", "input.unsupported", "outside of the file.*raw.bin")


def test_links_inside_a_file_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", "volumes/raw")
    with h5py.File(path, "a") as file:
        file["soft"], file["volumes/again"] = h5py.SoftLink("volumes/raw"), file["/"]
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["gone"] = h5py.SoftLink("/nothing")
    np.testing.assert_array_equal(_read(path), VOXELS)
    np.testing.assert_array_equal(_read(path / "soft"), VOXELS)
    np.testing.assert_array_equal(_read(path / "volumes" / "again" / "volumes"), VOXELS)
    _refused(path / "a", "input.broken-metadata", "circle")
    _refused(path / "gone", "input.not-found", "nothing at gone")


def test_a_filter_that_is_not_known_is_named_and_no_plug_in_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((1, 8, 8))
        made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, 64))
        h5py.h5d.create(file.id, b"raw", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((4, 16, 16)), made)
    error = _refused(path, "input.unsupported", "filter 32001")
    assert "h5repack" in error.hint


def test_a_type_that_numpy_does_not_know_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        odd = h5py.h5t.STD_I16LE.copy()
        odd.set_precision(12)
        odd.set_offset(4)
        h5py.h5d.create(file.id, b"raw", odd, h5py.h5s.create_simple((2, 3, 4)))
        file["flags"] = VOXELS > 9
        file["wide"] = VOXELS.astype("u8")
    for name in ("raw", "flags", "wide"):
        _refused(tmp_path / "v.h5" / name, "input.dtype", "integers or floats|uint64")


def test_sizes_that_are_declared_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("long", (2**27, 1, 1), "u1", chunks=(1, 1, 1))
        file.create_dataset("chunk", (2000, 2000, 2000), "u1", chunks=(1000, 1000, 1000))
        file.create_dataset("none", (0, 5, 6), "u1")
        file.create_dataset("large", (10**6, 10**6, 10**6), "u1", chunks=(1, 1000, 1000))
    _refused(path / "long", "input.too-large", "134217728")
    _refused(path / "chunk", "input.too-large", "chunks of")
    _refused(path / "none", "input.empty", "no voxel")
    assert not open_volume(path / "large", voxel_size=SIZE).open()[7, :9, :9].read().result().any()


def test_a_chunk_that_unpacks_to_more_than_its_voxels_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    for name, stored in (("bomb", zlib.compress(bytes(2**25))), ("short", zlib.compress(bytes(9))), ("long", bytes(2**20))):
        with h5py.File(path, "a") as file:
            made = file.create_dataset(name, (8, 8, 8), "u1", chunks=(8, 8, 8), compression="gzip")
            made.id.write_direct_chunk((0, 0, 0), stored)
        with pytest.raises(ValueError, match=r"unpacked|has (9|1048576) bytes"):
            _read(path / name, voxel_size=SIZE)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", chunks=SHAPE, fletcher32=True)
    with h5py.File(path) as file:
        at = file["raw"].id.get_chunk_info_by_coord((0, 0, 0)).byte_offset + 1000
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        _read(path)


def test_a_file_that_is_cut_off_locked_or_not_closed_says_so(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5")
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:-1])
    _refused(tmp_path / "cut.h5", "input.unreadable", "cut off")
    script = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); f['a'] = [1]; f.flush(); {}"
    left = "os._exit(0)"
    subprocess.run([sys.executable, "-c", script.format(left), tmp_path / "left.h5"], check=True)
    _refused(tmp_path / "left.h5", "input.unreadable", "not closed")
    waits = "print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script.format(waits), tmp_path / "locked.h5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _refused(tmp_path / "locked.h5", "input.unreadable", "locked")
        process.communicate()


def test_damage_anywhere_is_an_error_that_says_so_or_is_not_met(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.h5", "volumes/raw", chunks=(4, 16, 16), compression="gzip", fletcher32=True)
    whole, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for at in random.integers(0, len(whole), 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ random.integers(1, 256)]) + whole[at + 1 :])
        try:
            _read(path, voxel_size=SIZE)
        except (InputError, ValueError):
            refused += 1
    assert refused > 50


def test_a_dataset_inside_is_taken_by_the_commands(tmp_path: Path) -> None:
    place, made = _write(tmp_path / "v.h5", "volumes/raw") / "volumes" / "raw", tmp_path / "made.zarr"
    for arguments in (["info", str(place)], ["convert", str(place), str(made)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert open_volume(made).translation == AT
    np.testing.assert_array_equal(_read(made), VOXELS)
