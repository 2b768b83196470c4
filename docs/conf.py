"""Sphinx: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``; nothing is fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from ppl_vae import __version__

project = "ppl_vae"
author = "The ppl_vae authors"
copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "pages"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

nb_execution_mode = "force"  # what a notebook shows is what the code of this commit gives
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress, and warnings of other libraries
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"
autodoc_type_aliases = {"Source": "Source"}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_use_ivar = True
default_role = "code"

html_theme = "furo"
html_title = f"ppl_vae {__version__}"
html_show_sourcelink = False


def _command(found: re.Match[str]) -> str:
    return f"    ``{' '.join(found[1].split())}``"


def plain_shapes(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write (K, B, *event) and q(z|x) plainly; to reStructuredText both would open markup."""
    lines[:] = re.sub(r"^ *\$ (ppl-vae .+?)(?=\n *\n|\Z)", _command, "\n".join(lines), flags=re.M | re.S).split("\n")
    verbatim = False  # inside a formula or an example, which end at a blank line
    for i, line in enumerate(lines):
        verbatim = bool(line.strip()) and (verbatim or line.lstrip().startswith((".. math::", ">>>")))
        if not verbatim:
            parts = re.split(r"(`+[^`]+`+)", line)  # every second part is code
            parts[::2] = [re.sub(r"[*|]", r"\\\g<0>", part) for part in parts[::2]]
            lines[i] = "".join(parts)


def setup(app: Any) -> None:
    """Before napoleon, which listens at 500."""
    app.connect("autodoc-process-docstring", plain_shapes, priority=400)
