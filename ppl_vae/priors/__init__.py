"""Families of p(z): each file has a module that returns a Pyro distribution with event shape (latent,).

May import: ``common``, ``nn``, ``guides``. A family is an ``nn.Module``, ``family(latent, **options)``, in a file here
and a line in ``common/registry.py``; a custom one is passed as ``prior=``. Vamp is given the guide by
``make_prior``.
"""
