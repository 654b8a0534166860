"""Reports: HTML pages that open from disk, with their videos beside them.

``page`` is the page of an evaluation, ``compare`` puts evaluations side by side, ``dataset_page`` is the
page of a data set. ``content`` holds what a report is made of, ``describe`` says settings in words,
``charts`` lays out curves, ``views`` holds what templates take. Pages load nothing from a network, and
everything that comes from data is escaped.
"""
