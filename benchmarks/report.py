"""A record as Markdown: the goals, a table a section, the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .goals import LIKELIHOOD, SVI, verdicts
from .stats import ratio, slope, spread

# contenders that compute the same thing differ by seeds alone, and more so after few steps
TOLERANCE, TOLERANCE_QUICK = 0.03, 0.06
TRAINED, ESTIMATED = "PyTorch by hand, eager", "PyTorch by hand, in chunks"  # what the others must agree with


def markdown(record: Mapping[str, Any]) -> str:
    """The whole report."""
    sections = record["sections"]
    parts = [about(record)]
    if record["options"]["quick"]:
        parts.append("**A smoke run: its figures are worth nothing.**")
    goals = verdicts(record)
    if goals:
        body = [[v.what, v.goal, "-" if v.measured is None else f"{v.measured:.2f}", mark(v.met)] for v in goals]
        parts.append(table(["measure", "goal", "measured", ""], body))
    for name, section in sections.items():
        if name.startswith("training"):
            parts.append(training(name, section, record["options"]))
        elif name == "likelihood":
            parts.append(likelihood(section, record["options"]))
        elif name == "cold":
            parts.append(cold(section))
        elif name == "startup":
            parts.append(startup(section))
        elif name == "growth":
            parts.append(growth(section))
        elif name == "memory":
            parts.append(memory(section))
    return "\n\n".join(parts) + "\n"


def about(record: Mapping[str, Any]) -> str:
    """The date, the machine, the versions and the command."""
    m = record["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    return (
        f"{record['date']}, {m['cpu']}{used(record)}, {record['options']['threads']} of {m['cores']} cores, "
        f"{m['memory_gib']} GiB, "
        f"{m['system']}, Python {m['python']}; {versions}; commit {m['commit'] or 'unknown'}. `{record['command']}`\n\n"
        "Medians [quartiles] over rounds in which the contenders took turns. A ratio is the time of the row over that "
        "of the first row, of medians and [quartiles of the ratios round by round]: above 1, the row is slower."
        + precision(record["sections"])
    )


def used(record: Mapping[str, Any]) -> str:
    """The vector instructions that were used; earlier records do not say."""
    has = record["machine"].get("vectors")
    if not has:
        return ""
    return f" ({has}, held to AVX2)" if record["options"].get("avx2") and has != "AVX2" else f" ({has})"


def precision(sections: Mapping[str, Any]) -> str:
    """The matmul setting of our rows and what it costs in accuracy; nothing where none ran."""
    for section in sections.values():
        for row in section.get("rows", {}).values():
            if row["ours"] and row.get("torch"):
                setting = row["torch"]
                return (
                    f" float32 matmul precision: {setting['matmul']} for ppl_vae and PyTorch by hand (relative error "
                    f"of a product of 512 x 512 matrices: {setting['product_error']:.1e}), torch's default for others."
                )
    return ""


def training(name: str, section: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Milliseconds a step, images a second, the loss that all must share."""
    steps, batch, rows = section["steps"], options["batch"], section["rows"]
    tolerance = TOLERANCE_QUICK if options["quick"] else TOLERANCE
    body = []
    for who, row in rows.items():
        if not row["seconds"]:
            body.append([who, *["failed"] + [""] * 5])
            continue
        cells = [
            bold(who, row),
            spaced([1e3 * s / steps for s in row["seconds"]]),
            f"{steps * batch / median(row['seconds']):,.0f}",
            *compared(rows, SVI, row),
            value(row, rows.get(TRAINED), tolerance),
            f"{row['setup'] + row['first']:.1f}",
        ]
        body.append(cells)
    head = ["", "ms a step", "images/s", "ratio", "paired", f"loss in round {options['rounds']}", "first round, s"]
    title = {"mlp": "784-400-50 softplus MLP", "conv": "convolutions of 32 and 64 channels, latent 50, softplus"}
    network = name.split()[1]
    return f"### Training: {title[network]}, batch {batch}, {steps} steps a round\n\n{table(head, body)}"


