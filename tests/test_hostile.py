"""Nothing that a user loads can run code, reach out of itself, or keep a command waiting for ever."""

import ast
import hashlib
import io
import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import safetensors.numpy
from fuzz import valid_files
from malformed import N, cells
from refusals import assert_named, line_of, refused, refused_training, saved
from test_malformed import end_of

import cplmix_ray
from cplmix_ray.checkpoints.manifest import pack
from cplmix_ray.cli.augment_command import augment
from cplmix_ray.cli.bench_command import bench
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.simulate_command import simulate
from cplmix_ray.cli.train_command import train
from cplmix_ray.cli.tune_command import tune
from cplmix_ray.models.vaegan.frozen import MANIFEST, WEIGHTS


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.fixture
def refused_row(fault_row) -> Callable[..., None]:
    """Keeps what was refused, and how often."""
    return lambda made, times=1: fault_row("hostile files", made, times, "refused in one sentence; no code ran")


class Harm:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.write_text, (self.trace, "harmed")


def not_harmed(folder: Path) -> None:
    assert not list(folder.rglob("*harmed*"))


# The source


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_IN = {
    "torch": {"load"},
    "yaml": {"load", "full_load", "unsafe_load", "load_all", "Loader", "FullLoader", "UnsafeLoader"},
    "os": {"system", "popen", "execv", "execve", "spawnl", "spawnv"},
    "pd": {"read_pickle", "eval"},
    "np": {"load", "loadtxt", "genfromtxt", "fromregex"},
}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "subprocess", "pty", "commands", "cloudpickle"}


def forbidden_in(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [f"{node.value.id}.{node.attr}"] if node.attr in FORBIDDEN_IN.get(node.value.id, ()) else []
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if off else [f"{node.arg}="]
    return found


# What is read in the one was written by the same package, and is read without pickles; the process that the other
# starts is this package's, and what it is told is the file's path, without a shell.
ALLOWED = {"benchmarks/rank.py": {"np.load"}, "data/validation/subprocess_probe.py": {"subprocess"}}


def test_no_source_runs_what_it_reads():
    home = Path(cplmix_ray.__file__).parent
    found = {str(path.relative_to(home)): set(forbidden_in(ast.parse(path.read_text()))) for path in home.rglob("*.py")}
    assert {name: what for name, what in found.items() if what} == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "eval(x)",
    ],
)
def test_the_search_for_such_source_finds_it(text):
    assert forbidden_in(ast.parse(text))


# Archives


def test_pickles_in_archives_are_not_opened(folder, refused_row):
    objects = np.array([Harm(folder / "harmed")] * N, dtype=object)
    np.savez(folder / "objects.npz", x=objects)
    np.savez(folder / "labels.npz", x=np.zeros((N, 5, 5), np.uint8), y=objects)
    np.save(folder / "single.npy", objects)
    (folder / "single.npy").rename(folder / "single.npz")
    with zipfile.ZipFile(folder / "member.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Harm(folder / "harmed")))
    (folder / "whole.npz").write_bytes(pickle.dumps(Harm(folder / "harmed")))
    for path in sorted(folder.glob("*.npz")):
        assert_named(refused_training(folder, path), path)
    not_harmed(folder)
    refused_row("pickles in .npz", 5)


def test_members_with_odd_names_are_not_unpacked(folder, refused_row):
    with zipfile.ZipFile(folder / "images.npz", "w") as archive:
        for name in ("../x.npy", "/tmp/harmed", "x_train"):
            archive.writestr(name, b"harmed")
    assert_named(refused_training(folder, folder / "images.npz"), "images.npz")
    not_harmed(folder)
    refused_row("names of other places in .npz")


@pytest.mark.parametrize(
    "how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bz2", "xz"]
)
def test_an_archive_that_unpacks_to_more_than_there_is(folder, monkeypatch, how, refused_row):
    """Its size is said truly: a hundredth of it is on the disk. The memory that is free is made small here."""
    monkeypatch.setattr("cplmix_ray.data.io.npz_archive.free_memory", lambda: 1 << 20)
    target = io.BytesIO()
    np.save(target, np.zeros((3000, 28, 28), np.uint8))
    with zipfile.ZipFile(folder / "images.npz", "w", how) as archive:
        archive.writestr("x.npy", target.getvalue())
    assert (folder / "images.npz").stat().st_size < 1 << 16
    assert_named(refused_training(folder, folder / "images.npz"), " x ", "images.npz", "memory")
    refused_row("an .npz that unfolds to more than the memory")


