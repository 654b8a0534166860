"""Checkpoints on disk: our own format (``native``), and the layout of the authors' release (``released``)."""
