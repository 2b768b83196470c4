"""The record of a simulation-based calibration: ranks, their tests, and what they say in words."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..common.shown import Shown
from . import uniformity
from .uniformity import Array, Shape, shape

LEVEL = 0.95  # of the envelope of all quantities together
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of central intervals
CLEAR = 2.0  # standard errors from which a scale or a shift is named
SHOWN = 12  # quantities in print
NOT_TESTED = -1  # the rank of a masked entry
DENSITIES = ("log p(x|z)", "log p(x,z)", "log w")  # quantities of all latents together


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """Ranks of exact posterior draws among the draws of a method, for each simulated example and test quantity.

    Where the method draws from the posterior, each rank is uniform on 0, ..., L.

    Attributes:
        ranks: (N, Q) int64; -1 where an entry is masked, and so not tested.
        quantities: the Q names: ``"z[0]"`` for an entry of a latent, and quantities of all latents together.
        num_samples: L, the draws for each example.
        method: what drew them.
        seed: the seed.
    """

    ranks: Tensor
    quantities: tuple[str, ...]
    num_samples: int
    method: str
    seed: int

    def __len__(self) -> int:
        return len(self.ranks)

    def __getitem__(self, quantity: str) -> Array:
        """The ranks of a quantity, (N,) without masked examples."""
        column: Array = self.ranks[:, self.quantities.index(quantity)].numpy()
        tested: Array = column[column != NOT_TESTED]
        return tested

    @property
    def level(self) -> float:
        """The level of the envelope of one quantity: 95 % for all of them, by Bonferroni's inequality."""
        return 1 - (1 - LEVEL) / len(self.quantities)

    @functools.cached_property
    def p_values(self) -> dict[str, float]:
        """Of each quantity by itself, exact for the whole empirical distribution of its ranks."""
        return {name: uniformity.p_value(self[name], self.num_samples) for name in self.quantities}

    @property
    def p_value(self) -> float:
        """Of all quantities together, by Bonferroni's inequality."""
        return min(1.0, len(self.quantities) * min(self.p_values.values()))

    @property
    def failed(self) -> list[str]:
        """The quantities whose ranks leave the envelope, those of the smallest p-values first."""
        found = [name for name, p in self.p_values.items() if p <= 1 - self.level]
        return sorted(found, key=lambda name: self.p_values[name])

    @property
    def calibrated(self) -> bool:
        """Whether no quantity leaves its envelope; read it with :attr:`detectable`."""
        return not self.failed

    @property
    def detectable(self) -> dict[str, float]:
        """The least defects of one latent that are found with 80 % power, where both distributions are Gaussian.

        ``narrow`` and ``wide`` are the standard deviation of the draws over that of the posterior, ``shift`` is in
        standard deviations of the posterior; nan where not even a factor of 20 or a shift of 5 is found.
        """
        return uniformity.detectable(len(self), self.num_samples, self.level)

    def coverage(self, quantity: str) -> list[tuple[float, float]]:
        """How often central intervals of the draws hold the exact draw: pairs of a level and the share found.

        A level is the one nearest to 50, 80, 90 and 95 % that whole ranks give.
        """
        ranks, size = self[quantity], self.num_samples + 1
        found = []
        for level in LEVELS:
            out = min(round((1 - level) / 2 * size), self.num_samples // 2)  # ranks left out on either side
            inside = (ranks >= out) & (ranks < size - out)
            found.append((1 - 2 * out / size, float(inside.mean())))
        return found

    def verdict(self, quantity: str) -> str:
        """What the ranks of a quantity say of the draws, in words."""
        if quantity not in self.failed:
            return "as the posterior"
        found = shape(self[quantity], self.num_samples)
        if max(abs(found.scale_z), abs(found.shift_z)) < CLEAR:
            return "another shape than the posterior"
        if quantity in DENSITIES:
            return _of_density(quantity, found)
        if abs(found.shift_z) > abs(found.scale_z):
            side = "low" if found.shift < 0 else "high"
            return f"biased: too {side}, by some {abs(found.shift):.2f} of the draws' sd"
        kind = "too narrow" if found.scale < 1 else "too wide"
        return f"{kind}: sd some {found.scale:.2f} of the posterior's"

    def table(self) -> list[dict[str, Any]]:
        """One JSON-able dictionary a quantity: its p-value, its verdict, the coverage of its central intervals."""
        return [
            {
                "quantity": name,
                "n": len(self[name]),
                "p_value": self.p_values[name],
                "failed": name in self.failed,
                "verdict": self.verdict(name),
                "coverage": [{"level": level, "found": found} for level, found in self.coverage(name)],
            }
            for name in self.quantities
        ]

    def summary(self) -> dict[str, Any]:
        """All of it as one JSON-able dictionary; None stands for a defect of any size that is not found."""
        power = {k: v if math.isfinite(v) else None for k, v in self.detectable.items()}
        about = {"method": self.method, "num_data": len(self), "num_samples": self.num_samples, "seed": self.seed}
        found = {"calibrated": self.calibrated, "p_value": self.p_value, "detectable": power}
        return {**about, **found, "sentence": self.sentence(), "quantities": self.table()}

    def sentence(self) -> str:
        """The verdict on all quantities in a sentence."""
        on = f"{len(self)} simulated examples (L = {self.num_samples}, seed {self.seed})"
        if self.calibrated:
            return f"No sign that {self.method} draws from another distribution than the posterior, on {on}."
        total = len(set(self.quantities) - set(DENSITIES))
        kinds = [self.verdict(name).split(":")[0] for name in self.failed if name not in DENSITIES]
        found = [f"{kind} for {kinds.count(kind)} of {total} latents" for kind in dict.fromkeys(kinds)]
        if len(kinds) < len(self.failed):
            found.append(f"{'' if kinds else 'each latent by itself is right, but '}all latents together are off")
        return f"{self.method} does not draw from the posterior: {', '.join(found)}, on {on}."

    def cells(self) -> list[list[str]]:
        """The table as text, its head first: the quantities of the smallest p-values."""
        worst = sorted(self.quantities, key=lambda name: self.p_values[name])[:SHOWN]
        cells = [["quantity", "p", f"{100 * self._nominal:.0f} %", "the draws are"]]
        for name in sorted(worst, key=self.quantities.index):
            p = self.p_values[name]
            shown = "<1e-9" if p < 1e-9 else f"{p:.2g}"
            cells.append([name, shown, f"{100 * self.coverage(name)[2][1]:.1f}%", self.verdict(name)])
        return cells

    @property
    def _nominal(self) -> float:
        """The level of the intervals in the table."""
        return self.coverage(self.quantities[0])[2][0]

    def _rules(self) -> list[str]:
        """How the table is read, and what so many examples find."""
        n = len(self.quantities)
        rest = [f"and {n - SHOWN} more with larger p-values"] if n > SHOWN else []
        return [
            *rest,
            f"p is that of one quantity, and {1 - self.level:.2g} its limit (5 % for all {n} together); "
            f"{100 * self._nominal:.0f} %: how many intervals of that level, of {self.num_samples} draws, hold the "
            f"exact draw.",
            self.power(),
        ]

    def notes(self) -> list[str]:
        """The verdict, and how the table is read."""
        return [self.sentence(), *self._rules()]

    def __str__(self) -> str:
        rows = [f"{name:<16}{p:>9}{share:>8}  {verdict}" for name, p, share, verdict in self.cells()]
        return "\n".join([self.sentence(), *rows, *self._rules()])

    def power(self) -> str:
        """What so many examples find, in a sentence."""
        found = {k: v for k, v in self.detectable.items() if math.isfinite(v)}
        scales = [f"{found[k]:.2f}" for k in ("narrow", "wide") if k in found]
        parts = [f"an sd of {' or '.join(scales)} times the posterior's"] if scales else []
        parts += [f"a mean that is off by {found['shift']:.2f} sd"] if "shift" in found else []
        if not parts:
            return f"{len(self)} examples are too few to find anything."
        return f"{len(self)} examples find, in one latent with 80 % power, {' or '.join(parts)}."


def _of_density(quantity: str, found: Shape) -> str:
    """What it means that a log density is lower or higher at the draws than at exact draws."""
    if quantity == "log w" or abs(found.shift_z) < CLEAR:
        return "not those of the posterior, all latents together"
    if found.shift < 0:
        return "too wide, or without the dependence of latents: they lie lower"
    return "too narrow: they lie higher"
