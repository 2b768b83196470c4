"""Execute the notebooks of this folder and store them with their outputs: ``make notebooks``.

The docs build executes them again, and fails where one does. What is stored has outputs, so that it reads wherever
notebooks are shown, and nothing of the machine: no times, no paths, no warnings of other libraries.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def cleaned(notebook: Any) -> Any:
    """The notebook without standard error, times, and numbers of a session; ids are places."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place}", {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def store(path: Path) -> None:
    """Execute a notebook in its folder, and write it back."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(path.parent))
    nbformat.write(cleaned(notebook), path)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for found in sorted(FOLDER.glob("*.ipynb")):
        if not chosen or found.stem in chosen:
            store(found)
            print(found.name)
