"""A procedural 3D head with FLAME's arrays: the default wherever FLAME is not given. Nothing is downloaded.

Metres; y up, x to the subject's left, z out of the face; the neck's axis at x = 0, the mouth near y = -0.046.
"""

from safa.head.builtin.assemble import BuiltinHead, build
from safa.head.builtin.expressions import EXPRESSIONS
from safa.head.builtin.identities import IDENTITIES

__all__ = ["EXPRESSIONS", "IDENTITIES", "BuiltinHead", "build"]
