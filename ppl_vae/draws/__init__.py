"""Draws: samples of x, codes and reconstructions, draws from p(z | x), and all of it for ArviZ.

May import: ``common``, ``data``, ``scoring``, ``compile``, ``likelihood``.
"""
