"""Files that were damaged: refused in one line, or what they were."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.common.files import digest, read_tensors
from ppl_vae.data import canonical

VALUES = (None, True, -1, 0, 10**30, 0.5, float("nan"), "", "x", [], {}, [1, 2], {"name": "x"})


def flip(raw: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    i = rng.randrange(len(raw))
    return raw[:i] + bytes([raw[i] ^ 1 << rng.randrange(8)]) + raw[i + 1 :]


def cut(raw: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return raw[: rng.randrange(len(raw))]


def without(raw: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    i = rng.randrange(len(raw))
    return raw[:i] + raw[i + 1 + rng.randrange(64) :]


def twice(raw: bytes, rng: random.Random) -> bytes:
    """A part is there twice."""
    i = rng.randrange(len(raw))
    return raw[:i] + raw[max(0, i - 1 - rng.randrange(64)) :]


def noise(raw: bytes, rng: random.Random) -> bytes:
    """A part is noise."""
    i, n = rng.randrange(len(raw)), 1 + rng.randrange(32)
    return raw[:i] + rng.randbytes(n) + raw[i + n :]


def zeros(raw: bytes, rng: random.Random) -> bytes:
    """A part was never written: the file system had its length, and not yet its content."""
    i = rng.randrange(len(raw))
    return raw[:i] + bytes(len(raw) - i)


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, without, twice, noise, zeros)


def entry(raw: bytes, rng: random.Random) -> bytes:
    """One value somewhere in a JSON file is another, or is gone."""
    whole = json.loads(raw)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(whole)
    node, key = rng.choice(places)
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()


def damaged(raw: bytes, path: Path, rng: random.Random) -> bytes:
    """The content of a file after a damage that changed it."""
    kinds = (*BYTES, entry, entry, entry) if path.suffix == ".json" else BYTES
    while (other := rng.choice(kinds)(raw, rng)) == raw:
        pass
    return other


# ---- run folders


def a_run(folder: Path) -> Path:
    """A run of a small pair, by the command line."""
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    options = ["--latent", "2", "--hidden", "4", "--likelihood", "gaussian", "--num-samples", "5", "--no-figures"]
    words = ["train", "vae", *options, "--epochs", "2", "--data", folder / "x.npy", "--out", folder / "run"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return folder / "run"


def settings(run: Path) -> Any:
    """The configuration as it reads; None where it is no JSON."""
    try:
        return json.loads((run / "config.json").read_text())
    except ValueError:
        return None


def runs(count: int, seed: int, root: Path) -> dict[str, Any]:
    """Damaged run folders: how many were refused, had what they had, read as other settings, or were taken wrongly.

    A run is taken wrongly where other numbers come out of the same settings: another estimate, or other weights after
    one more epoch.
    """
    rng, run = random.Random(seed), a_run(root)
    config = settings(run)
    expected = {name: outcome(Path(shutil.copytree(run, root / name)), name)[1] for name in ("evaluate", "train")}
    files = sorted(path for path in run.rglob("*") if path.is_file())
    row: dict[str, Any] = {"files": count, "refused": 0, "as before": 0, "other settings": 0, "wrong": []}
    for i in range(count):
        copy = Path(shutil.copytree(run, root / "copy"))
        path = copy / rng.choice(files).relative_to(run)
        path.write_bytes(damaged(path.read_bytes(), path, rng))
        name, other = rng.choice(("evaluate", "evaluate", "train")), settings(copy) != config
        about = f"{i}: {path.name}, {name}"
        done, found = outcome(copy, name)
        if done.exit_code == 2:
            row["refused"] += 1
            if why := no_line(done):
                row["wrong"].append(f"{about}: {why}")
        elif done.exit_code != 0:
            row["wrong"].append(f"{about}: ended with {done.exit_code}: {done.exception!r:.200}")
        elif other:
            row["other settings"] += 1
        else:
            row["as before"] += 1
            if found != expected[name]:
                row["wrong"].append(f"{about}: other numbers")
        shutil.rmtree(copy)
    print(f"run files: {row}", flush=True)
    return row


def outcome(run: Path, name: str) -> tuple[Any, str]:
    """How a command on a run ended, and what it gave: an estimate, or the weights of one more epoch."""
    words = {
        "evaluate": ["evaluate", str(run), "--num-samples", "5", "--limit", "3", "--json"],
        "train": ["train", "--resume", "--no-figures", "--out", str(run), "--epochs", "3"],
    }[name]
    done = CliRunner().invoke(app, words)
    if done.exit_code:
        return done, ""
    if name == "train":
        return done, digest(read_tensors(run / "weights.safetensors")[0])
    return done, json.dumps({k: v for k, v in json.loads(done.stdout).items() if k != "run"})


def no_line(done: Any) -> str:
    """What is wrong with a refusal, which is one line that begins with ``error:``; empty where nothing is."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    if "Traceback" in done.output or "Traceback" in done.stderr:
        return "a traceback"
    return "" if len(lines) == 1 and len(lines[0]) > 20 else f"{len(lines)} lines of error: {done.stderr[-200:]!r}"


