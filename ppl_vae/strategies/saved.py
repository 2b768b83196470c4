"""A study that is on disk, complete or not."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import RunError
from ..common.files import read_json
from .cells import result_of
from .results import Study

FILE = "study.json"


def load_study(folder: str | Path) -> Study:
    """Read a study from its folder, also one that is not complete; runs no code of its strategies.

    Args:
        folder: what ``out`` was.

    Raises:
        RunError: there is no study, or its file was edited.

    Example:
        >>> import ppl_vae as pv
        >>> pv.load_study("no/such/study")
        Traceback (most recent call last):
        ppl_vae.common.errors.RunError: no/such/study is not a study: there is no study.json; ppl-vae study makes one
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise RunError(f"{folder} is not a study: there is no {FILE}; ppl-vae study makes one")
    facts, out = read_json(path), path.parent.resolve()
    try:
        results: dict[str, dict[int, dict[str, object]]] = {name: {} for name in facts["folders"]}
        for name, of_strategy in facts["folders"].items():
            for seed in facts["seeds"]:
                cell = f"{of_strategy}/seed-{seed}"
                found = result_of(out / cell, facts["evaluation"])
                if found is not None:
                    results[name][seed] = found | {"folder": cell}
        names = ("reference", "budget", "evaluation", "data", "tuned", "folders", "strategies")
        return Study(seeds=tuple(facts["seeds"]), results=results, out=out, **{k: facts[k] for k in names})
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: it is not what a study writes ({error!r}); the file was edited") from None
