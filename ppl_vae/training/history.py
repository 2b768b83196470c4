"""The history of a fit: a list of rows that prints as a table, and draws itself in a notebook."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex, overload

from ..common.shown import Drawing, Shown, sparkline

SHOWN = 20  # rows in print; of more, the first and the last
PLACES = {"seconds": ".1f", "train_seconds": ".1f", "beta": "g", "lr": "g"}
BOUNDS = ("train_bound", "valid_bound", "valid_elbo")


class History(Shown, list[dict[str, Any]]):
    """A list with a dictionary for each epoch, which :func:`~ppl_vae.fit` returns.

    It is a list in every way: it compares, slices, and is written as JSON as one. It prints as a table, and
    ``pv.figures.loss_curves`` draws it. A row has epoch, step, train_bound, valid_bound and valid_elbo (nats per
    example), beta, lr and seconds, see :func:`~ppl_vae.fit`.

    Example:
        >>> rows = [{"epoch": 1, "train_bound": -30.0, "lr": 0.001}, {"epoch": 2, "train_bound": -25.0, "lr": 0.001}]
        >>> History(rows)
        epoch  train_bound     lr
            1      -30.000  0.001
            2      -25.000  0.001
        >>> History(rows) == rows, History(rows)[-1]["train_bound"]
        (True, -25.0)
    """

    @overload
    def __getitem__(self, at: SupportsIndex) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> History: ...
    def __getitem__(self, at: SupportsIndex | slice) -> dict[str, Any] | History:
        found = super().__getitem__(at)
        return History(found) if isinstance(found, list) else found

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame`` with the epoch as its index.

        Example:
            >>> History([{"epoch": 1, "train_bound": -30.0}]).to_pandas().train_bound[1].item()
            -30.0
        """
        import pandas as pd

        frame = pd.DataFrame(list(self))
        return frame.set_index("epoch") if "epoch" in frame else frame

    def cells(self) -> list[list[str]]:
        """The table as text, its head first; of a long one the first and the last epochs."""
        head = list(dict.fromkeys(key for row in self for key in row))
        rows = [[_text(key, row.get(key)) for key in head] for row in self]
        if len(rows) > SHOWN:
            rows = [*rows[: SHOWN // 2], ["..."] * len(head), *rows[-SHOWN // 2 :]]
        return [head, *rows] if rows else []

    def drawn_notes(self) -> list[str]:
        """A line for each bound by epoch."""
        curves = {key: [math.nan if row.get(key) is None else float(row[key]) for row in self] for key in BOUNDS}
        if curves["valid_bound"] == curves["valid_elbo"]:  # where beta is 1
            del curves["valid_bound"]
        drawn = {key: sparkline(values, key) for key, values in curves.items()}
        return [
            Drawing(f"{line} {key} by epoch, {curves[key][-1]:.3f} at the end") for key, line in drawn.items() if line
        ]

    def __str__(self) -> str:
        return super().__str__() if self else "no epoch"


def _text(key: str, value: Any) -> str:
    """A value of a row, in as many places as a reader needs."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(_text("lr", v) for v in value)
    return format(value, PLACES.get(key, ".3f")) if isinstance(value, float) else str(value)
