"""Pairs in the style of Pyro's own tutorials: bound methods, pyro.module, pyro.param, no x=None."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import Tensor, nn


class Decoder(nn.Module):
    def __init__(self, z_dim: int, hidden: int, x_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(z_dim, hidden)
        self.fc21 = nn.Linear(hidden, x_dim)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc21(nn.functional.softplus(self.fc1(z))))


class Encoder(nn.Module):
    def __init__(self, z_dim: int, hidden: int, x_dim: int) -> None:
        super().__init__()
        self.x_dim = x_dim
        self.fc1 = nn.Linear(x_dim, hidden)
        self.fc21 = nn.Linear(hidden, z_dim)
        self.fc22 = nn.Linear(hidden, z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = nn.functional.softplus(self.fc1(x.reshape(-1, self.x_dim)))
        return self.fc21(h), torch.exp(self.fc22(h))


class TutorialVAE(nn.Module):
    """Written as a Pyro user writes it."""

    def __init__(self, z_dim: int = 3, hidden: int = 16, x_dim: int = 20) -> None:
        super().__init__()
        self.encoder = Encoder(z_dim, hidden, x_dim)
        self.decoder = Decoder(z_dim, hidden, x_dim)
        self.z_dim, self.x_dim = z_dim, x_dim

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img).to_event(1), obs=x.reshape(-1, self.x_dim))
            return loc_img

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


@config_enumerate
def enumerated_model(x: Tensor) -> None:
    locs = pyro.param("locs", torch.tensor([-0.5, 0.5]))
    with pyro.plate("data", len(x), dim=-1):
        c = pyro.sample("c", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(locs[c], 1.0), obs=x)


@config_enumerate
def enumerated_guide(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("c", dist.Categorical(logits=torch.stack([-slope * x, slope * x], -1)))
