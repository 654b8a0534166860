"""Records that stand in for classes which are not imported."""

from __future__ import annotations


class InertRecord:
    """Stands in for a class we do not import: keeps the attributes, has no behaviour."""


class ChumpyArray(InertRecord):
    """``chumpy.ch.Ch``; the numbers are in attribute ``x``."""


class SparseMatrix(InertRecord):
    """``scipy.sparse`` matrix: ``data`` and ``_shape``, and where each number stands."""


class SparseColumns(SparseMatrix):
    """Compressed by column (csc): ``indices``, ``indptr``."""


class SparseRows(SparseMatrix):
    """Compressed by row (csr): ``indices``, ``indptr``."""


class SparseTriples(SparseMatrix):
    """Row, column and number of each entry (coo): ``coords``, or ``row`` and ``col`` in older files."""