def likelihood(section: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Milliseconds a datum, and the mean log p(x) that all must share."""
    rows, body = section["rows"], []
    for who, row in rows.items():
        if not row["seconds"]:
            body.append([who, *["failed"] + [""] * 4])
            continue
        ms = spaced([1e3 * s / options["images"] for s in row["seconds"]])
        body.append([bold(who, row), ms, *compared(rows, LIKELIHOOD, row), value(row, rows.get(ESTIMATED), TOLERANCE),
                     f"{row['first']:.1f}"])  # fmt: skip
    head = ["", "ms a datum", "ratio", "paired", "log p(x)", "first round, s"]
    return f"### Likelihood: K = {options['num_samples']:,}, {options['images']} images\n\n{table(head, body)}"


def cold(section: Mapping[str, Any]) -> str:
    """Seconds from the start of a process to the end of so many epochs, and to an NLL."""
    asked = {k for row in section["rows"].values() for k in row["seconds"]}
    keys = [k for k in ("1", "5", "30", "nll") if k in asked]
    body = []
    for who, row in section["rows"].items():
        absent = "failed" if "error" in row else "-"
        cells = [timed(row["seconds"][k]) if row["seconds"].get(k) else absent for k in keys]
        body.append([bold(who, row), *cells, ", ".join(map(str, sorted(set(row.get("epochs", []))))) or "-"])
    titles = ["NLL 95" if k == "nll" else f"{k} epoch{'s' if k != '1' else ''}" for k in keys]
    head = ["s from the start of a process", *titles, "epochs to NLL 95"]
    return "### From a cold start: MNIST, 784-400-50, batch 128\n\n" + table(head, body)


def timed(values: Sequence[float]) -> str:
    """A median with its quartiles; of one round the number alone."""
    return spaced(values) if len(values) > 1 else f"{values[0]:.3g} (one round)"


def startup(section: Mapping[str, Any]) -> str:
    """Seconds of a fresh process."""
    body = [
        [bold(who, row), spaced(row["seconds"]) if row["seconds"] else "failed"] for who, row in section["rows"].items()
    ]
    return "### A fresh process\n\n" + table(["", "s"], body)


def growth(section: Mapping[str, Any]) -> str:
    """Seconds for each size, and the exponent."""
    body = []
    for name, g in section.items():
        sizes = ", ".join(f"{n:,}: {s:.3g}" for n, s in zip(g["sizes"], g["seconds"], strict=True))
        last = slope(g["sizes"][-2:], g["seconds"][-2:])
        body.append([name, sizes, f"{slope(g['sizes'], g['seconds']):.2f}", f"{last:.2f}"])
    head = ["", "size: s", "exponent", "between the last two"]
    return "### Growth of `pv.log_likelihood`\n\n" + table(head, body)


def memory(section: Mapping[str, Any]) -> str:
    """Peak memory for each K."""
    columns = zip(section["sizes"], section["before"], section["peak"], strict=True)
    body = [[f"{k:,}", f"{before:,.0f}", f"{peak:,.0f}"] for k, before, peak in columns]
    return "### Memory of `pv.log_likelihood`, 16 images\n\n" + table(["K", "MiB before", "MiB at the peak"], body)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left, the others right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def compared(rows: Mapping[str, Any], ours: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """The ratio of a row's seconds to those of our first row, of medians and paired."""
    base = rows.get(ours, {}).get("seconds")
    if not base:
        return "", ""
    r = ratio(row["seconds"], base)
    return f"{r.medians:.2f}", f"{r.paired.median:.2f} [{r.paired.low:.2f}, {r.paired.high:.2f}]"


def value(row: Mapping[str, Any], reference: Mapping[str, Any] | None, tolerance: float) -> str:
    """What the row computed in its last round, and a word where it is not what the reference computed."""
    mine = row["values"][-1]
    if reference is None or not reference["values"]:
        return f"{mine:.2f}"
    theirs = reference["values"][-1]
    return f"{mine:.2f}" + ("" if abs(mine - theirs) <= tolerance * abs(theirs) else " **not the same**")


def spaced(values: Sequence[float]) -> str:
    s = spread(values)
    return f"{s.median:.3g} [{s.low:.3g}, {s.high:.3g}]"


def bold(who: str, row: Mapping[str, Any]) -> str:
    return f"**{who}**" if row["ours"] else who


def mark(met: bool | None) -> str:
    return "not run" if met is None else "met" if met else "missed"
