"""Objectives: functions of ``Terms`` that train a pair, one idea a file.

May import: ``common``, ``scoring``. An objective is a file here and a line in ``common/registry.py``; a custom one
needs no line: ``pv.Objective(lambda t: ...)``.
"""
