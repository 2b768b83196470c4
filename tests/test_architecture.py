"""The tree: arrows between folders run one way, one file handles effects, importing is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ppl_vae

PACKAGE = Path(ppl_vae.__file__).parent
FILES = {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", "."): p for p in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """Modules of the package that a file imports, at its top or inside a function; types alone make no arrow."""
    path = FILES[name]
    parts = ("ppl_vae", *name.split("."))
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level])
            module = base + (node.module.split(".") if node.module else [])
            names = [".".join(module)] if node.module else [".".join([*module, a.name]) for a in node.names]
            found |= {n.removeprefix("ppl_vae.") for n in names}
            found |= {
                ".".join([*module, a.name]).removeprefix("ppl_vae.")
                for a in node.names
                if ".".join([*module, a.name]).removeprefix("ppl_vae.") in FILES
            }
    return {f for f in found if f in FILES and f != name}


ORDER = [
    "common", "data", "nn", "guides", "priors", "pairs", "runs", "compile", "scoring", "objectives", "training",
    "likelihood", "draws", "targets", "compression", "figures", "reports", "strategies", "cli",
]  # fmt: skip


def folder(name: str) -> str:
    return name.split(".")[0]


def test_the_tree_is_the_table_of_contents() -> None:
    """Every file is in a folder that has its place, and every folder says what lives there."""
    assert {folder(name) for name in FILES} == {*ORDER, "__init__", "__main__"}
    assert {name for name in FILES if "." not in name} == {"__init__", "__main__"}
    for name in ORDER:
        said = ast.get_docstring(ast.parse(FILES[f"{name}.__init__"].read_text())) or ""
        assert "May import:" in said, name


@pytest.mark.parametrize("name", sorted(set(FILES) - {"__init__", "__main__"}))
def test_arrows_run_one_way(name: str) -> None:
    allowed = ORDER[: ORDER.index(folder(name)) + 1]
    assert {folder(other) for other in imports(name)} <= {*allowed, "__init__"}


@pytest.mark.parametrize("name", ORDER)
def test_a_folder_imports_what_it_says(name: str) -> None:
    """The paragraph of a folder names the folders that its files import, and no others."""
    said = ast.get_docstring(ast.parse(FILES[f"{name}.__init__"].read_text())) or ""
    sentence = said.split("May import:")[1].split(". ")[0]
    used = {folder(other) for file in FILES if folder(file) == name for other in imports(file)}
    named = set(re.findall(r"``(\w+)``", sentence))
    everything = {"everything": set(ORDER), "nothing": set()}
    wide = next((found for word, found in everything.items() if word in sentence), None)
    assert used - {name, "__init__"} <= named if wide is None else used - {name, "__init__"} <= wide - named


def test_no_file_imports_itself_through_others() -> None:
    graph = {name: imports(name) for name in FILES if name != "__init__"}
    order = list(TopologicalSorter(graph).static_order())  # a CycleError where one does
    assert all(order.index(other) < order.index(name) for name in graph for other in graph[name])


def test_scoring_and_pairs_never_meet() -> None:
    for name in FILES:
        assert not (folder(name) == "scoring" and any(folder(other) == "pairs" for other in imports(name))), name
        assert not (folder(name) == "pairs" and any(folder(other) == "scoring" for other in imports(name))), name


def test_only_the_trace_handles_effects() -> None:
    def handles_effects(node: ast.AST) -> bool:
        named = isinstance(node, ast.ImportFrom | ast.Import) and any("poutine" in a.name for a in node.names)
        inside = isinstance(node, ast.ImportFrom) and "poutine" in (node.module or "")
        return named or inside or (isinstance(node, ast.Attribute) and node.attr == "poutine")

    trees = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
    assert {name for name, tree in trees.items() if any(map(handles_effects, ast.walk(tree)))} == {"scoring.trace"}


def _code(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return "\n".join(
        ast.unparse(n) for n in tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    )


def test_pairs_are_short() -> None:
    """20 to 80 lines of code a pair; docstrings and blank lines come on top."""
    for name, path in FILES.items():
        if name.startswith("pairs.") and name not in ("pairs.base", "pairs.options", "pairs.__init__"):
            lines = [line for line in _code(path).splitlines() if line.strip()]
            assert len(lines) <= 80, (name, len(lines))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_loads_no_torch_and_changes_no_setting() -> None:
    assert (
        run("import sys, ppl_vae, ppl_vae.cli.app; print('torch' in sys.modules or 'pyro' in sys.modules)") == "False"
    )
    code = """
import random, sys, torch, numpy as np
torch.manual_seed(3)
before = (torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
          torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
          torch.is_grad_enabled())
import ppl_vae as pv
for name in pv.__all__:
    getattr(pv, name)
import ppl_vae.figures
after = (torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
         torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
         torch.is_grad_enabled())
print(before == after and "scipy.stats" not in sys.modules)  # which takes longer to import than all else but torch
"""
    assert run(code) == "True"


def test_every_public_name_is_there_and_documented() -> None:
    for name in ppl_vae.__all__:
        value = getattr(ppl_vae, name)
        assert name == "__version__" or value.__doc__, name
    assert callable(ppl_vae.fit)
    assert callable(ppl_vae.compare)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ppl_vae.nothing


def test_type_checkers_see_the_public_names_where_they_are_loaded_from() -> None:
    nodes = ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
    declared = {a.asname: n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level for a in n.names}
    assert declared == ppl_vae._WHERE


def test_every_public_function_has_an_example() -> None:
    for name in ppl_vae.__all__:
        value = getattr(ppl_vae, name)
        if callable(value) and not isinstance(value, type):
            assert ">>>" in (value.__doc__ or ""), name


DOCS = Path(__file__).parents[1] / "docs"


def test_every_public_name_is_on_the_api_page() -> None:
    page = (DOCS / "api.md").read_text()
    for name in set(ppl_vae.__all__) - {"__version__"}:
        assert re.search(rf"(?:ppl_vae\.|py:data:: ){name}\b", page), name


def test_the_design_page_has_the_tree_in_its_order() -> None:
    page = (DOCS / "design.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page.split("## The tree")[1].split("## ")[0], re.MULTILINE) == ORDER


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    """Files, folders, and what is in a file, as in ``scoring/inputs.Needs``."""
    for place, name in re.findall(r"`([\w/]+/\w*)(?:\.(\w+))?`", (DOCS.parent / page).read_text()):
        file = next((f for f in (PACKAGE / place, DOCS.parent / place) if f.parent.is_dir()), None)
        assert file is not None, place
        suffix = name if name in ("", "md", "json") else "py"
        found = file.with_suffix(f".{suffix}" if suffix else "")
        assert found.exists(), place
        assert suffix == name or name in found.read_text(), (place, name)
