"""Data as tensors: sets and their splits, readers of files, images and tables, batches.

``sets`` has ``load_data``; ``readers`` chooses a reader by the form of the source; ``convert`` makes tensors of every
form; ``batches`` are those of training. May import: ``common``. To add a named data set, write a reader in
``named.py`` with a line in its ``READERS``, and a line of help in ``common/registry.py``.
"""
