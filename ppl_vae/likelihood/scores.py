"""log p(x) of more examples than memory holds: Parquet files, written one by one."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import DataError, NonFiniteError, RunError, UserError
from ..common.fields import X, joined, named, num_data, rows as rows_at
from ..common.files import digest, read_json, writable, write_bytes, write_json
from ..common.identity import describe
from ..common.progress import bar
from ..common.rng import seed_for
from ..data import lazy
from ..data.lazy import Lazy
from ..data.splits import Split
from ..data.tables import arrow_module
from ..scoring.inputs import Needs, as_data, device_and_dtype, num_rows
from ..scoring.quantity import refuse_binarised
from .estimate import log_likelihood
from .result import SOURCES, Estimate
from .streaming import plan

SETTING, WORK = "_scores.json", "_unfinished"  # what a folder of scores is of; readers of Parquet skip such names
FEW = 16  # examples by which data are known again
OWN = ("pair", "x", "y", "num_samples", "seed", "progress", "resume")  # arguments of the estimate that are set here


class Part(NamedTuple):
    """The examples of one file.

    Attributes:
        i: the number of the file.
        total: how many examples there are in all, where that is known.
        places: (n,) where each example is in the source.
        x: (n, *shape); None where the file is there, so that it need not be read.
        y: labels.
    """

    i: int
    total: int | None
    places: Tensor
    x: X | None
    y: Tensor | None

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"part-{self.i:06d}.parquet"


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
    its start, by one worker at most. A file that is there is whole and is not made again; within a file, work resumes
    too. A folder of another pair, other data or other options is refused; data are known again by their number and
    their first and last rows.

    The columns: ``index`` (where the example is in ``data``; of a split, in its source), ``label`` (where labels are
    numbers), ``log_px``, ``std_error``, ``ess``, ``khat``, ``elbo`` (in nats) and ``reliable`` (k below its threshold);
    ``proposal``, under ``"auto"``. ``_scores.json`` says what they are of. pandas, Polars, DuckDB and Spark read the
    files as one table.

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
        RunError: the folder holds other scores, can't be written to, or another process writes there.
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
    known = {k: p.default for k, p in inspect.signature(log_likelihood).parameters.items() if k not in OWN}
    if unknown := [k for k in options if k not in known]:
        raise UserError(f"write_scores has no option {unknown[0]!r}; it takes {', '.join(known)}")
    options = {"num_samples": num_samples, **known, **options}
    refuse_binarised(pair, data)
    folder = writable(Path(folder))
    dataset = data.dataset if isinstance(data, DataLoader) else data
    held = None if isinstance(dataset, IterableDataset) else as_data(pair, data, None, seed)
    with _alone(folder), bar(progress) as shown:
        there = _there(folder)
        task = shown.add_task("log p(x)", total=None, info="")
        files: list[Path] = []
        for part in _streamed(pair, data, rows) if held is None else _held(data, *held, rows, there):
            if part.i == 0:
                about = {**options, "rows": rows, "seed": seed} | _identity(pair, held, part, seed)
                ranks.broadcast_object(functools.partial(_settle, folder, about, bool(there)))
            path = folder / part.name
            shown.update(task, total=part.total)
            if there.get(part.name) != len(part.places):
                found = _estimated(pair, part, folder / WORK, {**options, "seed": seed_for(seed, "scores", part.i)})
                ranks.broadcast_object(functools.partial(_write, path, part, found))
            files.append(path)
            shown.advance(task, len(part.places))
        ranks.broadcast_object(functools.partial(_remove, folder / WORK))
    if not files:
        raise DataError("the data set gave no data; give at least one example")
    return files


# ---- the examples of each file


def _held(data: Any, x: X | Lazy, y: Tensor | None, rows: int, there: dict[str, int]) -> Iterator[Part]:
    """The examples of each file, of data with a length; files that are there are not read again."""
    total = num_rows(x)
    for i, start in enumerate(range(0, total, rows)):
        part = slice(start, min(start + rows, total))
        index = data.rows[part] if isinstance(data, Split) else torch.arange(part.start, part.stop)
        made = Part(i, total, index, None, None)
        if not isinstance(x, Lazy):
            yield made._replace(x=rows_at(x, part), y=None if y is None else y[part])
        elif there.get(made.name) == len(index):
            yield made
        else:
            xs, ys = x.take(part)
            yield made._replace(x=xs, y=ys)


def _streamed(pair: Any, data: Any, rows: int) -> Iterator[Part]:
    """The batches of an iterable data set, put together to files of ``rows`` examples.

    Raises:
        UserError: a loader whose workers would double rows or mix their order, or that drops some.
    """
    needs = Needs(pair)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=min(rows, 1024))
    if loader.num_workers > 1 or loader.drop_last:
        what = "drop_last=True" if loader.drop_last else f"num_workers={loader.num_workers}"
        raise UserError(f"write_scores: {what} of the loader would double, mix or leave out rows; leave it out")
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
        index = torch.arange(start, start + size)
        yield Part(i, None, index, rows_at(x, slice(size)), None if y is None else y[:size])
        start, count = start + size, count - size
        rest = rows_at(x, slice(size, None)), None if y is None else y[size:]
        held = [rest] if count else []


# ---- what a folder is of


def _identity(pair: Any, held: tuple[X | Lazy, Tensor | None] | None, first: Part, seed: int) -> dict[str, Any]:
    """What the pair and the data are known by: weights and a few log weights, the number of data and a few rows."""
    if held is None:  # of a stream, whose end is not known yet
        assert first.x is not None
        ends = [_taken(first.x, first.y, slice(FEW))]
    else:
        last = num_rows(held[0]) - FEW
        ends = [_taken(*held, part) for part in (slice(FEW), slice(max(0, last), last + FEW))]
    x, y = ends[0]
    probe = None
    with suppress(UserError):  # no weights under the guide, or data that are refused in a moment
        probe = plan(pair, x, y, 2, "guide", seed).probe()
    rows = [digest({**dict(named(xs)), **({} if ys is None else {"y": ys})}) for xs, ys in ends]
    return {
        "pair": [digest(dict(pair.state_dict())), probe],
        "device": device_and_dtype(pair)[0].type,
        "data": [first.total, *rows],
    }


def _taken(x: X | Lazy, y: Tensor | None, part: slice) -> tuple[X, Tensor | None]:
    return x.take(part) if isinstance(x, Lazy) else (rows_at(x, part), None if y is None else y[part])


def _settle(folder: Path, about: dict[str, Any], has_files: bool) -> None:
    """Say in the folder what its scores are of, or refuse one that holds others.

    Raises:
        RunError: it holds others.
    """
    plain = (int, float, str, list, type(None))
    facts = json.loads(json.dumps({k: v if isinstance(v, plain) else describe(v) for k, v in about.items()}))
    path = folder / SETTING
    if has_files and not path.exists():
        raise RunError(f"{folder}: holds Parquet files of another program; choose another folder")
    then = read_json(path) if has_files else facts
    if not isinstance(then, dict):
        raise RunError(f"{path}: it was edited; choose another folder")
    if changed := sorted(k for k in {*facts, *then} if then.get(k) != facts.get(k)):
        raise RunError(f"{folder}: holds scores with other {', '.join(changed)}; choose another folder")
    write_json(path, facts)


def _there(folder: Path) -> dict[str, int]:
    """The files that are whole, with their numbers of rows."""

    def found() -> dict[str, int]:
        parquet = arrow_module("pyarrow.parquet", folder)
        try:
            return {p.name: parquet.read_metadata(p).num_rows for p in sorted(folder.glob("part-*.parquet"))}
        except Exception as error:  # pyarrow raises several kinds
            raise RunError(f"{folder}: a file can't be read ({error}); delete it, and it is made again") from error

    return ranks.broadcast_object(found)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out.

    Raises:
        RunError: another one is at work here.
    """
    lock = FileLock(folder / "_lock")
    try:
        ranks.broadcast_object(lambda: lock.acquire(timeout=0) and None)
    except Timeout:
        raise RunError(f"{folder}: another process writes its scores; wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


# ---- files


def _estimated(pair: Any, part: Part, folder: Path, options: dict[str, Any]) -> Estimate:
    """The estimates of a file; an error names its rows among all."""
    try:
        return log_likelihood(pair, part.x, part.y, resume=folder, **options)
    except (DataError, NonFiniteError) as error:
        where = f"rows {int(part.places[0])} to {int(part.places[-1])}, of which this counts from 0"
        raise type(error)(f"{error} ({where})") from error


def _write(path: Path, part: Part, found: Estimate) -> None:
    """A file, made beside the others and then moved: readers see whole ones alone."""
    columns: dict[str, Any] = {"index": part.places.numpy()}
    if part.y is not None and part.y.ndim == 1:
        columns["label"] = part.y.cpu().numpy()
    columns |= {k: getattr(found, k).numpy() for k in ("log_px", "std_error", "ess", "khat", "elbo")}
    columns["reliable"] = (~found.unreliable).numpy()
    if found.source is not None:
        columns["proposal"] = [SOURCES[k] for k in found.source.tolist()]
    about = {"quantity": found.name, "num_samples": found.num_samples, "seed": found.seed}
    arrow = arrow_module("pyarrow", path)
    sink = arrow.BufferOutputStream()
    table = arrow.table(columns, metadata={"ppl_vae": json.dumps(about)})
    arrow_module("pyarrow.parquet", path).write_table(table, sink)
    made = writable(path.parent / WORK) / path.name
    write_bytes(made, sink.getvalue().to_pybytes())
    made.replace(path)


def _remove(folder: Path) -> None:
    """The folder of unfinished work, now that there is none."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
