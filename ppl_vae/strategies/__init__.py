"""Comparisons of trained pairs: which difference is real.

May import: ``common``, ``likelihood``.
"""
