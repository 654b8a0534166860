"""Loss terms in words: what each measures, and what it means when it rises."""

from __future__ import annotations

from collections.abc import Sequence

PLAIN = {
    "landmark": "Distance of the 3D head's landmarks, px",
    "expression": "Error of distances in the 3D head's mouth and eyes, px",
    "photometric": "Difference of the 3D renders from the images",
    "tdmm_param": "Distance of the heads from the average one",
    "perceptual": "Difference of the prediction from the frame",
    "generator_gan": "Generator: predictions not taken for real",
    "feature_matching": "Difference in the discriminator's features",
    "discriminator_gan": "Discriminator: real and generated frames confused",
    "equivariance_value": "Keypoints that do not follow a warped image",
    "equivariance_jacobian": "Jacobians that do not follow a warped image",
    "keypoint_spread": "Keypoints that lie too close together",
}
RISING = {
    "tdmm_param": "It rises because all heads start as the average one, and then take their own shape.",
    "generator_gan": "It rises as the discriminator learns: the two play against each other, and neither "
    "is meant to win.",
    "feature_matching": "It rises as the discriminator's features grow sharper, "
    "even where pictures get better.",
    "discriminator_gan": "It rises as the generator's pictures become harder to tell from real ones.",
    "equivariance_value": "It rises while keypoints begin to move: keypoints that stand still agree with "
    "every image.",
    "equivariance_jacobian": "It rises while keypoints begin to turn and stretch with the face.",
}
RISING_ELSE = "It ends higher than it began: the terms pull against each other, or the learning rate is high."
RISE = 1.05  # last fifth over first fifth from which a loss has risen


def plain_name(term: str) -> str:
    """Return what a loss term measures, in words."""
    return PLAIN.get(term, term)


def note_on_rise(term: str, values: Sequence[float]) -> str:
    """Explain a loss that ends higher than it began; empty for one that does not."""
    fifth = max(1, len(values) // 5)
    if len(values) < 2:
        return ""
    first, last = (sum(part) / len(part) for part in (values[:fifth], values[-fifth:]))
    return RISING.get(term, RISING_ELSE) if last > RISE * first else ""
