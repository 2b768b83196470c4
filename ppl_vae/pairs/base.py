"""Pair, and ``build``, which makes one from the name of its builder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..common.choices import Choice, checked, record
from ..common.custom import origin
from ..common.errors import UserError
from ..common.fields import X, num_data
from ..common.numbers import convert, plain
from ..common.registry import pairs, resolve
from ..common.shown import table

OF_DATA = {  # options of a builder that the data give: their name, and the attribute of the data
    "data_shape": "data_shape", "data_mean": "mean", "data_scale": "scale", "num_classes": "num_classes",
    "column_classes": "column_classes", "label_size": "label_size", "vocabulary": "vocabulary",
}  # fmt: skip
NOT_KEPT = ("data_mean", "data_scale")  # they set weights or buffers: a run is rebuilt without them


class Stock(NamedTuple):
    """A pair for stock Pyro: the same programs, with their parameters declared by ``pyro.param``."""

    model: Callable[..., Any]
    guide: Callable[..., Any]


class Pair(nn.Module):
    """A model p(z)p(x|z) and a guide q(z|x): one module that holds the parameters of both.

    Args:
        model: ``model(x=None, y=None, n=1)``: a module, a function, or a bound method of a module.
        guide: ``guide(x, y=None)``.
        name: its name in tables.
        config: the options of :func:`build`, where that made it.
        data_shape: shape of one example, needed to sample from a model that can't run with ``x=None``; set by the first
            data that the pair is used on (``fit``, ``log_likelihood``).

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> same = pv.Pair(pair.model, pair.guide)
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        data_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        for role, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise UserError(f"Pair: the {role} is a {type(program).__name__}; give a callable with Pyro statements")
        self.model = model
        self.guide = guide
        # the object of a bound method is held too, so that .parameters(), .to() and .train() reach it
        holders = {id(h): h for h in (getattr(f, "__self__", None) for f in (model, guide)) if isinstance(h, nn.Module)}
        self.owners = nn.ModuleList(holders.values())
        self.name = name or "custom"
        self.config = None if config is None else dict(config)
        self.source: dict[str, Any] | None = None  # the file of a custom builder, see custom.origin
        self.data_shape = None if data_shape is None else checked_shape(data_shape, isinstance(data_shape, Mapping))
        self.template: Any = None  # no rows of the first data: their fields, shapes and types
        self.num_observed: int | None = None  # sites that observe data
        self.byte_scale: int | None = None  # the divisor of bytes: 255, or 1 for bits; None before the first
        self.columns: list[str] | None = None  # of the first table, in their order

    def as_pyro(self) -> Stock:
        """The pair for stock ``pyro.infer.SVI``, which trains only ``pyro.param`` sites.

        Calling the result writes to Pyro's parameter store, as stock Pyro code does.

        Example:
            >>> import pyro, torch, ppl_vae as pv
            >>> pair = pv.build("linear", data_shape=(5,), latent=2)
            >>> model, guide = pair.as_pyro()
            >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
            >>> loss = svi.step(torch.randn(8, 5))
            >>> pyro.clear_param_store()
        """

        def declare(program: Callable[..., Any]) -> Callable[..., Any]:
            def declared(*args: Any, **kwargs: Any) -> Any:
                for name, parameter in self.named_parameters():
                    if parameter.requires_grad:
                        pyro.param(f"{self.name}$$${name}", parameter)
                return program(*args, **kwargs)

            declared.__wrapped__ = program  # type: ignore[attr-defined]
            return declared

        return Stock(declare(self.model), declare(self.guide))

    def with_guide(self, guide: Choice) -> Pair:
        """Another guide, with fresh weights, under the same model; name, options and shape are kept.

        Args:
            guide: what ``build(guide=...)`` takes, where :func:`build` made this pair: a name of a family, with options
                or without, or a callable ``(features, latent) -> module``. Or a guide program ``guide(x, y=None)``.

        Raises:
            UserError: a family for a pair that :func:`build` did not make, or that has no option ``guide``.

        Example:
            >>> import ppl_vae as pv
            >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(8,))
            >>> other = pair.with_guide("diagonal")
            >>> other.model is pair.model, other.name, other.config["guide"]
            (True, 'vae', 'diagonal')
        """
        if _is_program(guide):
            config = None if self.config is None else {**self.config, "guide": record(guide)}
            return self._under(guide, config)
        if self.config is None:
            raise UserError(
                f"with_guide({guide!r:.60}): this pair was not made by build, so its guide has no features to give to "
                f"a family; give a guide program, guide(x, y=None)"
            )
        other = build(self.name, **{**self.config, "guide": guide})
        program = other.guide
        assert isinstance(program, nn.Module)
        like = next(self.parameters(), torch.empty(0))
        for module in program.modules():  # a guide that uses the model uses this one
            for name, child in module.named_children():
                if child is other.model:
                    setattr(module, name, self.model)
        return self._under(program.to(like), other.config)

    def _under(self, guide: Any, config: Mapping[str, Any] | None) -> Pair:
        pair = Pair(self.model, guide, self.name, config, self.data_shape)
        for name in ("template", "num_observed", "byte_scale", "columns"):  # the form of the data seen so far
            setattr(pair, name, getattr(self, name))
        return pair.train(self.training)

    def facts(self) -> dict[str, str]:
        """Name, options, shape of an example and numbers of parameters, as text."""
        options = {k: f"{v!r:.60}" for k, v in (self.config or {}).items()}
        sizes = {"model": _size(self.model), "guide": _size(self.guide)}
        whole = _size(self)
        parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        shared = f"; {n:,} in both" if (n := sum(sizes.values()) - whole) > 0 else ""
        shape = {} if self.data_shape is None else {"data_shape": repr(self.data_shape)}
        return {"name": repr(self.name), **options, **shape, "parameters": f"{whole:,} ({parts}{shared})"}

    def extra_repr(self) -> str:
        return "\n".join(f"{name}={text}" for name, text in self.facts().items())

    def _repr_html_(self) -> str:
        rows = [["", ""], *([name, text] for name, text in self.facts().items())]
        return table(rows, more=f"<details><summary>modules</summary><pre>{escape(repr(self))}</pre></details>")


