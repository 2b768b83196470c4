"""What every contender is asked to do: the same sizes, the same data, the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Play = Callable[[], float]  # one round: runs it to its end and returns what all contenders must agree on


@dataclass(frozen=True)
class Loop:
    """A contender that runs its rounds by itself, and calls back at the end of each with what a `Play` returns."""

    run: Callable[[Callable[[float], None]], None]


@dataclass(frozen=True)
class Training:
    """A `Play` that trains, and what its weights are worth by now: the K-sample NLL of the test images, in nats."""

    play: Play
    nll: Play

    def __call__(self) -> float:
        return self.play()


SHAPE = (1, 28, 28)
LATENT = 50
LR = 1e-3
HIDDEN = {"mlp": (400,), "conv": (32, 64)}  # widths, or channels of 3x3 convolutions with stride 2; softplus after each


@dataclass(frozen=True)
class Job:
    """One contest.

    Attributes:
        root: the folder of the data, in torchvision's layout.
        network: ``"mlp"`` or ``"conv"``.
        batch: images in a training step.
        steps: training steps in a round.
        rounds: rounds that will be asked for, after the first, which compiles.
        images: test images whose log p(x) is estimated in a round.
        num_samples: K.
        pretrain: training steps before a likelihood is estimated, so that its weights are not degenerate.
        matmul: torch's float32 matmul precision, for this package and for hand-written PyTorch.
        seed: of every contender.
    """

    root: str
    network: str = "mlp"
    batch: int = 128
    steps: int = 468
    rounds: int = 15
    images: int = 64
    num_samples: int = 5000
    pretrain: int = 500
    matmul: str = "medium"
    seed: int = 0
