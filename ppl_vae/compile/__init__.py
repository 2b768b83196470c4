"""Computations as graphs: traced once for each shape, compiled, and guarded; matrix products.

May import: ``common``.
"""
