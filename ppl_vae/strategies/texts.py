"""The figures of a study as text: the cells of its table, and the sentences below it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..common.shown import interval
from .statistics import Comparison

Row = Mapping[str, Any]  # of the table, see ``Study.rows``
HEAD = ["strategy", "seeds", "log p(x)", "SE", "SD seeds", "bad k", "difference", "95 %", "p", "verdict"]


# ---- the table


def cells(rows: Iterable[Row]) -> list[list[str]]:
    """The table as text, its head first."""
    found = [HEAD]
    for r in rows:
        numbers = [_shown(r[k], 3) for k in ("log_px", "log_px_se", "sd_seeds")]
        diff, low, high, p, verdict = _of_reference(r)
        ends = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        shown = ["" if diff is None else f"{diff:+.3f}", ends, _p(p), verdict]
        found.append([r["strategy"], str(r["seeds"]), *numbers, _percent(r["unreliable"]), *shown])
    return found


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns one below the other."""
    width = max(len(row[0]) for row in cells)
    line = f"{{:<{width}}}  {{:>5}}{{:>11}}{{:>8}}{{:>9}}{{:>8}}{{:>12}}{{:>18}}{{:>9}}  {{:<12}}"
    return [line.format(*row).rstrip() for row in cells]


def drawn(rows: Sequence[Row]) -> list[list[str]]:
    """The table with each interval as a drawing, on one axis with a line at zero; its ends are in the sentences."""
    head, *body = cells(rows)
    found = [(low, diff, high) for diff, low, high, _, _ in map(_of_reference, rows)]
    reach = max((abs(end) for ends in found for end in ends if end is not None), default=0.0)
    drawings = ["" if diff is None else interval(_end(low), diff, _end(high), reach) for low, diff, high in found]
    at = head.index("95 %")
    return [head, *([*r[:at], d, *r[at + 1 :]] for r, d in zip(body, drawings, strict=True))]


# ---- the sentences


def of_comparisons(found: Iterable[Comparison], slack: Mapping[str, float], comparisons: int) -> list[str]:
    """Each comparison in words, with how many seeds would tell what it does not.

    Args:
        found: against the reference.
        slack: how much higher the mean log p(x) of each strategy may lie, nats.
        comparisons: how many are made at once.
    """
    return [_sentence(one, slack, comparisons) for one in found]


def of_quantities(quantities: Mapping[str, str], reference: str) -> list[str]:
    """The strategies that estimate something else than the reference does."""
    return [
        f"{name} estimates {one}, which is not compared with {quantities[reference]}."
        for name, one in quantities.items()
        if one != quantities[reference]
    ]


def of_unreliable(rows: Iterable[Row], slack: Mapping[str, float]) -> list[str]:
    """The share of examples whose diagnostics doubt their estimate, and what they may hide."""
    return [
        f"{r['strategy']}: {_percent(r['unreliable'])} of its examples are unreliable, and its log p(x) may lie "
        f"{slack[r['strategy']]:.2f} nats higher; intervals allow for that."
        for r in rows
        if r["unreliable"]
    ]


def of_failures(failed: Sequence[tuple[str, int, str]], with_figures: Collection[str]) -> list[str]:
    """Which cells failed, and why; and whose figures are of the others alone."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for name, seed, why in failed:
        reasons.setdefault((name, why), []).append(seed)
    found = [f"{name} failed ({_seeds(seeds)}): {why}" for (name, why), seeds in reasons.items()]
    return found + [
        f"{name}: its figures are those of the seeds that did not fail, which may be the better ones."
        for name in dict.fromkeys(name for name, _, _ in failed)
        if name in with_figures
    ]


def of_tuning(tuned: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The options that were chosen on the validation data."""
    return [
        f"{name}: {', '.join(f'{k}={v}' for k, v in some.items())}, chosen on the validation data."
        for name, some in tuned.items()
    ]


def _sentence(one: Comparison, slack: Mapping[str, float], comparisons: int) -> str:
    if one.verdict == "one seed":
        return f"{one.strategy}: one seed proves nothing about a strategy; train at least three."
    if one.paired is None and one.verdict == "cannot tell":
        return f"{one.strategy} and {one.other} both give an example probability zero."
    if one.paired is None:
        return f"{one.strategy} is {one.verdict} than {one.other}: an example has probability zero."
    ends = f"{one.diff:+.2f} nats, 95 % interval {one.low:.2f} to {one.high:.2f}"
    if one.verdict != "cannot tell":
        return f"{one.strategy} is {one.verdict} than {one.other}: {ends}."
    if one.diff == 0 and one.se == 0:
        return f"{one.strategy} and {one.other} have the same figures."
    hidden = slack[one.other if one.diff > 0 else one.strategy]  # of which the verdict takes no account
    if 0 < abs(one.diff) <= hidden:
        return f"{one.strategy} and {one.other} cannot be told apart: {ends}; unreliable examples may hide as much."
    size = max(abs(one.diff), 0.01)
    seeds = one.paired.seeds_needed(max(size - hidden, 1e-6), comparisons)
    seeds = None if seeds is None else max(seeds, one.paired.num_seeds + 1)
    tell = f"some {seeds} seeds would" if seeds else "on so few examples no number of seeds would"
    return f"{one.strategy} and {one.other} cannot be told apart: {ends}; {tell} tell {size:.2f} nats."


def _of_reference(row: Row) -> tuple[float | None, float | None, float | None, float | None, str]:
    """Difference, ends, p and verdict against the reference, as they are shown: of itself, the verdict alone."""
    diff, low, high, p, verdict = (row[f"{k}_to_reference"] for k in ("diff", "low", "high", "p", "verdict"))
    return (None, None, None, None, verdict) if verdict == "reference" else (diff, low, high, p, verdict)


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _end(value: float | None) -> float:
    """The end of an interval; one that is not known reaches out of the drawing."""
    return math.nan if value is None else value


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
