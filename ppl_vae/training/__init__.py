"""How a pair is trained: ``SVI``, the step, the loop of ``fit``, schedules, resuming.

May import: ``common``, ``data``, ``pairs``, ``runs``, ``compile``, ``scoring``, ``objectives``.
"""
