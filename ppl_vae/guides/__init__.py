"""Families of q(z | x): each file turns features (*, F) into a Pyro distribution with event shape (latent,).

May import: ``common``, ``nn``. A family is an ``nn.Module``, ``family(features, latent, **options)``, in a file here
and a line in ``common/registry.py``; a custom one needs no line: it is passed as ``guide=``.
"""
