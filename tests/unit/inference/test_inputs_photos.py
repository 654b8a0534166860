"""Photos as phones, scanners and image editors write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.errors import UserError
from safa.inference.inputs import read_photo


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
