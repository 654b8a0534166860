from __future__ import annotations

import numpy as np
import pytest
import torch

from safa.visualize.images import caption, enlarge, from_tensor, magnification, side_by_side, stacked


def plain(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_tensors_are_rounded_and_clipped() -> None:
    image = torch.tensor([-0.5, 0.0, 0.1, 0.5, 1.0, 7.0]).repeat(3, 1, 1)
    assert from_tensor(image)[0, :, 0].tolist() == [0, 0, 26, 128, 255, 255]


def test_channels_stay_in_order() -> None:
    tensor = torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1).expand(3, 2, 4)
    image = from_tensor(tensor)
    assert image.shape == (2, 4, 3)
    assert image[1, 3].tolist() == [255, 128, 0]


def test_a_batch_is_no_image() -> None:
    with pytest.raises(ValueError, match="one image"):
        from_tensor(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(("side", "factor"), [(64, 3), (65, 3), (96, 2), (192, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_numbers(side: int, factor: int) -> None:
    image = plain(side, side, 90)
    assert magnification(image.shape[:2], 192) == factor
    large = enlarge(image, 192)
    assert large.shape == (side * factor, side * factor, 3)
    assert (large == 90).all()


def test_images_are_joined_with_gaps() -> None:
    joined = side_by_side([plain(2, 3, 1), plain(2, 4, 2)], gap=5)
    assert joined.shape == (2, 12, 3)
    assert (joined[:, :3] == 1).all()
    assert (joined[:, 8:] == 2).all()
    assert stacked([plain(2, 3, 1), plain(4, 3, 2)], gap=1).shape == (7, 3, 3)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="different heights"):
        side_by_side([plain(2, 3, 1), plain(3, 3, 1)])
    with pytest.raises(ValueError, match="different widths"):
        stacked([plain(2, 3, 1), plain(2, 4, 1)])
    with pytest.raises(ValueError, match="no images"):
        side_by_side([])


def test_a_caption_has_the_size_asked_for_and_shows_its_text() -> None:
    bar, empty = caption("source", 90, 20), caption("", 90, 20)
    assert bar.shape == empty.shape == (20, 90, 3)
    assert (empty == empty[0, 0]).all()
    assert (bar != empty).any()
