"""Train each pair by the command of its page, and keep the picture and the figure that the page shows.

python docs/pairs/measure.py [NAME ...]    # or make pairs PAIRS="vae linear"; without a name, those whose figure is old

Writes docs/images/pairs/NAME.png and docs/pairs/measured.json. `tests/test_pages.py` holds both against the commands.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "docs" / "extensions")]

from figures import machine  # noqa: E402
from pages import RECORD, settings  # noqa: E402

from ppl_vae.cli.app import app  # noqa: E402
from ppl_vae.common.registry import PAIRS  # noqa: E402
from ppl_vae.pairs.options import read  # noqa: E402

WIDTH, COLOURS = 480, 32  # of a picture: pixels, and shades


def measured(command: str, folder: Path) -> dict[str, Any]:
    """What `train` prints at its end, with the seconds of processor time that it took: others may share the machine."""
    printed, began = io.StringIO(), time.process_time()
    with redirect_stdout(printed):
        app([*shlex.split(command)[1:], "--device", "cpu", "--out", str(folder), "--json"], standalone_mode=False)
    return {**json.loads(printed.getvalue()), "seconds": time.process_time() - began}


def shrink(source: Path, target: Path) -> None:
    """A picture as the pages show it: narrow, with few colours."""
    image = Image.open(source).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def main(names: list[str]) -> None:
    """Measure the pairs that are named, or those whose command is not that of the record."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    old = [name for name in PAIRS if record.get(name, {}).get("command") != read(name).command]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    for name in names or old:
        command = read(name).command
        if not command:
            print(f"{name}: the docstring of its builder has no command", flush=True)
            continue
        with tempfile.TemporaryDirectory() as place:
            found = measured(command, Path(place) / "run")
            which = settings((ROOT / "docs" / "pairs" / f"{name}.md").read_text()).get("picture", "samples")
            drawn = {path.stem: path for path in (Path(place) / "run" / "figures").glob("*.png")}
            if which not in drawn:
                print(f"{name}: its run has no {which}; name another picture: {', '.join(drawn)}", flush=True)
                continue
            shrink(drawn[which], ROOT / "docs" / "images" / "pairs" / f"{name}.png")
        record[name] = {
            "command": command, "quantity": found.get("quantity"), "n": found["n"], "log_px": found["log_px_mean"],
            "log_px_se": found["log_px_se"], "elbo": found["elbo_mean"], "seconds": round(found["seconds"]),
            "commit": commit.stdout.strip(), **machine(),
        }  # fmt: skip
        print(name, *(f"{key} {record[name][key]}" for key in ("log_px", "log_px_se", "elbo", "seconds")), flush=True)
        ordered = {key: record[key] for key in PAIRS if key in record}
        RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
