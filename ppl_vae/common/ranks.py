"""Work that several processes share: the part of each rank, and how the parts are combined.

A rank is one of N processes, as ``torchrun`` starts them. Work is shared inside :func:`joined` and nowhere else, so
other uses of ``torch.distributed`` in a program are not affected; with one rank no function here sends a message.
Each unit of work (a shard of a batch, a block of data) has its seed, so results do not depend on the rank that does it.

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

TIMEOUT = timedelta(
    hours=1
)  # for a rank that hangs: as long as a block of data may take; the loss of a rank is detected at once
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
    """The units of work of this rank: every N-th, so that each rank has long and short ones.

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
    where one is lost, is handled like Ctrl-C.

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
    # its defaults keep the group that exists when it is imported, which an optimiser may do: the threads of the group
    # would then outlive the interpreter, and sometimes end the process by abort()
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
    """Inside, this rank does all of the work, without messages to others."""
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
    """Each flag, true where it is true on any rank; for decisions that must be the same on all ranks.

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
    """``work(unit)`` of every unit, in their order, on all ranks; each rank does its part.

    Args:
        work: returns what can be sent to other processes: numbers, texts, tensors on the CPU. No messages inside.
        units: the same on all ranks.
        track: iterates over the units of this rank, such as a progress bar's.

    Raises:
        Exception: that of the first unit that failed, on all ranks: the one that a single process would have met.
        RankError: a rank was lost, or failed by an error that is not the user's.

    Example:
        >>> each(lambda unit: 10 * unit, range(3))
        [0, 10, 20]
    """
    if count() == 1:
        return [work(unit) for unit in track(units)]
    done: dict[int, T] = {}

    def position() -> int:
        return rank() + count() * len(done)

    with _caught(position) as failed:
        for unit in track(local_units(units)):
            done[position()] = work(unit)
    whole = {n: value for part in _exchange(f"{len(units)} units", done, failed) for n, value in part.items()}
    return [whole[n] for n in range(len(units))]


def broadcast_object(work: Callable[[], T]) -> T:
    """The result of ``work()``, which rank 0 does :func:`alone` while the others wait; for writing and for choices.

    Raises:
        Exception: that of rank 0, on all ranks.
        RankError: a rank was lost.

    Example:
        >>> broadcast_object(lambda: "runs/vae-2")
        'runs/vae-2'
    """
    if count() == 1:
        return work()
    values: list[T] = []
    with _caught(rank) as failed:
        if first():
            with alone():
                values.append(work())
    found: T = _exchange("broadcast_object", values, failed)[0][0]
    return found


def after_first(work: Callable[[], T]) -> T:
    """``work()`` on every rank, on rank 0 before the others, for which it may leave files.

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
    with _caught(rank) as failed:
        yield
    _exchange("raise_together", None, failed)


def assert_same(what: str, facts: Mapping[str, Any]) -> None:
    """Refuse to continue where ranks don't hold the same.

    Raises:
        UserError: names what differs.

    Example:
        >>> assert_same("data", {"sha256": "0a1b"})
    """
    if count() > 1:
        found = _exchange("assert_same", dict(facts), [])
        odd = [key for key in facts if any(f != found[0] and f.get(key) != found[0].get(key) for f in found)]
        if odd:
            raise UserError(
                f"the ranks hold different {what} ({', '.join(odd)}); give all of them the same: seed what is built, "
                f"and let pv.fit or pv.load set the weights"
            )


@contextmanager
def _caught(position: Callable[[], int]) -> Iterator[list[tuple[int, Exception]]]:
    """The failure of the work inside, if any, with its position in the order of a single process."""
    failed: list[tuple[int, Exception]] = []
    try:
        yield failed
    except Exception as error:
        failed.append((position(), error))


def _exchange(what: str, value: Any, failed: list[tuple[int, Exception]]) -> list[Any]:
    """The values of all ranks, in their order; the first failure of any is raised on all."""
    for _, error in failed:
        if isinstance(error, RankError):
            raise error  # the other ranks no longer take part
    gathered: list[Any] = [None] * count()
    with _lost_rank():
        dist.all_gather_object(gathered, (what, value, [(at, rank(), _portable(error)) for at, error in failed]))
    failures = [failure for _, _, sent in gathered for failure in sent]
    if failures:
        _, origin, error = min(failures, key=lambda f: f[:2])
        raise failed[0][1] if origin == rank() else error
    calls = [call for call, _, _ in gathered]
    if set(calls) != {what}:
        raise RankError(f"the ranks do different things ({', '.join(calls)}); give all the same work")
    return [v for _, v, _ in gathered]


def _portable(error: Exception) -> Exception:
    """An error in a form that other ranks can raise."""
    if isinstance(error, UserError | OSError):
        return error
    return RankError(f"rank {rank()} failed: {type(error).__name__}: {first_line(error)}")


@contextmanager
def _lost_rank() -> Iterator[None]:
    """A message that fails means that a rank was lost."""
    try:
        yield
    except RuntimeError as error:
        raise RankError("a rank was lost") from error
