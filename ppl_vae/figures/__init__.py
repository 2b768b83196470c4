"""Figures, one function each: matplotlib figures that belong to no window and change no global setting.

Images, of shape (H, W), (1, H, W) or (3, H, W), are clipped to [0, 1]; vectors (D,) are drawn as lines on one scale.

May import: everything but ``cli``, ``strategies`` and ``reports``. A figure is a function in the file of its subject,
exported here; one that every run has is also called in ``write.py``.
"""

from .calibration import rank_ecdf as rank_ecdf
from .gaps import gap_bars as gap_bars
from .gradients import signal_to_noise_curves as signal_to_noise_curves
from .graph import graph as graph
from .images import reconstructions as reconstructions, samples as samples
from .information import kl_bars as kl_bars
from .latents import (
    interpolation as interpolation,
    latent_grid as latent_grid,
    latent_scatter as latent_scatter,
    traversal as traversal,
)
from .likelihood import (
    bound_curves as bound_curves,
    khat_scatter as khat_scatter,
    log_px_histogram as log_px_histogram,
    loss_curves as loss_curves,
    sandwich as sandwich,
)
from .studies import (
    difference_by_example as difference_by_example,
    forest as forest,
    gap_by_strategy as gap_by_strategy,
    learning_curves as learning_curves,
    samples_by_strategy as samples_by_strategy,
    sweep as sweep,
)
from .targets import accuracy as accuracy
from .write import save_all as save_all
