"""Draws: samples of x, codes and reconstructions, draws from p(z | x) and their calibration, and all of it for ArviZ.

May import: ``common``, ``data``, ``guides``, ``scoring``, ``compile``, ``likelihood``. A method for p(z | x) is a
function and a line of ``METHODS`` in ``posterior.py``, with a line of ``DRAWS`` in ``sbc.py`` to test it; a group for
ArviZ is a key of ``_one_chunk`` in ``arviz.py``.
"""
