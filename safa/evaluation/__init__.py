"""Evaluation of a trained model on clips: which jobs there are, one clip's frames, scores and videos, and the scorers."""
