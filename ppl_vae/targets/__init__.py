"""Targets: pairs whose log p(x) is known, with data from the model, on which estimates can be tested.

``pv.targets.names()`` lists them, ``pv.targets.make(name)`` makes one, and ``pv.targets.table()`` tests estimators on
them. A target is a function in the file of its family and a line of ``TARGETS`` in ``common/registry.py``;
``tests/test_targets.py`` holds its answer against another way to it.

May import: ``common``, ``pairs``, ``scoring``, ``likelihood``.
"""

from .accuracy import Accuracy as Accuracy, table as table
from .base import Target as Target, make as make, names as names
