"""Run by `make readme`: every Python block of the README and of the docs runs, page by page, from top to bottom.

Shell blocks of the README run too, but for the ones that install, and those that need data that is not there. So do the
shell blocks of a page whose Python blocks make a file mine.py.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MNIST = ROOT.parent / "shared" / "data"
SKIP = ("make ", "pip ", "git ", "python -m venv", "source ", "cd ", "pre-commit ")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    script = tmp_path / "page.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    custom = [block for block in blocks(page, "python") if block.startswith("# mine.py\n")]
    if custom:  # the file that the commands of the page name
        (tmp_path / "mine.py").write_text("\n".join(custom))
        lines = commands(page)
        assert sum("mine.py" in line for line in lines) >= 12
        run(lines, tmp_path)


def run(lines: list[str], folder: Path) -> None:
    """Run commands in order, in one folder, with those of this environment first on the path."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env["OMP_NUM_THREADS"] = "1"  # another worker runs beside this one
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "(?:bash|sh|shell)") for line in block.splitlines()]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def chains() -> list[list[str]]:
    """Commands that work on the same runs, in order; two chains have no run in common."""
    found: list[list[str]] = []
    for line in commands(ROOT / "README.md"):
        # MNIST takes minutes: what the README says of it was run by hand, and its figures say how
        if line.startswith(SKIP) or "mnist" in line:
            continue
        runs = {word for word in line.split() if word.startswith("runs/")}
        before = [c for c in found if runs & set(" ".join(c).split())]
        found = [c for c in found if c not in before] + [[*chain.from_iterable(before), line]]
    return found


@pytest.mark.parametrize("lines", chains(), ids=lambda lines: lines[0])
def test_shell_blocks_run(lines: list[str], tmp_path: Path) -> None:
    run(lines, tmp_path)


def test_the_readme_has_commands() -> None:
    assert sum(map(len, chains())) >= 8


HELP = re.findall(r"^\$ (ppl-vae [^\n]*--help)\n(.*?)^```", (ROOT / "docs/command_line.md").read_text(), re.M | re.S)


@pytest.mark.parametrize(("command", "text"), HELP, ids=[command for command, _ in HELP])
def test_the_help_in_the_docs_is_the_help(command: str, text: str) -> None:
    """The same options; how they are laid out is Typer's business, and changes with its version."""
    words = [sys.executable, "-m", "ppl_vae", *command.split()[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert set(re.findall(r"--[a-z][a-z0-9-]+", text)) == set(re.findall(r"--[a-z][a-z0-9-]+", done.stdout))


def test_the_docs_show_the_help_of_every_command() -> None:
    assert len(HELP) >= 8
