"""NumPyro, written as its VAE example is: stax networks, ``SVI.update`` in a jitted loop over a whole epoch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from jax.example_libraries import stax
from numpyro.infer import SVI, Trace_ELBO

from ..images import probabilities, test_images
from ..job import HIDDEN, LATENT, LR, Job, Training

CONV = ("NHWC", "HWIO", "NHWC")  # XLA's own order on the CPU
Softplus = stax.elementwise(jax.nn.softplus)


def encoder_net(network: str) -> Any:
    """x (B, 28, 28, 1) to the mean and the standard deviation of q(z|x)."""
    if network == "mlp":
        layers = [stax.Flatten, stax.Dense(*HIDDEN["mlp"]), Softplus]
    else:
        layers = [f for c in HIDDEN["conv"] for f in (stax.GeneralConv(CONV, c, (3, 3), (2, 2), "SAME"), Softplus)]
        layers.append(stax.Flatten)
    scale = stax.serial(stax.Dense(LATENT), stax.Exp)
    return stax.serial(*layers, stax.FanOut(2), stax.parallel(stax.Dense(LATENT), scale))


def decoder_net(network: str) -> Any:
    """z (B, 50) to logits (B, 28, 28, 1)."""
    hidden = HIDDEN[network]
    if network == "mlp":
        return stax.serial(stax.Dense(*hidden), Softplus, stax.Dense(784), reshape(28, 28, 1))
    layers = [stax.Dense(hidden[-1] * 7 * 7), reshape(7, 7, hidden[-1])]
    for c in (*hidden[-2::-1], 1):
        layers += [Softplus, stax.GeneralConvTranspose(CONV, c, (3, 3), (2, 2), "SAME")]
    return stax.serial(*layers)


def reshape(*shape: int) -> Any:
    """A stax layer that gives each datum a shape."""
    return (
        lambda _, input_shape: ((input_shape[0], *shape), ()),
        lambda _, x, **__: x.reshape(x.shape[0], *shape),
    )


def training(job: Job, *, whole: bool = True) -> Training:
    """The order of an epoch is drawn on the host, as in the example; all else is inside the jitted loop.

    ``whole=False`` jits one step instead, which is the better choice for convolutions.
    """
    images = jnp.asarray(probabilities(job, "train").transpose(0, 2, 3, 1))
    encode_init, decode_init = encoder_net(job.network), decoder_net(job.network)

    def model(x: jax.Array) -> None:
        decode = numpyro.module("decoder", decode_init, (job.batch, LATENT))
        with numpyro.plate("data", job.batch):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(3), obs=x)

    def guide(x: jax.Array) -> None:
        encode = numpyro.module("encoder", encode_init, (job.batch, 28, 28, 1))
        loc, scale = encode(x)
        with numpyro.plate("data", job.batch):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(LR), Trace_ELBO())

    def step(state: Any, images: jax.Array, order: jax.Array, i: jax.Array) -> tuple[Any, jax.Array]:
        key, draw = random.split(state.rng_key)
        p = images[lax.dynamic_slice_in_dim(order, i * job.batch, job.batch)]
        return svi.update(state._replace(rng_key=key), random.bernoulli(draw, p).astype(p.dtype))

    def epoch(state: Any, images: jax.Array, order: jax.Array) -> tuple[Any, jax.Array]:
        def body(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, loss = step(carry[0], images, order, i)
            return state, carry[1] + loss

        return lax.fori_loop(0, job.steps, body, (state, jnp.zeros(())))

    run_epoch, run_step = jax.jit(epoch), jax.jit(step)
    rng = np.random.default_rng(job.seed)
    held = svi.init(random.PRNGKey(job.seed), images[: job.batch])

    def play() -> float:
        nonlocal held
        order = jnp.asarray(rng.permutation(len(images)))
        if whole:
            held, total = run_epoch(held, images, order)
        else:
            total = jnp.zeros(())
            for i in range(job.steps):
                held, loss = run_step(held, images, order, i)
                total += loss
        jax.block_until_ready(held)
        return float(total) / (job.steps * job.batch)

    def log_px(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        loc, scale = encoder_net(job.network)[1](params["encoder$params"], x)
        z = loc + scale * random.normal(key, (job.num_samples, *loc.shape))
        logits = decoder_net(job.network)[1](params["decoder$params"], z.reshape(-1, LATENT))
        log_px_z = dist.Bernoulli(logits=logits).log_prob(jnp.tile(x, (job.num_samples, 1, 1, 1)))
        log_w = log_px_z.sum((1, 2, 3)).reshape(job.num_samples, -1)
        log_w += (dist.Normal(0, 1).log_prob(z) - dist.Normal(loc, scale).log_prob(z)).sum(-1)
        return jax.nn.logsumexp(log_w, 0) - jnp.log(job.num_samples)

    estimate = jax.jit(log_px)

    def nll() -> float:
        params, x = svi.get_params(held), jnp.asarray(test_images(job).transpose(0, 2, 3, 1))
        keys = random.split(random.PRNGKey(job.seed), len(x))
        found = [estimate(params, x[i : i + 1], keys[i]) for i in range(len(x))]
        return -float(jnp.concatenate(found).mean())

    return Training(play, nll)
