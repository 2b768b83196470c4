"""classify: the class of each example, by Bayes' rule from the likelihood of each label."""

from __future__ import annotations

import csv
import io

import typer

from ..common.custom import as_given
from .options import Common, Estimating, JsonOpt, OutOpt, ProposalOpt, RunArg, Source, positive
from .output import print_json
from .runs import open_runs, suffix


def classify(
    run: RunArg,
    *,
    proposal: ProposalOpt = "guide",
    estimating: Estimating,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Write p(y | x) of each class and example to classes.csv, and print how good and how well calibrated they are.

    Each label costs an estimate of log p(x | y): K = 100 is often enough.
    """
    from ..common.files import writable, write_text
    from ..likelihood.classify import classify as classes_of

    positive(num_samples=estimating.num_samples)
    target = writable(out or run)
    [opened] = open_runs([run], common, source, estimating.limit)
    found = classes_of(
        opened.pair, opened.part, num_samples=estimating.num_samples, seed=common.seed, proposal=as_given(proposal),
        progress=True, **estimating.switches(),
    )  # fmt: skip
    text, rows = io.StringIO(), opened.part.rows.tolist()
    labels = ["" for _ in rows] if found.y is None else found.y.tolist()
    head = ["index", "label", "predicted", *(f"log_p({c})" for c in range(found.log_joint.shape[1]))]
    values = found.log_probs.tolist()
    each = zip(rows, labels, found.predicted.tolist(), values, strict=True)
    csv.writer(text, lineterminator="\n").writerows([head, *([i, y, c, *p] for i, y, c, p in each)])
    path = target / f"classes{suffix(run, opened, source, out)}.csv"
    write_text(path, text.getvalue())
    about = {"n": len(rows), "quantity": found.kind, "num_samples": found.num_samples, "seed": found.seed}
    print_json({**about, **found.measured(), "csv": str(path)}) if json_ else typer.echo(f"{found}\n{path}")
