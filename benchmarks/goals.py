"""What the library set out to reach, as ratios within one run, and what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .stats import ratio, slope

SVI = "ppl_vae, `pv.SVI(capture=True).step`"
FIT = "ppl_vae, `pv.fit`"
LIKELIHOOD = "ppl_vae, `pv.log_likelihood`"


class Goal(NamedTuple):
    """``peer / ours`` of the seconds of a round, at least ``least``; several peers: the fastest counts."""

    section: str
    what: str
    ours: str
    peers: tuple[str, ...]
    least: float


class Verdict(NamedTuple):
    """One line of the table of goals."""

    what: str
    goal: str
    measured: float | None
    met: bool | None


PYTHAE = ("pythae, `get_nll(batch_size=100)`", "pythae, `get_nll(batch_size=5000)`")
GOALS = [
    goal
    for ours in (SVI, FIT)
    for goal in (
        Goal("training mlp", "images/s over NumPyro's jitted epoch", ours, ("NumPyro, jitted epoch",), 1.2),
        Goal("training mlp", "images/s over stock `pyro.infer.SVI`", ours, ("Pyro, `pyro.infer.SVI`",), 3.5),
        Goal("training mlp", "images/s over pythae's trainer", ours, ("pythae, `BaseTrainer`",), 4.0),
        Goal("training mlp", "images/s over eager PyTorch by hand", ours, ("PyTorch by hand, eager",), 1.0),
    )
] + [
    Goal("likelihood", "time of pythae's `get_nll`, the faster setting, over ours", LIKELIHOOD, PYTHAE, 6.0),
    Goal(
        "likelihood", "time of looped `vectorized_importance_weights` over ours", LIKELIHOOD,
        ("Pyro, `vectorized_importance_weights`, looped",), 2.5,
    ),
]  # fmt: skip
MEMORY, LINEAR = 1.10, 1.05
COLD = ("ppl_vae, `pv.fit`", "NumPyro, jitted epoch")


def verdicts(record: Mapping[str, Any]) -> list[Verdict]:
    """Every goal of the sections that were run."""
    sections = record["sections"]
    found = [judge(goal, sections[goal.section]["rows"]) for goal in GOALS if goal.section in sections]
    if "cold" in sections:
        for key in ("5", "30", "nll"):
            ours, peer = (sections["cold"]["rows"][n]["seconds"].get(key) for n in COLD)
            measured = ratio(peer, ours).medians if ours and peer else None
            until = "to NLL 95" if key == "nll" else f"{key} epochs"
            what = f"seconds of NumPyro over ours, from a cold start {until}: `pv.fit`"
            found.append(Verdict(what, ">= 1", measured, None if measured is None else measured >= 1))
    if "memory" in sections:
        m = sections["memory"]
        grown = m["peak"][-1] / m["peak"][0]
        what = f"peak memory at K = {m['sizes'][-1]:,} over K = {m['sizes'][0]:,}"
        found.append(Verdict(what, f"<= {MEMORY:.2f}", grown, grown <= MEMORY))
    if "growth" in sections:
        for name, of in (("data", "N"), ("samples", "K")):
            g = sections["growth"][name]
            exponent = slope(g["sizes"], g["seconds"])
            span = f"{of} from {g['sizes'][0]:,} to {g['sizes'][-1]:,}"
            what = f"exponent of the cost of `pv.log_likelihood`, {span}"
            found.append(Verdict(what, f"<= {LINEAR:.2f}", exponent, exponent <= LINEAR))
    return found


def judge(goal: Goal, rows: Mapping[str, Any]) -> Verdict:
    """A goal by the rows of its section; None where a contender did not run."""
    what = f"{goal.what}: {goal.ours.split(', ')[1]}"
    ours = rows.get(goal.ours, {}).get("seconds")
    peers = [found for name in goal.peers if (found := rows.get(name, {}).get("seconds"))]
    if not ours or not peers:
        return Verdict(what, f">= {goal.least:g}", None, None)
    measured = min(ratio(peer, ours).medians for peer in peers)
    return Verdict(what, f">= {goal.least:g}", measured, measured >= goal.least)
