"""The command line: arguments to the functions of the package, one file a group of commands.

May import: everything. Nothing heavy is imported before a command runs.
"""
