"""A page for each pair: docs/pairs/NAME.md, written by hand, among what is read from the code when the pages are built.

By hand: the title, the story, when to use the pair, its limits. From the code: the graph, formula and reference, the
programs, options, objectives, the command. From docs/pairs/measured.json, which measure.py writes: the figure.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import textwrap
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch

from ppl_vae.common.registry import FAMILIES, OBJECTIVES
from ppl_vae.pairs.options import Builder, convert, flag, read, shown

DOCS = Path(__file__).resolve().parents[1]
RECORD = DOCS / "pairs" / "measured.json"
CSS = """\
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(13em, 1fr)); gap: 1em; }
.gallery img { width: 100%; height: 13em; object-fit: contain; }
td code { white-space: nowrap; }
"""


def arguments(command: str) -> dict[str, str]:
    """The options of a command, by name.

    >>> arguments("ppl-vae train vae --latent 2 --batch-size 64")
    {'latent': '2', 'batch_size': '64'}
    """
    words = [*shlex.split(command), ""]
    return {a.removeprefix("--").replace("-", "_"): b for a, b in pairwise(words) if a.startswith("--")}


@functools.cache
def data_of(name: str) -> Any:
    """The data that a command names."""
    import ppl_vae as pv

    return pv.load_data(name)


def settings(text: str) -> dict[str, str]:
    """The first lines of a page, between two lines of dashes.

    ``picture`` is the figure of the run that is shown.

    >>> settings("---\\npicture: khat\\n---\\n# A pair")
    {'picture': 'khat'}
    """
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return dict(re.findall(r"^(\w+): (.+)$", found[1], re.MULTILINE)) if found else {}


def small(builder: Builder) -> tuple[Any, Any]:
    """The pair that a builder's command trains, untrained, and a few of its data."""
    import torch

    import ppl_vae as pv
    from ppl_vae.scoring.quantity import settled

    given = arguments(builder.command)
    data = data_of(given.get("data", "digits"))
    options = convert(builder, {name: text for name, text in given.items() if name in builder.options})
    torch.manual_seed(0)
    pair = pv.build(builder.name, data=data, **options)
    return pair, settled(pair, data).test.limit(3).fixed(0)


def graph(pair: Any, few: Any) -> str:
    """The graph of a pair, as SVG within the page."""
    from ppl_vae.figures import graph as drawn

    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ppl_vae"}):
        drawn(pair, few.x, few.y).savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"\n\s*\n", "\n", svg[svg.index("<svg") :])
    return f'```{{raw}} html\n<div role="img" aria-label="graph of model and guide">{svg}</div>\n```\n'


def programs(pair: Any) -> str:
    """The first line of the docstrings of model and guide: the statements of the programs."""
    lines = {role: (type(getattr(pair, role)).__doc__ or "").split("\n")[0] for role in ("model", "guide")}
    return "\n".join(f"- {role}: `{line.rstrip('.').replace('``', '')}`" for role, line in lines.items() if line)


def objectives(pair: Any, few: Any) -> str:
    """Which objectives train a pair, by trying each on a few data."""
    import ppl_vae as pv

    taken, partly, refused = [], [], []
    for name in OBJECTIVES:
        objective = pv.objective(name)
        try:
            pv.check_pair(pair.model, pair.guide, few.x, few.y, objective=objective)
            (taken if _trains_all(pair, few, objective) else partly).append(f"`{name}`")
        except (pv.UserError, NotImplementedError):
            refused.append(f"`{name}`")
    says = f"[Objectives](../objectives.md) that train it: {', '.join(taken) or 'none of them'}."
    says += f" Those that train a part of its parameters: {', '.join(partly)}." if partly else ""
    return says + (f" Those that refuse it: {', '.join(refused)}." if refused else "")


def _trains_all(pair: Any, few: Any, objective: Any) -> bool:
    """Whether every parameter has a gradient."""
    from ppl_vae.common.rng import forked
    from ppl_vae.scoring import trace

    parameters = [p for p in pair.parameters() if p.requires_grad]
    with forked():
        loss = objective.differentiable_loss(pair.model, pair.guide, *trace.call_args(pair.model, few.x, few.y))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return all(g is not None for g in found)


def table(builder: Builder) -> str:
    """The options of a builder."""
    rows = [f"| `{flag(o.name)}` | `{shown(o.default)}` | {_cell(o.help)} |" for o in builder.options.values()]
    return "\n".join(["| option | default | |", "| --- | --- | --- |", *rows])


def _cell(text: str) -> str:
    return re.sub(r"[|*]", r"\\\g<0>", text.replace("``", "`"))


def measured(name: str, shown_as: str) -> str:
    """What the command of a pair gave: a sentence, and a picture."""
    record = json.loads(RECORD.read_text()).get(name)
    if record is None:
        return "It was not run yet: `make pairs` does."
    figure = f"an ELBO of {record['elbo']:.2f} nats, and no log p(x)"
    if record["log_px"] is not None:
        figure = f"{record['quantity'] or 'log p(x)'} = {record['log_px']:.2f} ± {record['log_px_se']:.2f} nats"
    processor = record["processor"].removeprefix("AuthenticAMD ")
    return f"""\
On the {record["n"]} test examples this gives **{figure}**. It takes {record["seconds"]} s of processor time on an
{processor} (torch {record["torch"]}, commit {record["commit"]}).

![{shown_as} of {name}](../images/pairs/{name}.png)

The picture is `{shown_as}.png` of the run."""


def page(name: str, text: str) -> str:
    """The whole page of a pair, in Markdown, from what is written by hand."""
    builder = read(name)
    pair, few = small(builder)
    shown_as = settings(text).get("picture", "samples")
    story, _, rest = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).partition("\n## ")
    return f"""{story}
## Graph and programs

{graph(pair, few)}
{programs(pair)}

## Formula and reference

```{{eval-rst}}
{builder.about}
```

## {rest}
## Options

{table(builder)}

{objectives(pair, few)}

## A run

```bash
{wrapped(builder.command)}
```

{measured(name, shown_as)}
"""


def wrapped(command: str) -> str:
    """A command in lines that need no scrolling."""
    return " \\\n".join(
        textwrap.wrap(command, 84, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    )


def gallery() -> str:
    """A picture of each pair, family by family, with links."""
    parts = []
    for family, names in FAMILIES.items():
        parts += [f"## {family[0].upper()}{family[1:]}\n", "````{container} gallery"]
        for name in names:
            there = (DOCS / "images" / "pairs" / f"{name}.png").exists()
            link = f"[![{name}](images/pairs/{name}.png)](pairs/{name}.md)\n\n" if there else ""
            parts.append(f"```{{container}} cell\n{link}[{name}](pairs/{name}.md): {read(name).summary}\n```")
        parts.append("````\n")
    return "\n".join(parts)


def expand(app: Any, docname: str, source: list[str]) -> None:
    """Put what is read from the code into a page."""
    if docname == "gallery":
        source[0] = f"{source[0]}\n{gallery()}\n"
    elif docname.startswith("pairs/"):
        source[0] = page(docname.removeprefix("pairs/"), source[0])


def ship(app: Any) -> None:
    """Write the style sheet beside the pages."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    (static / "pages.css").write_text(CSS)


def setup(app: Any) -> dict[str, bool]:
    """Before the pages are parsed."""
    app.add_css_file("pages.css")
    app.connect("builder-inited", ship)
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
