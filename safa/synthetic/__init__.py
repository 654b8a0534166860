"""A synthetic talking-head data set: rendered people who talk, blink, turn and lean, all from a seed.

``people`` chooses who they are, ``motion`` and ``performance`` how they move; ``hair``, ``clothes``,
``painted_mesh`` and ``backdrop`` give them their looks; ``scene`` and ``render`` make the frames; ``truth``
has the exact head codes, landmarks and clips; ``writer`` writes the files.
"""

from safa.synthetic.writer import SyntheticSummary, write_dataset

__all__ = ["SyntheticSummary", "write_dataset"]
