"""log p(x) for each datum: proposals, estimators, their errors and diagnostics, annealing, bounds.

May import: ``common``, ``data``, ``runs``, ``scoring``, ``compile``. An estimator is a function of log weights in
``estimators.py``, a proposal one in ``proposals.py``.
"""
