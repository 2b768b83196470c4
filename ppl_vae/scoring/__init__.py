"""A pair at work on data: traced once, scored once, as ``Terms``.

May import: ``common``, ``data``. ``trace.py`` is the only file that handles Pyro's effects; ``terms.py`` is what all
objectives and estimators are functions of.
"""
