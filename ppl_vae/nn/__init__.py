"""Networks, likelihoods p(x | z), and the distributions that torch lacks.

May import: ``common``. A likelihood is a class in ``likelihoods.py``, a network a row of a table in ``networks.py``.
"""
