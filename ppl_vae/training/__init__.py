"""How a pair is trained: ``SVI``, the step, the loop of ``fit``, schedules, resuming.

May import: ``common``, ``data``, ``pairs``, ``runs``, ``compile``, ``scoring``, ``objectives``. A step runs through
``loop.py`` (the epochs), ``trainer.py`` (schedules, shards), ``svi.py`` (the step), ``gradients.py`` or
``step_graph.py`` (the loss and its gradient, eager or captured) and ``step.py`` (the guarded update). To add an
option of ``fit``, write a line of ``config.py``; a named schedule or optimiser, a line of the table in
``schedules.py`` or ``optimisers.py``.
"""