def _size(program: Any) -> int:
    """Numbers in the parameters of a module, or of the object of a bound method; 0 of a function."""
    owner = program if isinstance(program, nn.Module) else getattr(program, "__self__", None)
    return sum(p.numel() for p in owner.parameters() if not is_lazy(p)) if isinstance(owner, nn.Module) else 0


def _is_program(guide: Choice) -> bool:
    """Whether this is ``guide(x, y=None)``, and neither a name nor a family ``(features, latent) -> module``."""
    if isinstance(guide, nn.Module) or not callable(guide):
        return isinstance(guide, nn.Module)
    second = list(inspect.signature(guide).parameters.values())[1:2]
    return not any(p.default is p.empty and not p.name.startswith(("y", "label")) for p in second)


def data_plate(x: X | None, n: int) -> Any:
    """The one plate of a pair: over the examples of x, or over ``n`` draws where x is None."""
    return pyro.plate("data", n if x is None else num_data(x), dim=-1)


def drawn_class(logits: Tensor, x: Tensor | None, y: Tensor | None) -> Tensor:
    """The class of each example, summed out where its label is not known: y is -1 there.

    A label is observed at the site ``"y"``, which has probability one under its class and zero under every other; where
    data are drawn, it is the class.
    """
    p = dist.Categorical(logits=logits)
    c = pyro.sample("c", p, obs=y if x is None else None, infer={"enumerate": "parallel"})
    if x is not None and y is not None:
        same = dist.Categorical(logits=torch.eye(len(logits), dtype=logits.dtype, device=logits.device).log()[c])
        pyro.sample("y", same.mask(y >= 0), obs=y.clamp(min=0))
    return c


def _refuse_no_classes(data: Any) -> None:
    """Refuse labels that are not classes, such as times or identifiers: a network would have an input for each."""
    splits = (data.train, data.valid, data.test)
    y = [split.y for split in splits if torch.is_tensor(split.y) and split.y.ndim == 1]
    if not y or y[0].is_floating_point():
        return
    n, (low, high) = sum(len(split) for split in splits), (int(end) for end in torch.cat(y).aminmax())
    if data.num_classes is None or high > max(10 * n, 10_000):
        raise UserError(
            f"labels run from {low} to {high} for {n} examples, so they are not classes 0, 1, 2 ..., with -1 where one "
            f"is not known: number them (numpy.unique(labels, return_inverse=True)[1]), choose another label, or give "
            f"num_classes"
        )


