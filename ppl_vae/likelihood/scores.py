"""log p(x) of more examples than memory holds: Parquet files, written one by one."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import RunError, UserError
from ..common.fields import X, joined, num_data, rows as rows_at
from ..common.files import atomic, digest, read_json, writable, write_json
from ..common.identity import describe
from ..common.progress import bar
from ..common.rng import seed_for
from ..data import lazy
from ..data.lazy import Lazy
from ..data.splits import Split
from ..data.tables import arrow_module
from ..scoring.inputs import Needs, as_data, num_rows
from .estimate import log_likelihood
from .result import SOURCES, Estimate

SETTING = "_scores.json"  # what a folder of scores is of
# the number of a file, examples in all where that is known, the place of each in the source, data, labels
Part = tuple[int, int | None, Tensor, X, Tensor | None]


@entry_point
def write_scores(
    folder: str | Path,
    pair: Any,
    data: Any,
    num_samples: int = 5000,
    *,
    rows: int = 65_536,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> list[Path]:
    """Write log p(x) of each example to a folder of Parquet files; the same call resumes.

    A file holds ``rows`` examples, estimated by :func:`~ppl_vae.log_likelihood`, that of file i with the seed
    ``pv.rng.seed_for(seed, "scores", i)``. Memory is needed for these alone, so ``data`` may be larger: an ``OnDisk``,
    a ``Dataset`` or a ``DataLoader`` (in the order of its data set), or an ``IterableDataset``, which is read once from
    its start. A file that is there is whole and is not made again; within a file, work resumes too.

    The columns: ``index`` (where the example is in the source), ``label`` (where labels are numbers), ``log_px``,
    ``std_error``, ``ess``, ``khat``, ``elbo`` (in nats) and ``reliable`` (k below its threshold); ``proposal``, under
    ``"auto"``. ``_scores.json`` says what they are of. pandas, Polars, DuckDB and Spark read the files as one table.

    Args:
        folder: made where it is absent.
        pair: the pair.
        data: data of any form, with labels for pairs that take them.
        num_samples: K.
        rows: examples in a file.
        seed: of all files.
        progress: show a bar.
        options: of ``log_likelihood``: ``proposal``, ``estimator``, ``capture`` ...

    Returns:
        The files, in the order of the examples.

    Raises:
        DataError: pyarrow is missing (``pip install 'ppl_vae[tables]'``), or the data are refused.
        RunError: the folder holds other scores, or can't be written to.
        UserError: an option of ``log_likelihood`` is refused, or ``rows`` is below 1.

    Example:
        >>> import tempfile, torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact")
        >>> files = pv.write_scores(tempfile.mkdtemp(), pair, torch.randn(100, 5), num_samples=10, rows=40)
        >>> [f.name for f in files]
        ['part-000000.parquet', 'part-000001.parquet', 'part-000002.parquet']
    """
    arrow_module("pyarrow.parquet", "scores")
    if not rows >= 1:
        raise UserError(f"rows={rows}: a file holds 1 example or more")
    folder = writable(Path(folder))
    options = {"num_samples": num_samples, **options}
    ranks.broadcast_object(lambda: _settle(folder, pair, {**options, "rows": rows, "seed": seed}))
    there = set(ranks.broadcast_object(lambda: sorted(p.name for p in folder.glob("part-*.parquet"))))
    files: list[Path] = []
    with bar(progress) as shown:
        task = shown.add_task("log p(x)", total=None, info="")
        for i, total, index, x, y in _parts(pair, data, rows, seed, there):
            path = folder / _name(i)
            shown.update(task, total=total)
            if path.name not in there:
                found = log_likelihood(pair, x, y, seed=seed_for(seed, "scores", i), resume=folder, **options)
                ranks.broadcast_object(functools.partial(_write, path, index, y, found))
            files.append(path)
            shown.advance(task, len(index))
    return files


def _name(i: int) -> str:
    return f"part-{i:06d}.parquet"


def _settle(folder: Path, pair: Any, setting: dict[str, Any]) -> None:
    """Say in the folder what its scores are of, or refuse one that holds others.

    Raises:
        RunError: it holds others.
    """
    facts = {k: v if isinstance(v, int | float | str) else describe(v) for k, v in setting.items()}
    facts = json.loads(json.dumps({**facts, "weights": digest(dict(pair.state_dict()))}))
    path = folder / SETTING
    if not path.exists():
        if any(folder.glob("part-*.parquet")):
            raise RunError(f"{folder}: holds Parquet files of another program; choose another folder")
        write_json(path, facts)
        return
    then = read_json(path)
    changed = [k for k in facts if not isinstance(then, dict) or then.get(k) != facts[k]]
    if changed or len(then) != len(facts):
        raise RunError(f"{folder}: holds scores with other {', '.join(changed) or 'options'}; choose another folder")


def _parts(pair: Any, data: Any, rows: int, seed: int, there: set[str]) -> Iterator[Part]:
    """The examples of each file; of files that are there only their number is right, where that can be known unread."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(dataset, IterableDataset):
        yield from _streamed(pair, data, rows)
        return
    x, y = as_data(pair, data, None, seed)
    places = data.rows if isinstance(data, Split) else torch.arange(num_rows(x))
    for i, start in enumerate(range(0, num_rows(x), rows)):
        part, known = slice(start, start + rows), (i, num_rows(x), places[start : start + rows])
        if not isinstance(x, Lazy):
            yield *known, rows_at(x, part), None if y is None else y[part]
        elif _name(i) in there:
            yield *known, torch.empty(0), None  # not read again
        else:
            yield *known, *x.take(part)


def _streamed(pair: Any, data: Any, rows: int) -> Iterator[Part]:
    """The batches of an iterable data set, put together to files of ``rows`` examples."""
    needs = Needs(pair)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=min(rows, 1024))
    batches = (needs(*lazy.unpacked(batch, needs.scale_of)) for batch in loader)
    held: list[tuple[X, Tensor | None]] = []
    count = start = 0
    for i in itertools.count():
        while count < rows and (batch := next(batches, None)) is not None:
            held.append(batch)
            count += num_data(batch[0])
        if not count:
            return
        x = joined([x for x, _ in held])
        y = None if held[0][1] is None else torch.cat([y for _, y in held if y is not None])
        size = min(count, rows)
        yield i, None, torch.arange(start, start + size), rows_at(x, slice(size)), None if y is None else y[:size]
        start, count = start + size, count - size
        rest = rows_at(x, slice(size, None)), None if y is None else y[size:]
        held = [rest] if count else []


def _write(path: Path, index: Tensor, y: Tensor | None, found: Estimate) -> None:
    columns: dict[str, Any] = {"index": index.numpy()}
    if y is not None and y.ndim == 1:
        columns["label"] = y.cpu().numpy()
    columns |= {k: getattr(found, k).numpy() for k in ("log_px", "std_error", "ess", "khat", "elbo")}
    columns["reliable"] = (~found.unreliable).numpy()
    if found.source is not None:
        columns["proposal"] = [SOURCES[k] for k in found.source.tolist()]
    about = {"quantity": found.name, "num_samples": found.num_samples, "seed": found.seed}
    table = arrow_module("pyarrow", path).table(columns, metadata={"ppl_vae": json.dumps(about)})
    with atomic(path) as file:
        arrow_module("pyarrow.parquet", path).write_table(table, file)
