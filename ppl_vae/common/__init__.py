"""Small things that all use: errors, numbers, seeds, files, fields of data, ranks, progress.

May import: nothing else of the package. Add here only what at least two other folders need.
"""
