"""Families of q(z | x): each file turns features into a distribution.

May import: ``common``, ``nn``. A guide is a module ``features -> distribution``; a file here gives it a name.
"""
