"""pythae: its VAE with encoder and decoder handed over, its trainer, its ``get_nll``.

Its loss is the same bound with the KL term in closed form, and its decoder gives probabilities, not logits.
"""

from __future__ import annotations

import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor

from .. import nets
from ..images import probabilities, test_images
from ..job import LATENT, LR, SHAPE, Job, Play
from .pytorch import trained


class Encoder(BaseEncoder):
    """The shared encoder in pythae's form."""

    def __init__(self, net: nets.Encoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        loc, log_scale = self.net(x)
        return ModelOutput(embedding=loc, log_covariance=2 * log_scale)


class Decoder(BaseDecoder):
    """The shared decoder in pythae's form."""

    def __init__(self, net: nets.Decoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).sigmoid())


def vae(encoder: nets.Encoder, decoder: nets.Decoder) -> VAE:
    config = VAEConfig(input_dim=SHAPE, latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, Encoder(encoder), Decoder(decoder))


def training(job: Job) -> Play:
    """Whole epochs of ``BaseTrainer.train_step`` over its own loader, without its checkpoints and copies of the model.

    An epoch is as long as a round. Its images are chosen and binarised all at once before it, which is cheaper than
    in ``__getitem__``.
    """
    torch.manual_seed(job.seed)
    p = torch.from_numpy(probabilities(job, "train"))
    size = job.steps * job.batch
    dataset = BaseDataset(p[:size], torch.zeros(size))
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job.batch, learning_rate=LR, no_cuda=True,
        seed=job.seed,
    )  # fmt: skip
    trainer = BaseTrainer(vae(nets.Encoder(job.network), nets.Decoder(job.network)), dataset, training_config=config)
    trainer.prepare_training()

    def play() -> float:
        dataset.data = torch.bernoulli(p[torch.randperm(len(p))[:size]])
        return float(trainer.train_step(epoch=1))

    return play


def likelihood(job: Job, *, batch_size: int) -> Play:
    """``get_nll``; 100 is its default, 5000 what its scripts take. Both divide K, without which it miscounts.

    In spite of its name it returns the mean log p(x), with no minus sign.
    """
    model = vae(*trained(job)).eval()
    x = torch.from_numpy(test_images(job))

    @torch.no_grad()
    def play() -> float:
        return float(model.get_nll(x, n_samples=job.num_samples, batch_size=min(batch_size, job.num_samples)))

    return play
