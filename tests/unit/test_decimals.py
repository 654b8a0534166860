"""Digits are 0 to 9 wherever a name or a header is read as a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.machines import check_address
from safa.checkpoint.native import latest_state
from safa.commands.flags import face_choice
from safa.config import ModelConfig, parse_settings
from safa.data.images import ImageFolder
from safa.data.landmarks import points_of_dictionary
from safa.data.video import DecodeError
from safa.decimals import whole
from safa.errors import UserError
from safa.inference.inputs import open_frame_source
from safa.inference.swap_mask import parse_classes

OTHERS = ["\u0663", "\u00b3", "1_0", "+1", "-1", "9" * 19, "\uff11"]


@pytest.mark.parametrize("text", OTHERS)
def test_other_digits_are_no_number(text: str, tmp_path: Path) -> None:
    assert whole("0012") == 12
    assert [whole(each) for each in (text, "", " 1", "1.0")] == [None] * 4
    with pytest.raises(ValueError, match="is not the number of a frame"):
        points_of_dictionary({text: {"ldmk": np.zeros((68, 2))}})
    with pytest.raises(UserError, match=r"no class"):
        parse_classes(text)
    with pytest.raises(Exception, match="neither a number nor X,Y"):
        face_choice(text)
    with pytest.raises(UserError):  # no camera of that number is looked for
        open_frame_source(Path(text))
    check_address(f"127.0.0.1:{text}")  # left to Ray, which refuses it


@pytest.mark.parametrize("text", OTHERS[:5])
def test_names_of_files_and_folders(text: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"{text}.png")
    with pytest.raises(DecodeError, match="names of frames must be numbers"):
        ImageFolder(tmp_path, 25)
    (tmp_path / f"step-{text}").mkdir()
    assert latest_state(tmp_path) is None


def test_settings() -> None:
    with pytest.raises(UserError, match="image_size"):
        parse_settings({"image_size": "\u0663e2"}, ModelConfig, "test")
