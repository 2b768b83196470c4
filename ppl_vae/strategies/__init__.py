"""Strategies, how pairs are trained, and which difference between them, or between trained pairs, is real.

May import: ``common``, ``data``, ``scoring``, ``pairs``, ``runs``, ``objectives``, ``training``, ``likelihood``,
``draws``, ``reports``. Start at ``study``; the statistics are in ``statistics``.
"""