# HDF5


def _external_link(file: h5py.File, folder: Path, at: str) -> None:
    del file[at]
    file[at] = h5py.ExternalLink(str(folder / "secret.h5"), "/X")


def _soft_link(file: h5py.File, folder: Path, at: str) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")
    del file[at]
    file[at] = h5py.SoftLink("/elsewhere/X")


def _virtual(file: h5py.File, folder: Path, at: str) -> None:
    shape, kind = file[at].shape, file[at].dtype
    layout = h5py.VirtualLayout(shape, kind)
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "X", shape)
    del file[at]
    file.create_virtual_dataset(at, layout)


def _external_storage(file: h5py.File, folder: Path, at: str) -> None:
    shape, kind = file[at].shape, file[at].dtype
    del file[at]
    file.create_dataset(at, shape, kind, external=[(str(folder / "secret.h5"), 0, h5py.h5f.UNLIMITED)])


def _plug_in(file: h5py.File, folder: Path, at: str) -> None:
    """A filter that HDF5 knows of by its number alone; made with one that it has, whose number is altered then."""
    values = file[at][...]
    del file[at]
    file.create_dataset(at, data=values, chunks=values.shape, compression="lzf")


def _holds_itself(file: h5py.File, folder: Path, at: str) -> None:
    file["uns/notes/again"] = file["uns"]


def _references(file: h5py.File, folder: Path, at: str) -> None:
    del file[at]
    file.create_dataset(at, (N,), h5py.ref_dtype)[0] = file.ref


MADE = {
    "external link": _external_link,
    "soft link": _soft_link,
    "virtual": _virtual,
    "external storage": _external_storage,
    "plug-in": _plug_in,
    "holds itself": _holds_itself,
    "references": _references,
}


def hostile_h5ad(folder: Path, how: str, at: str) -> Path:
    path = saved(cells("dense"), folder / "cells.h5ad")
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["X"] = np.ones((N, 10), np.float32)
    with h5py.File(path, "r+") as file:
        MADE[how](file, folder, at)
    if how == "plug-in":
        content = path.read_bytes()
        number = (32000).to_bytes(2, "little")
        assert number in content
        path.write_bytes(content.replace(number, (32015).to_bytes(2, "little")))
    return path


@pytest.mark.parametrize(
    "at", ["X", *(pytest.param(at, marks=pytest.mark.slow) for at in ("obs/score", "uns/notes/sizes", "obsm/X_pca"))]
)
@pytest.mark.parametrize("how", MADE)
@pytest.mark.parametrize("backed", ["no", "yes"])
def test_an_h5ad_that_reaches_out_of_itself(folder, monkeypatch, how, at, backed, refused_row):
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(folder))
    path = hostile_h5ad(folder, how, at)
    line = refused_training(folder, path, "--backed", backed)
    assert_named(line, "cells.h5ad", "write")
    refused_row("links out of an .h5ad, virtual and external data, plug-in filters, circles")


