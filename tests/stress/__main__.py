"""``python -m stress``: all of it, a record (JSON), and the page of the docs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from stress.damage import data, runs  # noqa: E402
from stress.jobs import JOBS  # noqa: E402
from stress.kills import kills  # noqa: E402
from stress.places import SCENES, places  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; the number of things that did not hold."""
    options = parse(argv)
    began, found = time.monotonic(), {}
    os.environ["OMP_NUM_THREADS"] = "1"
    quick = options.quick
    kept = 3 if quick else options.kills
    files = 40 if quick else options.files
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that read damaged files
        parts = {
            "kills": lambda root: kills(kept, options.seed, root, ("evaluate", "ais") if quick else tuple(JOBS)),
            "run files": lambda root: runs(files, options.seed, root),
            "data files": lambda root: data(files, options.seed, root),
            "places": lambda root: places(root, ("no room for a command",) if quick else tuple(SCENES)),
        }
        for name, part in parts.items():
            if name in options.only:
                (root := Path(place) / name.replace(" ", "-")).mkdir()
                found[name] = part(root)
    wrong = faults(found)
    about = {"seed": options.seed, "minutes": round((time.monotonic() - began) / 60, 1), **machine()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "stress.json").write_text(json.dumps({**about, "found": found, "wrong": wrong}, indent=1) + "\n")
    (options.out / "stress.md").write_text(page(about, found, wrong))
    for line in wrong:
        print(f"wrong: {line}")
    return len(wrong)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100, help="%(default)s")
    parser.add_argument(
        "--files", type=int, default=1000, help="damaged run folders, and damaged data files: %(default)s"
    )
    parser.add_argument("--only", nargs="*", default=["kills", "run files", "data files", "places"])
    parser.add_argument("--quick", action="store_true", help="few of each, in seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "stress")
    return parser.parse_args(argv)


def machine() -> dict[str, str]:
    """What it ran on."""
    from importlib.metadata import version

    versions = {name: version(name) for name in ("torch", "pyro-ppl")}
    return {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), **versions}


def faults(found: dict[str, Any]) -> list[str]:
    """A line for everything that did not hold."""
    wrong = []
    for name, row in found.get("kills", {}).items():
        if row["equal"] < row["runs"] or row["left over"] or row["failed"]:
            wrong.append(f"kills, {name}: {row}")
    wrong += [f"run files: {line}" for line in found.get("run files", {}).get("wrong", [])]
    wrong += [f"{kind}: {line}" for kind, row in found.get("data files", {}).items() for line in row["wrong"]]
    held = {name: text for name, text in found.get("places", {}).items() if text != "held"}
    return wrong + [f"{name}: {text}" for name, text in held.items() if not text.startswith("not here")]


def page(about: dict[str, Any], found: dict[str, Any], wrong: list[str]) -> str:
    """The record as Markdown."""
    facts = f"{about['system']}, Python {about['python']}, torch {about['torch']}, Pyro {about['pyro-ppl']}"
    lines = [f"`make stress`, seed {about['seed']}, {about['minutes']:g} minutes on {facts}.", ""]
    if rows := found.get("kills"):
        head = ("kill -9 of", "kills", "runs that came to their end", "equal to the bit")
        lines += table(head, [(name, r["kills"], r["runs"], r["equal"]) for name, r in rows.items()])
    if row := found.get("run files"):
        head = ("damaged", "refused in a line", "as before", "read as other settings", "taken wrongly")
        counts = [row[key] for key in ("files", "refused", "as before", "other settings")]
        lines += table(head, [(f"{counts[0]} run folders", *counts[1:], len(row["wrong"]))])
    if rows := found.get("data files"):
        head = ("damaged data files", "files", "refused in a line", "read", "wrong")
        lines += table(head, [(k, r["files"], r["refused"], r["read"], len(r["wrong"])) for k, r in rows.items()])
    if rows := found.get("places"):
        lines += table(("place", ""), list(rows.items()))
    return "\n".join([*lines, *(f"- **wrong:** {line}" for line in wrong)]).rstrip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table, whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [*("| " + " | ".join(map(str, line)) + " |" for line in lines), ""]


if __name__ == "__main__":
    sys.exit(min(1, main()))
