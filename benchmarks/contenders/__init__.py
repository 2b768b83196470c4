"""Who takes part: one short file a peer, and the table of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """A row: a file of this folder, a function of it that takes a `Job` and gives its rounds, and its options."""

    module: str
    function: str
    options: Mapping[str, Any] = {}
    networks: tuple[str, ...] = ("mlp", "conv")

    @property
    def ours(self) -> bool:
        return self.module == "ppl_vae"


TRAINING = {
    "ppl_vae, `pv.SVI(capture=True).step`": Contender("ppl_vae", "training", {"capture": True}),
    "ppl_vae, `pv.fit`": Contender("ppl_vae", "fit", {"capture": True}),
    "ppl_vae, `pv.SVI.step`, not captured": Contender("ppl_vae", "training", {"capture": False}),
    'ppl_vae, `pv.fit(precision="bf16")`': Contender("ppl_vae", "fit", {"capture": True, "precision": "bf16"}),
    "Pyro, `pyro.infer.SVI`": Contender("pyro", "training"),
    "Pyro, no validation, matmul setting": Contender("pyro", "training", {"tuned": True}),
    # on the CPU XLA's convolutions are several times slower inside a loop: there the jitted step stands for NumPyro
    "NumPyro, jitted epoch": Contender("numpyro", "training", networks=("mlp",)),
    "NumPyro, jitted step": Contender("numpyro", "training", {"whole": False}),
    "pythae, `BaseTrainer`": Contender("pythae", "training"),
    "PyTorch by hand, eager": Contender("pytorch", "training"),
    "PyTorch by hand, `torch.compile`": Contender("pytorch", "training", {"compiled": True}),
}

LIKELIHOOD = {
    "ppl_vae, `pv.log_likelihood`": Contender("ppl_vae", "likelihood", {"capture": True}),
    "ppl_vae, `pv.log_likelihood`, not captured": Contender("ppl_vae", "likelihood", {"capture": False}),
    'ppl_vae, `pv.log_likelihood(precision="bf16")`': Contender(
        "ppl_vae", "likelihood", {"capture": True, "precision": "bf16"}
    ),
    "Pyro, `vectorized_importance_weights`, looped": Contender("pyro", "likelihood"),
    "pythae, `get_nll(batch_size=100)`": Contender("pythae", "likelihood", {"batch_size": 100}),
    "pythae, `get_nll(batch_size=5000)`": Contender("pythae", "likelihood", {"batch_size": 5000}),
    "PyTorch by hand, in chunks": Contender("pytorch", "likelihood"),
}
