"""A pair as a code: description length, and lossless compression at that length.

May import: ``common``, ``scoring``, ``likelihood``.
"""
