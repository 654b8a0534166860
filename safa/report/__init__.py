"""The report of an evaluation: one HTML page that opens from disk, with its videos beside it.

``content`` is what goes in, ``words`` says settings in plain words, ``charts`` lays out curves, ``page``
fills the template. The page loads nothing from a network, and everything that comes from data is escaped.
"""
