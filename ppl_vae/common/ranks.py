"""Which part of the work this rank does, and how the parts are put together, where several processes share it.

A rank is one of N processes, as ``torchrun`` starts them. Work is shared inside :func:`joined` and nowhere else, so
that a program that uses ``torch.distributed`` for work of its own meets nothing of this; with one rank every function
here is the plain thing. Units of work (shards of a batch, blocks of data) have seeds of their own, so who does one
does not matter.

Tensors go by ``all_reduce`` and ``broadcast``. Results and errors go by ``all_gather_object``, which pickles: they come
from processes of this job, which run the same program; no file is read so.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import RankError, UserError
from .files import first_line
from .memory import assign

TIMEOUT = timedelta(hours=1)  # for a rank that hangs: as long as a block of data may take; a dead one is seen at once
T = TypeVar("T")

_sharing = False  # inside joined(), with more than one rank, and not alone()


def count() -> int:
    """The number of ranks: 1 outside of :func:`joined`.

    Example:
        >>> count(), rank(), first()
        (1, 0, True)
    """
    return dist.get_world_size() if _sharing else 1


def rank() -> int:
    """The number of this rank, from 0 on."""
    return dist.get_rank() if _sharing else 0


def first() -> bool:
    """Whether this is rank 0, which alone writes files and prints."""
    return rank() == 0


def local_units(units: Sequence[T]) -> Sequence[T]:
    """The units of work that this rank does: every N-th, so that long and short ones mix.

    Example:
        >>> local_units(range(3))
        range(0, 3)
    """
    return units[rank() :: count()]


@contextmanager
def joined() -> Iterator[None]:
    """Share the work inside with the other ranks, where ``torchrun`` started some; else do nothing.

    Training, validation and estimates inside are shared; the rest is done by every rank alike. Ranks communicate
    through the process group that is there already, or through one that is made for the time: gloo for tensors on the
    CPU, NCCL for those on a GPU, where rank r of a machine gets GPU r. SIGTERM, by which ``torchrun`` ends the others
    where one is lost, is taken like Ctrl-C.

    Raises:
        RankError: the ranks did not find each other; inside, one was lost.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> with pv.ranks.joined():  # the same script runs alone, or by torchrun --nproc-per-node 4
        ...     est = pv.log_likelihood(pair, torch.zeros(3, 5), num_samples=10)
        >>> len(est)
        3
    """
    global _sharing
    existing = dist.is_available() and dist.is_initialized()
    if _sharing or not (existing or started()):
        yield
        return
    if not existing:
        _init_process_group()
    _sharing = dist.get_world_size() > 1
    done = False
    try:
        with _sigterm_as_ctrl_c():
            yield
        done = True
    finally:
        _sharing = False
        if not existing and (done or dist.get_backend() == "gloo"):  # NCCL could wait for a rank that is gone
            dist.destroy_process_group()


def started() -> bool:
    """Whether ``torchrun``, or what sets the same variables, started this process beside others."""
    return {"RANK", "MASTER_ADDR"} <= set(os.environ) and os.environ.get("WORLD_SIZE", "1") != "1"


def _init_process_group() -> None:
    if not dist.is_available():
        raise RankError("this build of torch has no torch.distributed; start one process")
    # its defaults hold the group that is there when it is imported, which an optimiser does in passing: the threads of
    # the group would then outlive the interpreter, and end the process by abort() now and then
    importlib.import_module("torch.distributed.nn")
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    backend = "gloo"
    if local < torch.cuda.device_count() and dist.is_nccl_available():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"the ranks did not find each other: {first_line(error)}") from error


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if not _sharing or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this rank does all of its work itself, and waits for no other."""
    global _sharing
    before, _sharing = _sharing, False
    try:
        yield
    finally:
        _sharing = before


# ---- tensors


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the ranks, in place; all ranks get the same bits.

    Raises:
        RankError: a rank was lost.

    Example:
        >>> a = torch.ones(2)
        >>> all_reduce_sum([a])
        >>> a
        tensor([1., 1.])
    """
    _flat_message(dist.all_reduce, tensors)


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give each tensor the value that it has on rank 0, in place.

    Raises:
        RankError: a rank was lost.

    Example:
        >>> broadcast([torch.ones(2)])
    """
    _flat_message(lambda flat: dist.broadcast(flat.view(torch.uint8), 0), tensors)  # bytes: not every type can be sent


def _flat_message(message: Callable[[Tensor], Any], tensors: Sequence[Tensor]) -> None:
    """Change tensors in place by one message for each dtype and device; of any strides, unlike torch's own."""
    if count() == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        groups.setdefault((t.dtype, t.device), []).append(t.detach())
    for group in groups.values():
        flat = torch.cat([t.reshape(-1) for t in group])
        with _lost_rank():
            message(flat)
        for t, value in zip(group, flat.split([t.numel() for t in group]), strict=True):
            assign(t, value.view(t.shape))


# ---- decisions, results and errors


