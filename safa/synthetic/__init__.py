"""A talking-head data set made from nothing: seeded people who talk, blink, turn and lean.

``people`` (who), ``motion`` and ``performance`` (what they do), ``hair``, ``clothes``, ``paint`` and
``backdrop`` (what they look like), ``scene`` and ``render`` (pictures), ``clips`` and ``truth`` (what is
known of them), ``writer`` (files).
"""

from safa.synthetic.writer import SyntheticSummary, write_dataset

__all__ = ["SyntheticSummary", "write_dataset"]
