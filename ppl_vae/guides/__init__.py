"""Families of q(z | x): each file turns features (*, F) into a Pyro distribution with event shape (latent,).

May import: ``common``, ``nn``. A family is an ``nn.Module``, ``family(features, latent, **options)``, in a file here
and a line in ``common/registry.py``. A custom one needs no line: it is passed as ``guide=``. In ``refined.py`` is
no family but a guide for given data, with a Gaussian for each example.
"""
