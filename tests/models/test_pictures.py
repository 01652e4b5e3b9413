"""Decoded pictures: modes, orientation, bounds, and files that are none."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pictured
from trimtab.errors import DataError, ModelError
from trimtab.models.pictures import MOST_PIXELS, image_processor, picture_list, pixel_batches, read_picture


def noise(side: int = 64) -> Image.Image:
    return pictured.random_pictures(1, side=side)[0]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_are_their_pixels(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    noise().save(path)
    for source in (path, str(path)):
        found = read_picture(source)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(noise()))


def test_an_image_is_left_as_it_is():
    image = noise()
    found = read_picture(image)
    found.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise()))


def test_grey_of_16_bits_keeps_its_upper_ones(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = np.asarray(read_picture(tmp_path / "a.png"))
    np.testing.assert_array_equal(found[..., 0], values >> 8)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


def test_transparent_parts_are_white(tmp_path):
    """As a page shows them, for a palette too; the colour that a file hides there is not seen."""
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 0
    for number, one in enumerate((image, palette)):
        one.save(tmp_path / f"{number}.png")
        for source in (one, tmp_path / f"{number}.png"):
            found = read_picture(source)
            assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_a_picture_stands_upright(tmp_path):
    image, exif = Image.new("RGB", (4, 2), "red"), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == (2, 4)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert read_picture(opened).size == (2, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_mode_of_colours_becomes_rgb(mode):
    assert read_picture(Image.new(mode, (3, 2))).mode == "RGB"


def test_files_that_are_none_are_refused(tmp_path):
    noise().save(tmp_path / "whole.jpg", quality=95)
    raw = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    os.mkfifo(tmp_path / "pipe.png")
    refused = {
        "empty.png": r"empty.png: got an empty file \(0 bytes\)",
        "cut.jpg": "cut.jpg: got a picture that cannot be decoded",
        "text.png": "text.png: got a file that is no such picture",
        "page.eps": "got a file that is no such picture",
        "wole.jpg": r"got no such file, .*try .*whole.jpg",
        "pipe.png": "pipe.png: got a pipe",
        ".": "got a folder",
    }
    for name, message in refused.items():
        with pytest.raises(DataError, match=message):
            read_picture(tmp_path / name, "picture 3")
    with pytest.raises(DataError, match=r"^speaker: got a int"):
        read_picture(7, "speaker")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no such user"):
        read_picture("~nosuchuser/a.png")
    with pytest.raises(DataError, match="mode F"):
        read_picture(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_files_bring_about_data_errors_alone(tmp_path_factory, data):
    """Whatever bytes of a file are changed or cut, the error is ours or there is none."""
    folder = tmp_path_factory.getbasetemp()
    ending = data.draw(st.sampled_from([".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp", ".ppm"]))
    noise(8).save(folder / f"good{ending}")
    raw = bytearray((folder / f"good{ending}").read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    (folder / f"bad{ending}").write_bytes(raw)
    with suppress(DataError):
        assert read_picture(folder / f"bad{ending}").mode == "RGB"


def test_pictures_beyond_the_bound_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "30.png")
    Image.new("1", (18000, 10000)).save(tmp_path / "180.png")
    with pytest.raises(DataError, match=r"6000 x 5000 pixels \(30 million\), expected at most 25 million"):
        read_picture(tmp_path / "30.png")
    with pytest.raises(DataError, match="expected at most 25 million"):
        read_picture(tmp_path / "180.png")
    raw = (tmp_path / "30.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[:60])  # the bound is found by the head alone
    with pytest.raises(DataError, match="30 million"):
        read_picture(tmp_path / "cut.png")
    assert read_picture(Image.new("1", (5000, MOST_PIXELS // 5000))).size == (5000, 5000)
    with pytest.raises(DataError, match="0 x 3 pixels"):
        read_picture(Image.new("RGB", (0, 3)))


def test_batches_are_what_the_processor_makes_of_all():
    images = pictured.random_pictures(5)
    processor = pictured.clip_processor()
    whole = processor(images=images, return_tensors="pt")["pixel_values"]
    parts = list(pixel_batches(processor, iter(images), batch_size=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert list(pixel_batches(processor, [], batch_size=2)) == []
    assert image_processor(processor) is processor


def test_what_is_no_list_or_no_processor_is_named():
    for single in (noise(), "a.png"):
        with pytest.raises(DataError, match=r"expected a list of pictures; try \[picture\]"):
            picture_list(single)
    with pytest.raises(ModelError, match="got a TokenizersBackend, expected a processor of pictures"):
        image_processor(pictured.words())
    with pytest.raises(ModelError, match="got no processor"):
        image_processor(None)


def test_the_smallest_pictures_are_read():
    processor = pictured.clip_processor()
    for size in ((1, 1), (1, 20), (3, 3), (3, 9), (9, 3)):
        (values,) = pixel_batches(processor, [Image.new("RGB", size, "red")], batch_size=1)
        assert tuple(values.shape) == (1, 3, 16, 16)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("start", [b"garb", b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_damaged_exif_block_turns_nothing_and_the_picture_is_read(ending, start, tmp_path):
    """The four bytes that a block begins with are the order of its bytes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(8).resize((8, 6)).save(tmp_path / f"a{ending}", exif=exif, **_lossless(ending))
    raw = bytearray((tmp_path / f"a{ending}").read_bytes())
    at = raw.index(b"MM\0*") if b"MM\0*" in raw else raw.index(b"II*\0")
    raw[at : at + 4] = start
    if ending == ".png":
        block = raw.index(b"eXIf")
        end = block + 4 + int.from_bytes(raw[block - 4 : block], "big")
        raw[end : end + 4] = zlib.crc32(raw[block:end]).to_bytes(4, "big")
    (tmp_path / f"a{ending}").write_bytes(raw)
    found = read_picture(tmp_path / f"a{ending}")
    assert found.size == (8, 6)
    if ending != ".jpg":
        np.testing.assert_array_equal(np.asarray(found), np.asarray(noise(8).resize((8, 6))))
    held = noise(8)
    held.info["exif"] = b"garbage"
    np.testing.assert_array_equal(np.asarray(read_picture(held)), np.asarray(noise(8)))


def _lossless(ending: str) -> dict[str, bool]:
    return {"lossless": True} if ending == ".webp" else {}


def test_grey_of_16_bits_in_the_other_byte_order_is_the_same():
    values = np.array([[40000, 255, 65535]], dtype=np.uint16)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (3, 1), values.astype(order).tobytes())
        assert np.asarray(read_picture(image))[0, :, 1].tolist() == [156, 0, 255]
