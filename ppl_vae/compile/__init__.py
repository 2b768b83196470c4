"""Computations as graphs: traced once for each shape, compiled, and guarded; the precision of matrix products.

May import: ``common``. A faster form of an operation is a function and a line: of ``CPU`` in ``decompositions.py`` for
a graph, of ``REPLACEMENTS`` in ``in_place.py`` outside of one. What a new graph must be made for is compared in
``guards.py``; a precision is a line of ``products`` in ``products.py``.
"""
