"""Commands as a user types them, in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from ppl_vae.cli.app import app

FEW = ["--num-samples", "20", "--limit", "10", "--device", "cpu"]


def call(*args: Any, code: int = 0) -> Any:
    """What a command prints; where the input is at fault (code 2), it is one line, and no traceback."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    assert "Traceback" not in result.output
    if code == 2:
        assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    return result


def read(*args: Any) -> dict[str, Any]:
    """The object that a command prints with --json."""
    found: dict[str, Any] = json.loads(call(*args, "--json").stdout)
    return found
