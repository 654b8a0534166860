"""Inference: a trained model applied to people's own photos and videos."""
