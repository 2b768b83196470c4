"""The state of a pair as tensors that a file can hold, and back into a pair, each tensor in its own dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..common.errors import RunError
from ..common.files import first_line
from ..common.memory import assign

UNHELD = (torch.complex128, torch.float8_e8m0fnu)  # dtypes without a name in safetensors


def state_tensors(pair: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU; a tensor with several names is kept once.

    Raises:
        RunError: a lazy layer was not run on data yet, or a module keeps what is not a tensor; names it.
    """
    state = pair.state_dict()
    for name, value in state.items():
        if (why := _why_not_kept(value)) is not None:
            raise RunError(f"{name!r} {why}")
    return {
        name: state[name].detach().cpu().contiguous().resolve_conj().resolve_neg().clone()
        for name, first in _first_names(state).items()
        if name == first
    }


def restore_state(pair: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Give a pair the values of :func:`state_tensors`, each in its own dtype, after checking every name and shape.

    Raises:
        RunError: a tensor is missing or unexpected, or has another shape or kind of number.
    """
    current = pair.state_dict(keep_vars=True)
    firsts = _first_names(current)
    needed = set(firsts.values())
    shared = {
        k for k in set(tensors) - needed if k in firsts and torch.equal(tensors[k], tensors.get(firsts[k], tensors[k]))
    }
    if odd := sorted(needed ^ (set(tensors) - shared)):
        raise RunError(f"{where}: not the weights of this pair: {odd[0]!r} is on one side only ({len(odd)} such names)")
    for name, value in tensors.items():
        now = current[name]
        if not torch.is_tensor(now):
            raise RunError(f"{where}: {name!r} {_why_not_kept(now)}")
        if not is_lazy(now) and value.shape != now.shape:
            raise RunError(f"{where}: {name!r} has shape {tuple(value.shape)}, this pair needs {tuple(now.shape)}")
        if (value.is_floating_point(), value.is_complex()) != (now.is_floating_point(), now.is_complex()):
            raise RunError(f"{where}: {name!r} is {value.dtype}, this pair needs {now.dtype}")
    if any(value.dtype != current[name].dtype for name, value in tensors.items()):
        dtypes = {value.dtype for value in tensors.values() if value.is_floating_point() or value.is_complex()}
        if len(dtypes) == 1:
            pair.to(dtype=dtypes.pop())  # with buffers that no file has
        else:
            for name, first in firsts.items():
                if not is_lazy(current[name]):
                    current[name].data = current[name].data.to(tensors[first].dtype)
    try:
        set_state(pair, {name: tensors[first] for name, first in firsts.items()})
    except RuntimeError as error:
        raise RunError(f"{where}: not the weights of this pair: {first_line(error)}") from error


def set_state(pair: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers these values, in place; a name that is left out shares its tensor with another."""
    current = pair.state_dict(keep_vars=True)
    by_module = {}  # load_state_dict copies into plain tensors, makes lazy ones, and calls a module's own hooks
    for name, first in _first_names(current).items():
        value = tensors.get(name, tensors.get(first))
        if value is None:
            continue
        if is_lazy(current[name]) or current[name].is_contiguous():
            by_module[name] = value
        else:
            assign(current[name].data, value)
    pair.load_state_dict(by_module, strict=False)


def _why_not_kept(value: Any) -> str | None:
    """Why a value of a ``state_dict`` can't be kept in a file of tensors; None where it can."""
    if not torch.is_tensor(value):
        return (
            f"is a {type(value).__name__}, which a module keeps by get_extra_state and a file of tensors can't hold; "
            f"keep it in a buffer, or leave it out"
        )
    if is_lazy(value):
        return "belongs to a lazy layer that was not run on data; run check_pair(model, guide, x) once before saving"
    if value.layout == torch.strided and not value.is_quantized and not value.is_meta and value.dtype not in UNHELD:
        return None
    kind = "on no device (meta)" if value.is_meta else value.dtype if value.layout == torch.strided else value.layout
    return f"is {kind}, which a file of tensors can't hold; keep it as a plain tensor of float, int, bool or complex64"


def _first_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Each name of a state, and the first name of the same numbers: at one place, in one shape, order and dtype."""
    seen: dict[Any, str] = {}
    firsts = {}
    for name, value in state.items():
        key: Any = id(value)
        if torch.is_tensor(value) and not is_lazy(value):
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device) if value.numel() else name
        firsts[name] = seen.setdefault(key, name)
    return firsts
