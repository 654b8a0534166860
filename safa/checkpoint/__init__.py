"""Checkpoints on disk: the native format (``native``) and the layout that the authors released (``released``)."""
