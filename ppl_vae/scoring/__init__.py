"""The log densities of a pair on data: each program traced once and scored once, as ``Terms``.

May import: ``common``, ``data``. ``trace.py`` is the only file that uses Pyro's handlers; objectives and estimators are
functions of ``Terms`` in ``terms.py``. A refusal of what has no log p(x) is a function in ``validity.py``, one of a
guide on another support in ``coverage.py``; a new kind of support is a line of the tables of ``domains.py``.
"""
