"""Networks, likelihoods p(x | z), and the distributions that torch lacks.

May import: ``common``. A likelihood is a class in ``likelihoods.py``, a network a function in ``networks.py`` or
``convolutions.py``, each with a line in ``common/registry.py``.
"""