def test_the_same_file_without_harm_is_used(folder):
    path = saved(cells("dense"), folder / "cells.h5ad")
    assert end_of(train, folder, line_of("--data", str(path), "--out", str(folder / "out")), "cells.h5ad") == 0


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_declared_sizes_are_refused_before_memory_is_taken(folder, backed, refused_row):
    """A few kilobytes on the disk, terabytes in memory."""
    path = saved(cells("dense"), folder / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        del file["obsm/X_pca"]
        file.create_dataset("obsm/X_pca", (N, 10**12), "f8", chunks=(N, 1000))
    line = refused_training(folder, path, "--backed", backed)
    assert_named(line, "obsm/X_pca", "cells.h5ad", "0 bytes")
    refused_row("declared sizes of terabytes in an .h5ad")


# Names that are no files


@pytest.fixture(
    params=["pipe", *(pytest.param(what, marks=pytest.mark.slow) for what in ("device", "socket", "circle", "folder"))]
)
def no_file(folder, request):
    """Something in the place of a file, by a suffix."""

    def make(suffix: str) -> Path:
        path = folder / f"given{suffix}"
        match request.param:
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
            case "socket":
                with socket.socket(socket.AF_UNIX) as open_one:
                    open_one.bind(path.name)  # whole paths may be longer than sockets may have
            case "circle":
                path.symlink_to(path)
            case "folder":
                path.mkdir()
        return path

    return make


LINES = {
    "h5ad": lambda path: (train, line_of("--data", path, "--out", "out"), ".h5ad"),
    "h5ad backed": lambda path: (train, line_of("--data", path, "--out", "out", "--backed", "yes"), ".h5ad"),
    "npz": lambda path: (train, line_of("--data", path, "--out", "out"), ".npz"),
    "csv": lambda path: (train, line_of("--data", path, "--out", "out"), ".csv"),
    "metadata": lambda path: (train, line_of("--data", "real.h5ad", "--metadata", path, "--out", "out"), ".csv"),
    "genes": lambda path: (train, line_of("--data", "real.h5ad", "--genes", path, "--out", "out"), ".txt"),
    "settings": lambda path: (train, line_of("--data", "digits", "--config", path, "--out", "out"), ".yaml"),
    "search": lambda path: (tune, [path, "--out", "out"], ".yaml"),
    "benchmark": lambda path: (bench, ["accuracy", path, "--out", "out"], ".yaml"),
    "augmenter's settings": lambda path: (augment, ["--config", path, "--out", "out"], ".yaml"),
    "tree": lambda path: (simulate, ["--tree", path, "--out", "out.h5ad"], ".csv"),
    "gene names": lambda path: (simulate, ["--gene-names", path, "--out", "out.h5ad"], ".txt"),
}


@pytest.mark.parametrize("kind", LINES)
def test_what_is_no_file_does_not_keep_a_command_waiting(folder, no_file, kind, refused_row):
    saved(cells("dense"), folder / "real.h5ad")
    function, words, suffix = LINES[kind]("given" + LINES[kind]("")[2])
    path = no_file(suffix)
    assert end_of(function, folder, [str(word) for word in words], path.name) == 2
    refused_row("a pipe, device, socket, circle or folder in the place of a file")


# Augmenters


def augmenter_in(folder: Path) -> Path:
    home = folder / "augmenter"
    home.mkdir()
    for name, content in valid_files("augmenter", folder, 0).items():
        (home / name).write_bytes(content)
    return home


def altered_manifest(home: Path, **changes: object) -> None:
    manifest = json.loads((home / MANIFEST).read_bytes())
    (home / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def put_weights(home: Path, content: bytes) -> None:
    (home / WEIGHTS).write_bytes(content)
    altered_manifest(home, files={WEIGHTS: hashlib.sha256(content).hexdigest()})


def with_learned_copies(folder: Path, home: Path) -> str:
    data = saved(cells("dense"), folder / "cells.h5ad")
    return refused_training(folder, data, "--copies", "learned", "--augmenter", str(home))


def test_weights_that_are_a_pickle(folder, refused_row):
    home = augmenter_in(folder)
    put_weights(home, pickle.dumps(Harm(folder / "harmed")))
    assert_named(with_learned_copies(folder, home), home, " train ")
    not_harmed(folder)
    refused_row("weights of an augmenter: a pickle")


SHAPE = {"n_features": 10, "latent_dim": 3, "noise_dim": 2, "hidden": [6], "pixels": False, "nonnegative": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../etc/passwd": "0"}},
        {"files": ["augmenter.safetensors"]},
        {"files": None},
        {"shape": {"n_features": 10**12}},
        {"shape": {**SHAPE, "latent_dim": 10**12}},
        {"shape": {**SHAPE, "hidden": [2**23] * 3}},
        {"shape": {**SHAPE, "hidden": [7]}},
        {"shape": {**SHAPE, "hidden": "666"}},
        {"shape": {"n_features": 10, "latent_dim": 3, "noise_dim": 2, "hidden": [6], "__class__": "os"}},
        {"format": "1"},
        {"preparation": []},
        {"preparation": {"kind": "log", "var_names": "abc", "image_shape": None}},
        {"preparation": {"kind": "log", "var_names": [["a"]], "image_shape": None}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_manifests_of_augmenters_with_tricks(folder, changes, refused_row):
    home = augmenter_in(folder)
    altered_manifest(home, **changes)
    line = with_learned_copies(folder, home)
    assert_named(line, "augmenter", " train ")
    refused_row("an augmenter's manifest")


def test_weights_of_other_kinds(folder, refused_row):
    home = augmenter_in(folder)
    whole = safetensors.numpy.load((home / WEIGHTS).read_bytes())
    name = sorted(whole)[0]
    for tensor in (np.full_like(whole[name], np.nan), whole[name].astype(np.float64), whole[name][:1], None):
        changed = {key: value for key, value in whole.items() if key != name}
        put_weights(home, safetensors.numpy.save(changed if tensor is None else {**changed, name: tensor}))
        assert_named(with_learned_copies(folder, home), "augmenter", " train ")
        (folder / "cells.h5ad").unlink()
    refused_row("weights of an augmenter: NaN, other types, shapes and names", 4)


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("trained")
    data = saved(cells("dense"), home / "cells.h5ad")
    assert end_of(train, home, line_of("--data", str(data), "--out", str(home / "run")), "") == 0
    return home


CONFIGS = [
    None,
    [],
    "config",
    {"model": {"n_arms": 1000}},
    {"model": {"hidden": [65536, 65536, 65536]}},
    {"model": {"n_arms": True}},
    {"input": {"data": "a\0b"}},
]
PREPARATIONS = [
    None,
    "log",
    {},
    {"kind": "log"},
    {"kind": "other"},
    {"var_names": "abc"},
    {"var_names": []},
    {"var_names": ["gene_0"] * 10},
    {"var_names": [1, 2]},
    {"target_sum": 0},
    {"target_sum": "1e4"},
    {"scale": float("nan")},
    {"image_shape": [2, 5]},
    {"more": 1},
]


@pytest.mark.parametrize(
    "function", [evaluate, pytest.param(predict, marks=pytest.mark.slow)], ids=["evaluate", "predict"]
)
@pytest.mark.parametrize(
    ("key", "value"),
    [*(("config", value) for value in CONFIGS), *(("preparations", value) for value in PREPARATIONS)],
    ids=lambda item: str(item)[:40],
)
def test_a_run_whose_manifest_was_altered(folder, trained, function, key, value, refused_row):
    """Weights and checksums are whole: what is said of them is not."""
    run, origin = folder / "run", next((trained / "run" / "checkpoints").glob("step-*"))
    copy = run / "checkpoints" / origin.name
    copy.mkdir(parents=True)
    for path in origin.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_bytes())
    del manifest["sha256"]
    if key == "preparations":
        altered = isinstance(value, dict) and value and set(value) != {"kind"}
        value = {"main": {**manifest[key]["main"], **value} if altered else value}
    (copy / "manifest.json").write_bytes(pack({**manifest, key: value}))
    out = folder / ("scores.json" if function is evaluate else "predicted.h5ad")
    line = refused(function, folder, ["--run", run, "--data", trained / "cells.h5ad", "--out", out])
    assert_named(line, copy.name)
    refused_row("a checkpoint's manifest, its checksums made to fit")


# What is written


def test_names_that_terminals_and_tables_would_obey(folder):
    """They are kept as they are in the result, and never reach the terminal."""
    adata = cells("dense")
    names = [
        "=cmd|' /C calc'!A0",
        "\x1b[2J\x1b]0;harmed\x07",
        "a\nb",
        "../../harmed",
        "<script>alert(1)</script>",
        "\u202edoc",
    ]
    adata.obs_names = [*names, *(f"cell_{i}" for i in range(N - len(names)))]
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"a": "\x1b[31ma", "b": "=1+1"})
    path = saved(adata, folder / "cells.h5ad")
    words = line_of("--data", str(path), "--out", str(folder / "out"), "--labels-key", "cell_type")
    assert end_of(train, folder, words, "cells.h5ad") == 0
    result = anndata.read_h5ad(folder / "out" / "result.h5ad")
    assert list(result.obs_names) == list(adata.obs_names)
    assert list(result.obs["cell_type"].cat.categories) == list(adata.obs["cell_type"].cat.categories)
    assert sorted(path.name for path in folder.iterdir()) == ["cells.h5ad", "out"]


def test_names_in_errors_do_not_reach_the_terminal_as_they_are(folder):
    adata = cells("dense")
    adata.var_names = ["\x1b[2J\ntwice\u202e"] * 2 + [f"gene_{i}" for i in range(8)]
    line = refused_training(folder, saved(adata, folder / "cells.h5ad"))
    assert line.isprintable() and "twice" in line and "\\x1b" in line
