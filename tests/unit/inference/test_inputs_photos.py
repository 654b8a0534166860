"""Photos as phones, scanners and image editors write them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safa.data.video import write_video
from safa.errors import UserError
from safa.inference.photos import read_photo


def _save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_a_phone_photo_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to view
    photo = read_photo(_save(tmp_path / "a.png", Image.fromarray(pixels), exif=exif))
    assert photo.pixels.shape == (40, 20, 3)
    assert photo.pixels[:20].min() == 255
    assert photo.notes == ()


def test_transparent_parts_become_white_with_a_note(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:10] = (200, 10, 10, 255)
    photo = read_photo(_save(tmp_path / "a.png", Image.fromarray(pixels)))
    assert (photo.pixels[15] == 255).all()
    assert (photo.pixels[5] == (200, 10, 10)).all()
    assert "transparent" in photo.notes[0]
    pixels[..., 3] = 255
    assert read_photo(_save(tmp_path / "b.png", Image.fromarray(pixels))).notes == ()


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40).astype(np.uint16)[None].repeat(20, 0)
    photo = read_photo(_save(tmp_path / "a.png", Image.fromarray(ramp)))
    assert np.abs(photo.pixels[0, :, 0] - ramp[0] / 257).max() <= 0.5
    assert "16 bits" in photo.notes[0]


def test_cmyk_is_converted_with_a_note(tmp_path: Path) -> None:
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    photo = read_photo(_save(tmp_path / "a.jpg", red, quality=95))
    assert photo.pixels[10, 10, 0] > 200
    assert photo.pixels[10, 10, 1] < 60
    assert "CMYK" in photo.notes[0]


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    photo = read_photo(_save(tmp_path / "a.png", Image.new(mode, (20, 20))))
    assert photo.pixels.shape == (20, 20, 3)


def test_unreadable_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match="not a readable photo"):
        read_photo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="no such photo"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="floating-point"):
        read_photo(_save(tmp_path / "a.tif", Image.new("F", (20, 20))))
    with pytest.raises(UserError, match="4 x 4 px"):
        read_photo(_save(tmp_path / "small.png", Image.new("RGB", (4, 4))))
    whole = _save(
        tmp_path / "b.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    )
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a readable photo"):
        read_photo(tmp_path / "cut.png")


def _primaries_profile(name: str) -> bytes:
    """An ICC profile of matrix and curve, as cameras and editors embed it."""
    white = {"d65": (0.3127, 0.3290), "d50": (0.3457, 0.3585)}
    primaries, gamma, point = {
        "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2, white["d65"]),
        "Adobe RGB": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 2.19921875, white["d65"]),
        "ProPhoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8, white["d50"]),
    }[name]
    to_pcs = _to_d50(primaries, point)
    tags = {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"desc": _description(name), b"cprt": b"text\0\0\0\0none\0"}
    for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_pcs.T, strict=True):
        tags[tag] = _xyz(column)
    for tag in (b"rTRC", b"gTRC", b"bTRC"):
        tags[tag] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    return _icc(tags)


def _to_d50(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> np.ndarray:
    """Linear RGB to XYZ of D50, (3, 3), adapted by Bradford's matrix."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    own = np.array([white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1]])
    matrix = columns * np.linalg.solve(columns, own)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gains = (bradford @ [0.9642, 1.0, 0.8249]) / (bradford @ own)
    adapted: np.ndarray = np.linalg.inv(bradford) @ np.diag(gains) @ bradford @ matrix
    return adapted


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _description(text: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode() + b"\0" + bytes(78)


def _icc(tags: dict[bytes, bytes]) -> bytes:
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


COLOURS = np.array([[200, 150, 130], [90, 60, 50], [128, 128, 128], [30, 90, 160], [255, 255, 255]], np.uint8)


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB", "ProPhoto"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_colour_profiles_become_srgb(name: str, suffix: str, tmp_path: Path) -> None:
    """Colours of a wide gamut against the definition: linear light, primaries, sRGB's curve."""
    d65 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), (0.3127, 0.3290)
    primaries, gamma, white = {
        "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2, d65[1]),
        "Adobe RGB": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 2.19921875, d65[1]),
        "ProPhoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8, (0.3457, 0.3585)),
    }[name]
    light = (COLOURS / 255) ** gamma @ _to_d50(primaries, white).T @ np.linalg.inv(_to_d50(*d65)).T
    light = light.clip(0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    patches = COLOURS.repeat(16, 0)[None].repeat(16, 0)  # (5, 3) -> (16, 80, 3)
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    path = _save(
        tmp_path / f"a{suffix}", Image.fromarray(patches), icc_profile=_primaries_profile(name), **options
    )
    photo = read_photo(path)
    assert photo.notes == ()
    np.testing.assert_allclose(photo.pixels[8, 8::16], 255 * curve, atol=2)


def test_a_profile_that_is_no_profile_is_noted(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png", Image.new("RGB", (20, 20), (9, 99, 199)), icc_profile=b"nonsense" * 20)
    photo = read_photo(path)
    assert photo.pixels[5, 5].tolist() == [9, 99, 199]
    assert "colour profile" in photo.notes[0]


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_photos_of_phones_are_read(suffix: str, tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64] = (200, 120, 40)
    photo = read_photo(_save(tmp_path / f"a{suffix}", Image.fromarray(pixels), quality=95))
    assert photo.pixels.shape == (64, 128, 3)
    np.testing.assert_allclose(photo.pixels[30, 30], (200, 120, 40), atol=4)
    assert photo.pixels[30, 100].max() < 10


def test_moving_pictures_are_no_photos_and_still_ones_are(tmp_path: Path) -> None:
    still = Image.new("RGB", (20, 20), (10, 200, 30))
    for suffix in (".gif", ".webp", ".png"):
        one = _save(tmp_path / f"one{suffix}", still)
        assert abs(read_photo(one).pixels.astype(int)[5, 5] - (10, 200, 30)).max() <= 6
        others = [Image.new("RGB", (20, 20), (n, 0, 0)) for n in (100, 200)]
        moving = _save(tmp_path / f"two{suffix}", still, save_all=True, append_images=others)
        with pytest.raises(UserError, match="did you swap photo and video"):
            read_photo(moving)


def test_a_video_in_the_place_of_the_photo_is_recognised(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3), np.uint8)] * 2, 25.0)
    with pytest.raises(UserError, match="did you swap photo and video"):
        read_photo(tmp_path / "v.mp4")


def test_only_named_formats_are_opened(tmp_path: Path) -> None:
    """An EPS, for which Pillow would run Ghostscript, under the name of a PNG."""
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n")
    with pytest.raises(UserError, match="unknown format"):
        read_photo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(UserError, match="is a pipe"):
        read_photo(tmp_path / "b.png")


def test_many_pixels_are_a_limit_that_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 200-megapixel photo's header passes; 300 megapixels are refused before a pixel is decoded."""
    for width, height, passes in ((16320, 12240, True), (20000, 15000, False)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "a.png").write_bytes(data + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
        with pytest.raises(UserError, match="not a readable photo" if passes else "SAFA_LIMITS=pixels"):
            read_photo(tmp_path / "a.png")
    monkeypatch.setenv("SAFA_LIMITS", "pixels=300")
    with pytest.raises(UserError, match="more than 300 px"):
        read_photo(_save(tmp_path / "b.png", Image.new("RGB", (20, 20))))