def all_reduce_any(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true where it is true on any rank; for decisions that all ranks must take alike.

    Raises:
        RankError: a rank was lost.

    Example:
        >>> all_reduce_any(True, False)
        (True, False)
    """
    if count() == 1:
        return flags
    found = torch.tensor(flags, dtype=torch.uint8)
    _flat_message(lambda flat: dist.all_reduce(flat, dist.ReduceOp.MAX), [found])
    return tuple(map(bool, found.tolist()))


def each(work: Callable[[int], T], units: Sequence[int], track: Callable[[Sequence[int]], Any] = iter) -> list[T]:
    """``work(unit)`` of every unit, in their order; each rank does its own, and gets them all.

    Args:
        work: gives what can be sent to other processes: numbers, texts, tensors on the CPU. No messages inside.
        units: what is to be done, the same on all ranks.
        track: goes over this rank's units, such as a progress bar's.

    Raises:
        Exception: that of the first unit that failed, on all ranks: the one that a single process would have met.
        RankError: a rank was lost, or failed by what is no error of the user's.

    Example:
        >>> each(lambda unit: 10 * unit, range(3))
        [0, 10, 20]
    """
    if count() == 1:
        return [work(unit) for unit in track(units)]
    done: dict[int, T] = {}
    at = rank()
    failed: tuple[int, Exception] | None = None
    try:
        for unit in track(local_units(units)):
            done[at] = work(unit)
            at += count()
    except Exception as error:
        failed = at, error
    whole = {n: value for part in _exchange(f"{len(units)} units", done, failed) for n, value in part.items()}
    return [whole[n] for n in range(len(units))]


def broadcast_object(work: Callable[[], T]) -> T:
    """What ``work()`` gives on rank 0, which does it :func:`alone` while the others wait; for writing, and choosing.

    Raises:
        Exception: that of rank 0, on all ranks.
        RankError: a rank was lost.

    Example:
        >>> broadcast_object(lambda: "runs/vae-2")
        'runs/vae-2'
    """
    if count() == 1:
        return work()
    value: Any = None
    failed: tuple[int, Exception] | None = None
    if first():
        try:
            with alone():
                value = work()
        except Exception as error:
            failed = 0, error
    found: T = _exchange("broadcast_object", value, failed)[0]
    return found


def after_first(work: Callable[[], T]) -> T:
    """``work()`` on every rank, on rank 0 before the others: it may leave files that they find.

    Raises:
        Exception: that of rank 0, on all ranks.

    Example:
        >>> after_first(lambda: 3)
        3
    """
    kept: list[T] = []
    broadcast_object(lambda: kept.append(work()))
    return kept[0] if kept else work()


@contextmanager
def raise_together() -> Iterator[None]:
    """An error of any rank inside is raised on all of them at the end; no messages inside.

    Example:
        >>> with raise_together():
        ...     pass
    """
    if count() == 1:
        yield
        return
    failed: tuple[int, Exception] | None = None
    try:
        yield
    except Exception as error:
        failed = rank(), error
    _exchange("raise_together", None, failed)


def assert_same(what: str, facts: Mapping[str, Any]) -> None:
    """Refuse to continue where ranks don't hold the same.

    Raises:
        UserError: names what differs.

    Example:
        >>> assert_same("data", {"sha256": "0a1b"})
    """
    if count() > 1:
        found = _exchange("assert_same", dict(facts), None)
        odd = [key for key in facts if any(f != found[0] and f.get(key) != found[0].get(key) for f in found)]
        if odd:
            raise UserError(
                f"the ranks hold different {what} ({', '.join(odd)}); give all of them the same: seed what is built, "
                f"and let pv.fit or pv.load set the weights"
            )


def _exchange(what: str, value: Any, failed: tuple[int, Exception] | None) -> list[Any]:
    """The values of all ranks, in their order; the first failure of any is raised on all."""
    if failed is not None and isinstance(failed[1], RankError):
        raise failed[1]  # the others are no longer where they could hear of it
    sent = None if failed is None else (failed[0], rank(), _portable(failed[1]))
    gathered: list[Any] = [None] * count()
    with _lost_rank():
        dist.all_gather_object(gathered, (what, value, sent))
    failures = [failure for _, _, failure in gathered if failure is not None]
    if failures:
        _, origin, error = min(failures, key=lambda f: f[:2])
        raise failed[1] if failed is not None and origin == rank() else error
    calls = [call for call, _, _ in gathered]
    if set(calls) != {what}:
        raise RankError(f"the ranks do different things ({', '.join(calls)}); give all the same work")
    return [v for _, v, _ in gathered]


def _portable(error: Exception) -> Exception:
    """An error as other ranks can raise it."""
    if isinstance(error, UserError | OSError):
        return error
    return RankError(f"rank {rank()} failed: {type(error).__name__}: {first_line(error)}")


@contextmanager
def _lost_rank() -> Iterator[None]:
    """A message that fails is a rank that is gone."""
    try:
        yield
    except RuntimeError as error:
        raise RankError("a rank was lost") from error
