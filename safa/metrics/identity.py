"""XXX new"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def euclidean(predicted_FD: Tensor, wanted_FD: Tensor) -> Tensor:
    """Average Euclidean distance (AED) of identity embeddings: 0 (the same person) upwards, lower is better.

    Distance between the embeddings of the prediction and of the true frame, in the embedding's own unit and
    scaling: numbers compare only for the same embedding network.

    Args:
        predicted_FD, wanted_FD: (F, D) embeddings; either may be (1, D).
    """
    distance: Tensor = (predicted_FD.double() - wanted_FD.double()).norm(dim=-1)
    return distance


def cosine(predicted_FD: Tensor, wanted_FD: Tensor) -> Tensor:
    """Cosine similarity of identity embeddings (CSIM): -1 to 1 (the same person), higher is better. No unit.

    Between the prediction and the picture whose identity it should have: the true frame in a reconstruction,
    the source frame in an animation or a swap. There, copying the source scores 1 by definition.

    Args:
        predicted_FD, wanted_FD: (F, D) embeddings; either may be (1, D).
    """
    return F.cosine_similarity(predicted_FD.double(), wanted_FD.double(), dim=-1)
