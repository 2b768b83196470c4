"""A report as a file: facts in a template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.files import writable, write_text
from .page import page


def write_report(template: str, facts: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a template; returns its path."""
    writable(path.parent)
    write_text(path, page(template, facts))
    return path
