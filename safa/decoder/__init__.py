"""Decoding of videos in a limited process of its own: no other process opens a stranger's container.

``safa.decoder.process`` starts ``safa.decoder.main`` and talks to it by the records of
``safa.decoder.protocol``. ``safa.data.video`` is the interface for everybody else.
"""
