"""Reports: a study, or the evaluation of a run, as one HTML file that needs nothing else.

May import: everything but ``cli`` and ``strategies``. What a report says is in ``study.py`` and ``run.py``, how it
looks in ``templates``, and ``page.py`` turns the one into the other.
"""
