"""What all folders share: errors, numbers, seeds, files, data fields, ranks, progress, tables, the registry of names.

May import: nothing else of the package. A name and its line of help are added to ``registry.py``; anything else only
where at least two folders need it.
"""
