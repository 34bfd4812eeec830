"""PNG, JPEG and BMP: one section each, alone and in folders."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from volumetool.errors import InputError
from volumetool.storage.convert_volume import convert
from volumetool.storage.info import describe_volume
from volumetool.storage.open import open_volume

SIZE = (30.0, 8.0, 4.0)
GREY = (np.arange(40 * 50) * 31 % 256).reshape(40, 50).astype(np.uint8)


def _code(place: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_volume(place, voxel_size=SIZE)
    assert caught.value.hint
    return caught.value.code


def _png(width: int, height: int, bits: int = 8, data: bytes = b"", colour: int = 0) -> bytes:
    """Return a PNG file whose head may say more than there is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_by_other_software_is_read_exactly(tmp_path: Path, dtype: str) -> None:
    voxels = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (3, 40, 50), dtype, endpoint=True)
    for number, section in enumerate(voxels):
        (tmp_path / f"s_{9 + number}.png").write_bytes(imagecodecs.png_encode(section))
    volume = open_volume(tmp_path, voxel_size=SIZE)
    assert (volume.format, volume.dtype.name, volume.shape) == ("png", dtype, (3, 40, 50))
    np.testing.assert_array_equal(volume.open().read().result(), voxels)
    np.testing.assert_array_equal(volume.open()[1, 5:9, 7:].read().result(), voxels[1, 5:9, 7:])


def test_one_image_is_one_section(tmp_path: Path) -> None:
    for name in ("v.png", "v.PNG", "v.bmp"):
        Image.fromarray(GREY).save(tmp_path / name)
        volume = open_volume(tmp_path / name, voxel_size=SIZE)
        np.testing.assert_array_equal(volume.open().read().result(), GREY[np.newaxis])


def test_a_palette_of_grey_values_counts_as_these_values(tmp_path: Path) -> None:
    image = Image.fromarray(GREY // 16, "L").convert("P")
    image.putpalette(np.repeat(np.arange(16, dtype=np.uint8) * 10, 3).tobytes())
    image.save(tmp_path / "v.png")
    np.testing.assert_array_equal(open_volume(tmp_path / "v.png", voxel_size=SIZE).open().read().result()[0], GREY // 16 * 10)


def test_what_jpeg_lost_is_said_by_info(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, ending in enumerate(("jpg", "jpeg", "JPG")):
        Image.fromarray(GREY).save(tmp_path / "in" / f"s_{number}.{ending}", "JPEG")
    volume = open_volume(tmp_path / "in", voxel_size=SIZE)
    assert volume.format == "jpeg"
    assert "JPEG changed the grey values" in str(describe_volume(volume)["note"])
    decoded = np.asarray(Image.open(tmp_path / "in" / "s_1.jpeg"))
    made = convert(tmp_path / "in", tmp_path / "out.zarr", voxel_size=SIZE)
    np.testing.assert_array_equal(made.open()[1].read().result(), decoded)


def test_colours_and_transparency_are_refused_with_what_turns_them_grey(tmp_path: Path) -> None:
    for number, mode in enumerate(("RGB", "RGBA", "LA", "P", "CMYK")):
        name = tmp_path / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}"
        image = Image.new("RGB", (8, 6), (1, 2, 3)).convert(mode)
        image.save(name)
        with pytest.raises(InputError, match="wanted is one section of grey values") as caught:
            open_volume(name, voxel_size=SIZE)
        assert caught.value.code == "input.axes"
        assert "-colorspace Gray" in caught.value.hint


def test_one_bit_a_pixel_and_several_images_in_a_file_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).convert("1").save(tmp_path / "bits.png")
    assert _code(tmp_path / "bits.png") == "input.dtype"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert _code(tmp_path / "moving.png") == "input.axes"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (_png(2**20, 2**20), "input.too-large"),
        (_png(2**27, 1), "input.too-large"),
        (_png(0, 5), "input.unreadable"),
        (b"", "input.unreadable"),
        (b"\x89PNG", "input.unreadable"),
        (b"something else", "input.unreadable"),
        (_png(8, 8)[:-12], "input.unreadable"),
    ],
)
def test_a_flood_of_pixels_and_damage_are_seen_before_anything_is_decoded(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "v.png").write_bytes(content)
    assert _code(tmp_path / "v.png") == code


def test_fewer_pixels_than_the_head_says_are_an_error_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "v.png").write_bytes(_png(50, 40, data=zlib.compress(bytes(51 * 20))))
    with pytest.raises(ValueError, match="cannot be read as PNG"):
        open_volume(tmp_path / "v.png", voxel_size=SIZE).open().read().result()


def test_an_image_that_was_replaced_by_another_size_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "v.png")
    volume = open_volume(tmp_path / "v.png", voxel_size=SIZE)
    Image.fromarray(GREY[1:]).save(tmp_path / "v.png")
    with pytest.raises(ValueError, match="is 39 x 50 uint8 now, and was 40 x 50 uint8"):
        volume.open().read().result()


def test_folders_follow_the_rules_of_tiff(tmp_path: Path) -> None:
    for name, images in {
        "input.missing-sections": {"s_1.png": GREY, "s_3.png": GREY},
        "input.slice-shape": {"s_1.png": GREY, "s_2.png": GREY[1:]},
        "input.section-names": {"a_1.png": GREY, "b_2.png": GREY},
    }.items():
        (tmp_path / name).mkdir()
        for file, image in images.items():
            Image.fromarray(image).save(tmp_path / name / file)
        assert _code(tmp_path / name) == name
    kept = open_volume(tmp_path / "input.missing-sections", voxel_size=SIZE, gaps="keep")
    np.testing.assert_array_equal(kept.open().read().result(), np.stack([GREY, 0 * GREY, GREY]))


def test_several_kinds_of_images_in_a_folder_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "s_1.png")
    Image.fromarray(GREY).save(tmp_path / "s_2.jpg")
    with pytest.raises(InputError, match="JPEG and PNG") as caught:
        open_volume(tmp_path, voxel_size=SIZE)
    assert caught.value.code == "input.section-names"
