"""Visualisation: maps as colours, points on faces, labelled panels, strips and grids.

All images are (H, W, 3) uint8 RGB arrays. Nothing here reads or writes files.
"""
