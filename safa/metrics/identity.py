"""How well a predicted face keeps a person's identity: distances of embeddings, one number per frame.

Embeddings come from a network of the user's (``scorers.identity``). Results are (F,) float64.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def euclidean(prediction: Tensor, target: Tensor) -> Tensor:
    """Average Euclidean distance (AED) of identity embeddings: 0 (the same person) upwards, lower is better.

    Distance between the embeddings of the prediction and of the target frame, in the embedding's own unit and
    scaling: numbers compare only for the same embedding network.

    Args:
        prediction, target: (F, D) embeddings; either may be (1, D).
    """
    distance: Tensor = (prediction.double() - target.double()).norm(dim=-1)
    return distance


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity of identity embeddings (CSIM): -1 to 1 (the same person), higher is better. No unit.

    Between the prediction and the image whose identity it should have: the target frame in a reconstruction,
    the source frame in an animation or a swap. There, copying the source scores 1 by definition.

    Args:
        prediction, target: (F, D) embeddings; either may be (1, D).
    """
    return F.cosine_similarity(prediction.double(), target.double(), dim=-1)
