"""What people have, as tensors: sets with their splits, readers of files and tables, batches.

May import: ``common``. A named data set is a line in ``common/registry.py`` and a reader in ``readers.py``,
with a line in its table ``NAMED``.
"""