def build(name: str | Callable[..., Pair], data: Any = None, **options: Any) -> Pair:
    """A pair from its builder, with fresh weights from torch's global generator (``torch.manual_seed`` seeds it).

    Args:
        name: a name that ``ppl-vae list`` prints, or a builder: a function of keywords that returns a Pair, such as
            ``ppl_vae.pairs.vae.vae``.
        data: what :func:`ppl_vae.load_data` returns; fills in ``data_shape``, ``data_mean`` (for the output bias),
            ``data_scale``, ``num_classes``, ``column_classes`` and ``vocabulary`` where the builder takes them and they
            are not given.
        options: the builder's keyword arguments.

    Raises:
        UserError: an unknown name or option, or a value that the builder refuses.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 28, 28), latent=50, hidden=(200, 200), likelihood="bernoulli")
    """
    function: Callable[..., Pair] = resolve("pair", name, pairs()) if isinstance(name, str) else name
    source = None if isinstance(name, str) else origin(function)
    name = name if isinstance(name, str) else getattr(function, "__name__", type(function).__name__)
    known = inspect.signature(function).parameters
    if "data_shape" not in known:
        raise UserError(f"pair {name!r}: its builder takes no data_shape; write def {name}(*, data_shape, ...)")
    options = checked(f"pair {name!r}", known, options)
    if data is not None:
        if "num_classes" in known and "num_classes" not in options:
            _refuse_no_classes(data)
        for key in [key for key in OF_DATA if key in known and key not in options]:
            if (value := getattr(data, OF_DATA[key])) is not None:
                options[key] = value
    missing = [k for k, p in known.items() if p.default is p.empty and k not in options]
    if missing:
        lacks = {
            "num_classes": "labels that are classes 0, 1, 2 ...",
            "vocabulary": "words that are whole numbers 0, 1, 2 ...",
        }
        told = [f"; the data have no {lacks[k]}" for k in missing if k in lacks and data is not None]
        raise UserError(f"pair {name!r} needs {', '.join(missing)}{''.join(told)}")
    shape = checked_shape(options["data_shape"], "Mapping" in str(known["data_shape"].annotation))
    if options.get("data_mean") is not None:
        try:
            options["data_mean"] = mean = torch.as_tensor(options["data_mean"])
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"data_mean={options['data_mean']!r:.60}: give a tensor of shape {shape}") from None
        if mean.shape != shape:
            raise UserError(f"data_mean has shape {tuple(mean.shape)} for data_shape={shape}; give one mean per number")
    pair = function(**options)
    if not isinstance(pair, Pair):
        raise UserError(f"pair {name!r}: its builder returned a {type(pair).__name__}; return pv.Pair(model, guide)")
    pair.name, pair.source = name, source
    pair.config = {k: record(v) for k, v in options.items() if k not in NOT_KEPT}
    if pair.data_shape is None:
        pair.data_shape = shape
    return pair


def checked_shape(value: Any, fields: bool = False) -> Any:
    """The shape of one example, as a tuple of Python's ints; with ``fields`` a dictionary of such shapes.

    Raises:
        UserError: not a sequence of whole numbers from 1 on, or one field where several are needed, or vice versa.

    Example:
        >>> checked_shape(torch.tensor([1, 8, 8])), checked_shape(())
        ((1, 8, 8), ())
    """
    if isinstance(value, Mapping) != fields:
        found, fix = "examples of one tensor", "a dictionary of tensors, {'a': ..., 'b': ...}"
        if not fields:
            found, fix = f"the fields {', '.join(map(repr, value))}", "one tensor, or build another pair"
        raise UserError(f"data_shape={plain(value)!r:.80}: this pair can't take {found}; give {fix}")
    if fields:
        return {str(name): checked_shape(shape) for name, shape in value.items()}
    try:
        shape: tuple[int, ...] = convert(value, "Sequence[int]")
    except ValueError:
        raise UserError(
            f"data_shape={plain(value)!r}: give whole numbers, such as (1, 28, 28), or () for one"
        ) from None
    if any(n < 1 for n in shape):
        raise UserError(f"data_shape={shape}: each size must be at least 1")
    return shape
