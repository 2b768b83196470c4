"""Pairs of a model p(z) p(x | z) and a guide q(z | x), one file a family.

May import: ``common``, ``nn``, ``guides``, ``priors``. A pair is a file here and a line in ``common/registry.py``; a
custom one needs no line: its builder is passed to ``build``, or is FILE.py:NAME on the command line.
"""
