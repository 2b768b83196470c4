"""log p(x) of each example: proposals, estimators, their errors and diagnostics, annealing, bounds.

``log_likelihood`` is in ``estimate.py``; ``streaming.py`` draws sample chunks and ``accumulator.py`` adds them up.
``refine.py`` fits a guide to each example; ``staged.py`` is the proposal "auto".

May import: ``common``, ``data``, ``nn``, ``guides``, ``runs``, ``scoring``, ``compile``. An estimator is a function of
log weights and a line of the table in ``estimators.py``, a proposal the same in ``proposals.py``; both need their
sentence in ``common/registry.py``. A custom one needs no line: it is passed as it is.
"""
