"""Families of q(z | x): each file turns features (*, F) into a Pyro distribution with event shape (latent,).

May import: ``common``, ``nn``. A family is a module ``family(features, latent, **options)`` in a file here and a line
in ``common/registry.py``; a family of a user's needs no line: it is handed over as ``guide=``.
"""
