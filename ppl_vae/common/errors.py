"""Errors that a user can fix: one line with what is wrong, where, and how to fix it."""

from __future__ import annotations


class UserError(ValueError):
    """An error of the input, not of the library; the command line prints it and exits with 2."""

    def __str__(self) -> str:
        # always one line: Pyro appends the shapes of a trace to whatever is raised inside a program
        return (super().__str__().splitlines() or [""])[0]


class DataError(UserError):
    """A data set that is missing, broken, or outside the support of the likelihood."""


class PairError(UserError):
    """A model and a guide that break the contract of a pair; names the site."""


class NoWeightError(PairError):
    """A pair that keeps the contract but has no importance weights, so no log p(x) to estimate."""


class RunError(UserError):
    """A run folder that cannot be read, resumed or written; nothing in it was changed."""


class NonFiniteError(UserError):
    """A NaN or an infinity in a loss, a gradient or a weight; names the step, the site and the data."""


class RankError(RuntimeError):
    """Another process of the job was lost, or does other work; not an error of the input."""