# ---- files of data


def sources(folder: Path) -> dict[str, tuple[Path, str]]:
    """A file of each kind, with the data set that reads it: its own path, or a name whose root is its folder."""
    import pandas as pd
    import scipy.io as sio

    rng = np.random.default_rng(0)
    x, y = rng.random((30, 4)).round(3).astype(np.float32), rng.integers(0, 3, 30)
    table = pd.DataFrame({**{f"c{i}": x[:, i] for i in range(4)}, "y": y})
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "t.tsv", index=False, sep="\t")
    table.to_parquet(folder / "t.parquet")
    np.save(folder / "a.npy", x)
    np.savez(folder / "a.npz", x=x, y=y)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 12)):
        for kind, shape in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
            head = (0x800 + len(shape)).to_bytes(4, "big") + b"".join(s.to_bytes(4, "big") for s in shape)
            values = rng.integers(0, 10, shape).astype(np.uint8).tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + values)
    amat = folder / "binarized_mnist"
    amat.mkdir()
    for part in ("train", "valid", "test"):
        rows = rng.integers(0, 2, (10, 784))
        (amat / f"binarized_mnist_{part}.amat").write_text("".join(" ".join(map(str, r)) + "\n" for r in rows))
    one = np.eye(5)[:, rng.integers(0, 5, 10)]
    burda = {"data": rng.random((784, 10)), "target": one, "testdata": rng.random((784, 10)), "testtarget": one}
    caltech: dict[str, Any] = {f"{part}_data": rng.integers(0, 2, (10, 784)) for part in ("train", "val", "test")}
    caltech |= {f"{part}_labels": rng.integers(1, 5, (1, 10)) for part in ("train", "val", "test")}
    mats = {"omniglot_burda": "chardata.mat", "silhouettes": "caltech101_silhouettes_28_split1.mat"}
    for (name, file), content in zip(mats.items(), (burda, caltech), strict=True):
        (folder / name).mkdir()
        sio.savemat(folder / name / file, content)
    own = {suffix: (folder / f"t.{suffix}", "") for suffix in ("csv", "tsv", "parquet")}
    own |= {suffix: (folder / f"a.{suffix}", "") for suffix in ("npy", "npz")}
    named = {"idx": (raw / "train-images-idx3-ubyte", "mnist"), "idx labels": (raw / "t10k-labels-idx1-ubyte", "mnist")}
    named |= {"amat": (amat / "binarized_mnist_test.amat", "binarized_mnist")}
    named |= {f"mat, {name}": (folder / name / file, name) for name, file in mats.items()}
    return own | named


CHECKED = ("amat", "mat, omniglot_burda", "mat, silhouettes")  # known by their checksums


def data(count: int, seed: int, root: Path) -> dict[str, Any]:
    """Damaged files of data: refused by a DataError of one line, or read as data of one length without infinities."""
    rng, found = random.Random(seed), {}
    kinds = sources(root)
    published = dict(canonical.DIGESTS)
    for path in [*root.rglob("*.amat"), *root.rglob("*.mat")]:  # as if these were the published files
        canonical.DIGESTS[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, (path, name) in kinds.items():
        whole = path.read_bytes()
        read_from(path, name, root)  # undamaged, it is read
        row: dict[str, Any] = {"files": count // len(kinds) + 1, "refused": 0, "read": 0, "wrong": []}
        for i in range(row["files"]):
            path.write_bytes(damaged(whole, path, rng))
            try:
                read = read_from(path, name, root)
            except pv.DataError as error:
                row["refused"] += 1
                if "\n" in str(error):
                    row["wrong"].append(f"{i}: several lines: {str(error)[:100]!r}")
            except Exception as error:  # any other is what this looks for
                row["wrong"].append(f"{i}: {type(error).__name__}: {str(error)[:150]!r}")
            else:
                row["read"] += 1
                x = torch.as_tensor(read.train.x)
                if (
                    kind in CHECKED
                    or bool(x.isinf().any())
                    or (read.train.y is not None and len(read.train.y) != len(x))
                ):
                    row["wrong"].append(f"{i}: was read")
        path.write_bytes(whole)
        found[kind] = row
        print(f"data files, {kind}: {row}", flush=True)
    canonical.DIGESTS.update(published)
    return found


def read_from(path: Path, name: str, root: Path) -> pv.Data:
    """The data of a file, or of the set of that name that the file is a part of."""
    return pv.load_data(name, root=root, download=False) if name else pv.load_data(path)
