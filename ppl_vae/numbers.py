"""Numbers as people have them (NumPy's, 0-d arrays and tensors) as Python's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def plain(value: Any) -> Any:
    """NumPy scalars, 0-d arrays and 0-d tensors as a Python int, float, bool or str; all else as it is.

    Lists, tuples and dictionaries are gone through.

    Example:
        >>> import numpy as np, torch
        >>> plain([np.int64(3), torch.tensor(0.5), {"on": np.bool_(True)}, None, "adam"])
        [3, 0.5, {'on': True}, None, 'adam']
    """
    if isinstance(value, int | float | str) and not isinstance(value, np.generic):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.floating):
        return float(value)  # .item() of a long double is a long double
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0):
        return value.item()
    return value
