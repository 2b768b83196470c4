"""The partial results of unfinished work, in one file, from which the same call resumes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ..common import ranks
from ..common.errors import RunError
from ..common.files import read_tensors, writable, write_tensors

WRITE_EVERY = 5.0  # seconds between two writes: at most so much work is lost


class PartialResults:
    """Named parts, each a dictionary of tensors, kept in a folder until the work is complete.

    A context: leaving it by an exception writes the parts, leaving it normally removes the file. The name of the file
    is a digest of ``about``, so that no other work resumes from it. Each rank writes its own file and reads the
    files of all, so that the work can resume with another number of ranks.

    Args:
        folder: where to keep the file; None keeps nothing.
        about: everything that the parts depend on, JSON-able.
        settled: choices that depend on the machine. Resumed work keeps those of its beginning: ``self.settled``.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(
        self, folder: str | Path | None, about: Mapping[str, Any], settled: Mapping[str, Any] | None = None
    ) -> None:
        self.about = dict(about)
        self.settled = dict(settled or {})
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.path: Path | None = None
        self._files: list[Path] = []
        self._written = time.monotonic()
        if folder is None:
            return
        name = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]
        rank = f"-{ranks.rank()}" if ranks.rank() else ""
        self.path = writable(Path(folder)) / f"unfinished-{name}{rank}.safetensors"
        with ranks.raise_together():
            self._files = sorted(self.path.parent.glob(f"unfinished-{name}*.safetensors"))
            for path in self._files:
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            tensors, facts = read_tensors(path)
        except RunError as error:
            raise RunError(f"{error}; or delete it to start this work anew") from error
        self.settled |= facts.get("settled", {})
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, field = key.split("/", 1)
            found.setdefault(part, {})[field] = value
        self.parts |= found

    def get(self, part: str) -> dict[str, Tensor] | None:
        """A part, or None."""
        return self.parts.get(part)

    def put(self, part: str, fields: Mapping[str, Tensor], *, instead_of: str | None = None) -> None:
        """Keep a part, in place of another where one is named; write all parts every few seconds."""
        if self.path is None:
            return
        if instead_of is not None:
            self.parts.pop(instead_of, None)
        self.parts[part] = dict(fields)
        if time.monotonic() - self._written > WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write all parts, atomically."""
        if self.path is not None and self.parts:
            tensors = {f"{p}/{f}": v.detach().cpu().contiguous() for p, fs in self.parts.items() for f, v in fs.items()}
            write_tensors(self.path, tensors, {**self.about, "settled": self.settled})
        self._written = time.monotonic()

    def __enter__(self) -> PartialResults:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.write()
        elif self.path is not None:
            files, finished = {self.path, *self._files}, _finished.get()
            if finished is None:
                _remove(files)
            else:
                self.write()
                finished |= files


# inside ``together``: the files of finished steps, which the end of the last step removes
_finished: ContextVar[set[Path] | None] = ContextVar("finished", default=None)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@contextmanager
def together() -> Iterator[None]:
    """Work in several steps: the file of a finished step is kept until the last step is finished."""
    files: set[Path] = set()
    token = _finished.set(files)
    try:
        yield
    finally:
        _finished.reset(token)
    _remove(files)
