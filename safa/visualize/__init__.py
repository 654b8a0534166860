"""Drawing what the model does: maps as colours, points on faces, labelled strips of frames.

Pictures are (H, W, 3) uint8 RGB arrays throughout. Nothing here knows files or videos.
"""
