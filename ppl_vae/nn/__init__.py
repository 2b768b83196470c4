"""Networks, likelihoods p(x | z), and the distributions that torch lacks; estimates of log p(x) are in ``likelihood``.

May import: ``common``. A likelihood is a class in ``likelihoods.py``, a network a function in ``networks.py`` or
``convolutions.py``; each needs a line in ``common/registry.py``. A custom one needs no line: it is passed as
``likelihood=`` or ``network=``.
"""
