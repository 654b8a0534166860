from __future__ import annotations

import torch

from safa.models.face_parser import FACE_CLASSES, NUM_CLASSES, FaceParser, blend_mask


def test_scores_have_the_size_of_the_image() -> None:
    with torch.inference_mode():
        out = FaceParser().eval()(torch.rand(1, 3, 64, 96))
    for scores in (out.main, out.auxiliary16, out.auxiliary32):
        assert scores.shape == (1, NUM_CLASSES, 64, 96)


def test_probabilities_are_those_of_the_main_head() -> None:
    parser = FaceParser().eval()
    image = torch.rand(1, 3, 512, 512)
    with torch.inference_mode():
        probabilities = parser.probabilities(image)
        expected = parser(image).main.softmax(dim=1)
    torch.testing.assert_close(probabilities, expected)


def test_blend_mask_sums_the_chosen_classes() -> None:
    probabilities = torch.zeros(1, NUM_CLASSES, 1, 3)
    probabilities[0, 0] = torch.tensor([[1.0, 0.4, 0.0]])  # background
    probabilities[0, 1] = torch.tensor([[0.0, 0.3, 0.2]])  # skin
    probabilities[0, 10] = torch.tensor([[0.0, 0.3, 0.3]])  # nose
    probabilities[0, 17] = torch.tensor([[0.0, 0.0, 0.5]])  # hair
    soft = blend_mask(probabilities, FACE_CLASSES)
    torch.testing.assert_close(soft, torch.tensor([[[[0.0, 0.6, 0.5]]]]))
    hard = blend_mask(probabilities, FACE_CLASSES, hard=True)
    torch.testing.assert_close(hard, torch.tensor([[[[0.0, 1.0, 0.0]]]]))
