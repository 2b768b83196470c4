"""The command line: its commands, and how their errors are reported."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..common.errors import RankError, UserError
from .classify import classify
from .compare import compare
from .encode import encode
from .evaluate import evaluate, score
from .gaps import gaps
from .generate import figures, reconstruct, sample
from .gradients import gradients
from .list import list_
from .options import with_groups
from .output import log
from .posterior import posterior
from .report import report
from .sbc import sbc
from .study import study
from .targets import targets
from .train import TrainCommand, train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Variational autoencoders as Pyro programs, and a log-likelihood that you can believe.",
)
SHARED = (train, evaluate, score, gaps, figures, compare)  # commands whose work the ranks share


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@contextmanager
def in_one_line() -> Iterator[None]:
    """Report an error that the user can fix in one line on standard error, with exit code 2; any other, with 1."""
    try:
        yield
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except RankError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it meanwhile, and would hide the exit code
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except BrokenPipeError:  # the reader has seen enough, as in ``ppl-vae list | head``: Typer ends in silence
        raise
    except OSError as error:
        typer.echo(f"error: {error.filename or 'a file'}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(1) from None


def command(function: Callable[..., None], cls: Any = None) -> None:
    """Register a command."""
    whole = with_groups(function)

    @functools.wraps(whole)
    def guarded(**kwargs: Any) -> None:
        with in_one_line(), _ranks(function in SHARED) as has_work:
            if has_work:
                whole(**kwargs)

    app.command(name=function.__name__.rstrip("_"), cls=cls)(guarded)


@contextmanager
def _ranks(shared: bool) -> Iterator[bool]:
    """Under ``torchrun``, join the other ranks; only rank 0 prints. Gives whether this rank has any work."""
    if "RANK" not in os.environ:
        yield True
        return
    from ..common import ranks

    if not shared:
        yield os.environ["RANK"] == "0" or not ranks.started()
        return
    with ranks.joined(), ExitStack() as quiet:
        if not ranks.first():
            quiet.enter_context(redirect_stdout(quiet.enter_context(Path(os.devnull).open("w"))))
            log.quiet = True
        yield True


class _Train(TrainCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with in_one_line():
            return super().parse_args(ctx, args)


command(train, _Train)
for each in (
    evaluate,
    score,
    classify,
    posterior,
    encode,
    gaps,
    sbc,
    sample,
    reconstruct,
    figures,
    compare,
    study,
    report,
    gradients,
    targets,
    list_,
):
    command(each)


def main() -> None:
    """The entry point of ``ppl-vae``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± gets a question mark, not a traceback
    app()
