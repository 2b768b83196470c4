"""The run folder: a trained pair on disk as JSON and safetensors, and the partial results of unfinished work.

May import: ``common``, ``pairs``. Nothing that is read here can run code. To add a fact about a pair to
``config.json``, write it in ``folder.py`` (``_about`` and ``load``); a kind of tensor, in ``state.py``.
"""
