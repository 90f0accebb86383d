"""Malformed .h5ad, .npz and YAML files, each made from a valid one and determined by a seed."""

import io
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

N, G = 24, 10
Draw = np.random.Generator
Damage = Callable[[h5py.File, Draw], None]

KINDS = ("csr", "csc", "dense", "csr-gzip", "dense-gzip")


def cells(kind: str) -> anndata.AnnData:
    """An AnnData object with something in each of its parts."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, (N, G)).astype(np.float32)
    matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "den": np.asarray}[kind[:3]](counts)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(["a", "b"] * (N // 2)), "score": np.arange(N, dtype=float), "good": True},
        index=[f"cell_{i}" for i in range(N)],
    )
    var = pd.DataFrame({"kind": ["x", "y"] * (G // 2)}, index=[f"gene_{i}" for i in range(G)])
    adata = anndata.AnnData(matrix, obs=obs, var=var, layers={"counts": sp.csr_matrix(counts)})
    adata.obsm["X_pca"], adata.varm["loadings"] = counts[:, :3], counts[:3].T.copy()
    adata.obsp["near"] = sp.csr_matrix(np.eye(N))
    adata.uns["notes"] = {"who": "me", "sizes": np.arange(3), "deep": {"er": 1.5}}
    return adata


@cache
def valid_h5ad(kind: str, folder: Path) -> bytes:
    path = folder / f"sound-{kind}.h5ad"
    cells(kind).write_h5ad(path, compression="gzip" if kind.endswith("gzip") else None)
    content = path.read_bytes()
    path.unlink()
    return content


# Damages: functions that alter an open HDF5 file

ODD_VALUES = [
    "f2",
    "f4",
    "f8",
    "g",
    ">f4",
    ">f8",
    ">i2",
    "i1",
    "i8",
    "u8",
    "?",
    "c8",
    "c16",
    "S3",
    "str",
    "V",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1e300",
    "1e-310",
    "3e38",
    "1e13",
    "-3",
    "half",
    "zeros",
]


def _values(rng: Draw, shape: tuple[int, ...]) -> np.ndarray:
    """Invalid values, or valid values of an unusual type."""
    base = rng.integers(0, 5, shape)
    name = rng.choice(ODD_VALUES)
    if name in ("f2", "f4", "f8", "g", ">f4", ">f8", ">i2", "i1", "i8", "?", "c8", "c16", "S3"):
        return base.astype(name)
    if name == "u8":
        return base.astype(np.uint64) + np.uint64(2**64 - 8)
    if name == "str":
        return base.astype(str).astype(object)
    if name == "V":
        return np.zeros(shape, np.dtype([("a", "f4"), ("b", "i2")]))
    if name == "zeros":
        return np.zeros(shape, np.float32)
    values = base.astype(np.float64)
    if values.size:
        values.flat[rng.integers(values.size)] = {"half": 0.5}.get(name) or float(name)
    return values


def _put(group: h5py.Group, name: str, value: object, **options) -> None:
    """Create or replace a dataset, keeping its attributes."""
    attributes = dict(group[name].attrs) if name in group else {}
    if name in group:
        del group[name]
    kind = h5py.string_dtype() if isinstance(value, np.ndarray) and value.dtype == object else None
    made = group.create_dataset(name, data=value, dtype=kind, **options)
    for key, attribute in attributes.items():
        made.attrs[key] = attribute


def _main(file: h5py.File) -> tuple[h5py.Group, str]:
    """Group and name of the dataset with the values of X."""
    return (file, "X") if isinstance(file["X"], h5py.Dataset) else (file["X"], "data")


def odd_values(file: h5py.File, rng: Draw) -> None:
    home, name = _main(file)
    _put(home, name, _values(rng, home[name].shape))


def odd_shape(file: h5py.File, rng: Draw) -> None:
    home, name = _main(file)
    shapes = [(N * G,), (N, G, 1), (N + 1, G), (N, G + 1), (N, G - 1), (0, G), (N, 0), (), (0,), (1, 1)]
    _put(home, name, np.ones(shapes[rng.integers(len(shapes))], np.float32))


def odd_sparse(file: h5py.File, rng: Draw) -> None:
    """Make the arrays of a sparse matrix inconsistent."""
    group = file["X"] if isinstance(file["X"], h5py.Group) else file["layers/counts"]
    part = str(rng.choice(["indptr", "indices", "data"]))
    values = group[part][:]
    wide = values.astype(np.int64) if part != "data" else values
    at = int(rng.integers(len(values)))
    bad = [-1, G, 10**6, 2**31, 2**40, -(2**40)][rng.integers(6)]
    match int(rng.integers(11)):
        case 0:
            wide[at] = bad
        case 1:
            wide = wide[:-1]
        case 2:
            wide = np.append(wide, wide[-1:])
        case 3:
            wide = wide[::-1].copy()
        case 4:
            wide = wide.astype(np.float64) + 0.5
        case 5:
            wide = np.abs(wide).astype(np.uint64)
        case 6:
            wide = wide[:0]
        case 7:
            wide = wide.reshape(1, -1)
        case 8:
            wide = np.zeros_like(wide)
        case 9:
            wide = wide.astype(">i4")
        case 10:
            del group[part]
            return
    _put(group, part, wide)


def odd_sparse_shape(file: h5py.File, rng: Draw) -> None:
    group = file["X"] if isinstance(file["X"], h5py.Group) else file["layers/counts"]
    shapes = [
        (10**12, G),
        (N, 10**12),
        (-1, G),
        (N, G, 1),
        (N,),
        (0, 0),
        (G, N),
        (N + 1, G),
        (N, G + 3),
        (2**62, 2**62),
    ]
    odd = ["24", np.array([24.5, 10.0]), np.array([b"24", b"10"]), h5py.Empty("i8"), 7]
    at = rng.integers(len(shapes) + len(odd))
    group.attrs["shape"] = np.array(shapes[at], np.int64) if at < len(shapes) else odd[at - len(shapes)]


def _everything(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return sorted(names)


def _attributes(file: h5py.File) -> list[tuple[h5py.Group | h5py.Dataset, str]]:
    return [(node, key) for node in [file, *(file[name] for name in _everything(file))] for key in sorted(node.attrs)]


def missing_part(file: h5py.File, rng: Draw) -> None:
    names = _everything(file)
    del file[names[rng.integers(len(names))]]


def missing_attribute(file: h5py.File, rng: Draw) -> None:
    found = _attributes(file)
    node, key = found[rng.integers(len(found))]
    del node.attrs[key]


def odd_attribute(file: h5py.File, rng: Draw) -> None:
    found = _attributes(file)
    node, key = found[rng.integers(len(found))]
    words = ["csr_matrix", "csc_matrix", "array", "dataframe", "categorical", "dict", "string", "string-array"]
    words += [
        "nullable-integer",
        "nullable-string-array",
        "awkward-array",
        "rec-array",
        "numeric-scalar",
        "null",
        "raw",
    ]
    words += ["", "0.0.0", "9.9.9", "\x1b[31m", "x" * 5000, "__class__", "gene_1\ngene_2"]
    others = [3, -1, 2.5, np.nan, True, np.arange(5), np.array(["a", "b"], object), h5py.Empty("f4"), b"\xff\xfe"]
    value = words[rng.integers(len(words))] if rng.random() < 0.7 else others[rng.integers(len(others))]
    if isinstance(value, np.ndarray) and value.dtype == object:
        node.attrs.create(key, value, dtype=h5py.string_dtype())
    else:
        node.attrs[key] = value


def other_kind(file: h5py.File, rng: Draw) -> None:
    """Replace a dataset by a group or by other values, or a group by values."""
    names = _everything(file)
    name = names[rng.integers(len(names))]
    was = file[name]
    attributes = dict(was.attrs) if rng.random() < 0.5 else {}
    to_group = isinstance(was, h5py.Dataset) and rng.random() < 0.5
    del file[name]
    if to_group:
        made = file.create_group(name)
    else:
        size = int(rng.choice([0, 1, N, G, N + 1]))
        values = _values(rng, (size,) if rng.random() < 0.8 else (size, 2))
        made = file.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)
    for key, value in attributes.items():
        made.attrs[key] = value


def odd_categories(file: h5py.File, rng: Draw) -> None:
    column = file["obs/cell_type"]
    match int(rng.integers(6)):
        case 0:
            codes = column["codes"][:].astype(np.int64)
            codes[rng.integers(N)] = [2, 99, -2, 2**31, -(2**31)][rng.integers(5)]
            _put(column, "codes", codes)
        case 1:
            _put(column, "codes", column["codes"][:].astype(float))
        case 2:
            _put(column, "codes", column["codes"][:-1])
        case 3:
            _put(column, "categories", np.array(["a", "a"], object))
        case 4:
            _put(column, "categories", np.array([1.5, np.nan]))
        case 5:
            _put(column, "categories", np.array(["a\nb\x1b[2J", "\u202eb" * 99], object))


def huge_claim(file: h5py.File, rng: Draw) -> None:
    """Declare a dataset of a size that was never written."""
    names = [name for name in _everything(file) if isinstance(file[name], h5py.Dataset)]
    name = names[rng.integers(len(names))]
    was = file[name]
    kind, attributes = was.dtype, dict(was.attrs)
    long = int(rng.choice([10**9, 10**12, 2**40]))
    shape = (long,) if was.ndim != 2 else [(long, 10), (10, long), (10**6, 10**6)][rng.integers(3)]
    del file[name]
    options = {"chunks": tuple(min(n, 1000) for n in shape)} if rng.random() < 0.8 else {}
    made = file.create_dataset(name, shape=shape, dtype=kind, **options)
    for key, value in attributes.items():
        made.attrs[key] = value
    if name.endswith(("indptr", "indices", "data")) and "shape" in made.parent.attrs and rng.random() < 0.5:
        made.parent.attrs["shape"] = np.array([long - 1, G])


def huge_chunk(file: h5py.File, rng: Draw) -> None:
    names = [name for name in _everything(file) if isinstance(file[name], h5py.Dataset) and file[name].ndim]
    name = names[rng.integers(len(names))]
    was = file[name]
    values, attributes = was[()], dict(was.attrs)
    chunks = tuple(int(rng.choice([1, 2**14, 2**20])) for _ in was.shape)
    if np.prod(chunks, dtype=float) * was.dtype.itemsize >= 2**32:
        chunks = tuple(2**12 for _ in was.shape)
    kind = was.dtype
    del file[name]
    compressed = "gzip" if rng.random() < 0.5 else None
    made = file.create_dataset(
        name, data=values, dtype=kind, chunks=chunks, maxshape=(None,) * values.ndim, compression=compressed
    )
    for key, value in attributes.items():
        made.attrs[key] = value


def odd_link(file: h5py.File, rng: Draw) -> None:
    names = _everything(file)
    name = names[rng.integers(len(names))]
    was = file[name]
    match int(rng.integers(7)):
        case 0:
            del file[name]
            file[name] = h5py.ExternalLink("/etc/hostname", "/X")
        case 1:
            del file[name]
            file[name] = h5py.SoftLink("/nowhere")
        case 2:
            del file[name]
            file[name] = h5py.SoftLink("/")
        case 3:
            del file[name]
            file[name] = file.get("uns", file)
        case 4:
            file["uns/notes/again"] = file["uns"]
        case 5:
            if isinstance(was, h5py.Dataset) and was.ndim and was.dtype.kind in "fiu":
                layout = h5py.VirtualLayout(shape=was.shape, dtype=was.dtype)
                layout[...] = h5py.VirtualSource("/tmp/other.h5", "X", shape=was.shape)
                attributes = dict(was.attrs)
                del file[name]
                made = file.create_virtual_dataset(name, layout)
                for key, value in attributes.items():
                    made.attrs[key] = value
        case 6:
            if isinstance(was, h5py.Dataset) and was.ndim and was.dtype.kind in "fiu":
                shape, kind = was.shape, was.dtype
                del file[name]
                file.create_dataset(name, shape=shape, dtype=kind, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def odd_names(file: h5py.File, rng: Draw) -> None:
    axis, n = [("obs", N), ("var", G)][rng.integers(2)]
    frame = file[axis]
    names = [f"name_{i}" for i in range(n)]
    match int(rng.integers(7)):
        case 0:
            names[3] = names[4]
        case 1:
            names[0] = ""
        case 2:
            names[1] = "gene\nof\x1b[31m two\tlines\u202e"
        case 3:
            names[2] = "x" * 100_000
        case 4:
            _put(frame, "_index", np.arange(n))
            return
        case 5:
            _put(frame, "_index", np.linspace(0, 1, n))
            return
        case 6:
            names = names[: n - int(rng.integers(1, n))] if rng.random() < 0.5 else [*names, "more"]
    _put(frame, "_index", np.array(names, object))


def odd_uns(file: h5py.File, rng: Draw) -> None:
    notes = file.require_group("uns")
    match int(rng.integers(7)):
        case 0:
            for _ in range(int(rng.choice([30, 100, 1500]))):
                notes = notes.create_group("a")
        case 1:
            notes["odd"] = np.zeros(3, np.complex64)
        case 2:
            notes["odd"] = np.zeros(3, np.dtype([("a", "f4"), ("b", "S3")]))
        case 3:
            made = notes.create_dataset("odd", shape=(3,), dtype=h5py.ref_dtype)
            made[0] = file.ref
        case 4:
            notes.create_dataset("odd", data=np.zeros(3, "M8[s]").view("i8").astype(h5py.opaque_dtype("M8[s]")))
        case 5:
            for i in range(300):
                notes[f"key {i}"] = i
        case 6:
            notes.create_dataset("odd", data=np.array([b"\xff\xfe", b"\x80"]))


def odd_frame(file: h5py.File, rng: Draw) -> None:
    frame = file[str(rng.choice(["obs", "var"]))]
    match int(rng.integers(6)):
        case 0:
            frame.attrs.create("column-order", np.array(["nowhere"], object), dtype=h5py.string_dtype())
        case 1:
            columns = [*frame.attrs["column-order"]] * 2
            frame.attrs.create("column-order", np.array(columns, object), dtype=h5py.string_dtype())
        case 2:
            frame["more"] = np.arange(int(rng.choice([0, 1, 3, 1000])))
            columns = np.array([*frame.attrs["column-order"], "more"], object)
            frame.attrs.create("column-order", columns, dtype=h5py.string_dtype())
        case 3:
            frame["more"] = _values_or_words(rng, len(frame["_index"]))
            columns = np.array([*frame.attrs["column-order"], "more"], object)
            frame.attrs.create("column-order", columns, dtype=h5py.string_dtype())
        case 4:
            frame.attrs["_index"] = str(rng.choice(["nowhere", "good", "score", "kind", "cell_type"]))
        case 5:
            folder = file[str(rng.choice(["obsm", "varm", "obsp", "layers"]))]
            folder["odd"] = _values_or_words(rng, int(rng.choice([0, 1, N, G])))


def _values_or_words(rng: Draw, n: int) -> np.ndarray:
    values = _values(rng, (n,))
    return values.astype("S") if values.dtype == object else values


def nothing(file: h5py.File, rng: Draw) -> None:
    """Leave the file valid, so that files that must be accepted are among the cases."""


DAMAGES: tuple[Damage, ...] = (
    odd_values,
    odd_shape,
    odd_sparse,
    odd_sparse_shape,
    missing_part,
    missing_attribute,
    odd_attribute,
    other_kind,
    odd_categories,
    huge_claim,
    huge_chunk,
    odd_link,
    odd_names,
    odd_uns,
    odd_frame,
    nothing,
)


def write_h5ad(path: Path, kind: str, damages: list[int], seed: int) -> list[str]:
    """Write a malformed file; returns the names of the damages that were done."""
    path.write_bytes(valid_h5ad(kind, path.parent))
    rng, done = np.random.default_rng(seed), []
    with h5py.File(path, "r+") as file:
        for number in damages:
            damage = DAMAGES[number % len(DAMAGES)]
            try:
                damage(file, rng)
                done.append(damage.__name__)
            except (KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError, IndexError):
                done.append(f"{damage.__name__} (in part)")  # an earlier damage removed what this one needs
    return done


# Archives of images


def _header(shape: object, kind: str = "<f4", fortran: bool = False, version: tuple[int, int] = (1, 0)) -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text.encode()


def _saved(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, array)
    return target.getvalue()


def write_npz(path: Path, seed: int) -> str:
    """Write a malformed archive of images, or sometimes a valid one; returns the kind of damage."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 255, (N, 5, 5)).astype(np.uint8)
    members, how = {"x.npy": _saved(x), "y.npy": _saved(np.arange(N) % 3)}, zipfile.ZIP_DEFLATED
    what = int(rng.integers(12))
    match what:
        case 0:
            values = _values(rng, x.shape)
            members["x.npy"] = _saved(values if values.dtype != object else values.astype("U3"))
        case 1:
            shapes = [
                "(10**12,)",
                "(1000000000000, 28, 28)",
                "(24, -5, 5)",
                "(24, 5)",
                "(24, 5, 6)",
                "24",
                "('a',)",
                "()",
            ]
            shapes += [
                "(24, 5, 5" + ",)" * 1,
                "(" * 300 + ")" * 300,
                "(24.0, 5, 5)",
                "(0, 5, 5)",
                "(2**70,)",
                "(True, 5, 5)",
            ]
            kind = str(rng.choice(["<f4", "|u1", "|O", "<M8[s]", "<c8", "|V9", "zz", "<U1000000000", "|S0"]))
            version = [(1, 0), (2, 0), (3, 0), (9, 9)][rng.integers(4)]
            members["x.npy"] = _header(shapes[rng.integers(len(shapes))], kind, version=version) + x.tobytes()
        case 2:
            odd = [np.arange(N - 1), np.array(["a", "b"] * (N // 2)), np.array([b"\xff", b"b"] * (N // 2)), np.array(3)]
            odd += [np.full(N, np.nan), np.zeros(N, "M8[s]"), np.zeros(N, "c8"), np.zeros((N, 2)), np.zeros(N, bool)]
            members["y.npy"] = _saved(odd[rng.integers(len(odd))])
        case 3:
            shapes = [
                (N, 25),
                (N, 24),
                (N, 5, 5, 3),
                (N,),
                (N, 1),
                (N, 1, 1),
                (N, 1, 25),
                (1, 5, 5),
                (2, 5, 5),
                (N, 2, 3),
            ]
            members["x.npy"] = _saved(np.ones(shapes[rng.integers(len(shapes))], np.float32))
        case 4:
            del members[str(rng.choice(sorted(members)))]
        case 5:
            members = {
                name.replace("x", str(rng.choice(["x_train", "x_test", "X", "../x"]))): v for name, v in members.items()
            }
        case 6:
            content = bytearray(members["x.npy"])
            for _ in range(int(rng.integers(1, 9))):
                content[rng.integers(min(len(content), 140))] = rng.integers(256)
            members["x.npy"] = bytes(content)
        case 7:
            members["x.npy"] = members["x.npy"][: rng.integers(len(members["x.npy"]))]
        case 8:
            how = [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(3)]
        case 9:
            members["x.npy"] += bytes(int(rng.integers(1, 99)))
        case 10:
            members["x.npy"] = [b"", b"\x80\x04N.", b"\x93NUMPY", bytes(200)][rng.integers(4)]
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    if what == 11:
        content = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 5))):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
    return f"archive {what}"


# Settings

SECTIONS = {
    "input": "data metadata subset backed layer labels_key state_key genes normalise target_sum hvg val_fraction",
    "copies": "copies augmenter n_neighbours neighbour_pcs neighbour_space rotation zoom shift shear drop_genes",
    "model": "n_categories overcluster n_arms state_dim hidden bottleneck encoder_view batch_norm input_dropout tau "
    "posterior likelihood gumbel_temperature state_given_category shared_parameters",
    "objective": "coupling lam reconstruction beta entropy marginal guess sigma_floor",
    "alignment": "align_steps align_coupling align_entropy align_marginal align_guess initial_clustering",
    "training": "epochs batch_size lr lr_schedule lr_warmup lam_warmup clip log_every evaluate_every keep_checkpoints",
    "placement": "arms_per_worker threads precision max_failures collective_timeout replicas device",
}
VALUES = r"""
true
false
yes
no
on
0
1
-1
2
3
2.0
2.5
-0.0
1e-3
1e400
-1e400
1e300
1e-300
.inf
-.inf
.nan
'2'
"1e-3"
1_000
010
0x10
1:30
2020-01-01
2020-13-45
~
''
[]
{}
[1]
[1, 2]
[true]
['1']
[[1]]
{a: 1}
[1.5]
[-1]
[0]
cells
cpu
auto
none
4294967295
4294967296
9223372036854775808
100000000000000000000
!!str 1
!!int abc
!!float x
!!python/name:os.system ''
!!binary aGk=
!!set {a}
!!timestamp x
"a\0b"
"\ud800"
"\e[31m"
&a [*a]
*nowhere
@x
`x`
%x
""".strip().split("\n")
TEXTS = (
    b"",
    b"\n",
    b"~",
    b"0",
    b"[]",
    b"''",
    b"false",
    b"- a",
    b"a",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbfseed: 1\n",
    "seed: 1\n".encode("utf-16"),
    "seed: 1\n".encode("utf-32"),
    "# Umläute\nseed: 1\n".encode("latin-1"),
    b"seed: 1\nseed: 2\n",
    b"model: {n_arms: 2}\nmodel: {n_arms: 3}\n",
    b"model: {n_arms: 2, n_arms: 3}\n",
    b"[" * 10_000,
    b"{a: " * 10_000,
    b"- " * 10_000 + b"1",
    b"a:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 200)),
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 108)),
    b"a: &a {x: 1}\n"
    + b"".join(b"%c: &%c {<<: [%s]}\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 108)),
    b"model: &m {n_arms: *m}\n",
    b"!!python/object/apply:os.system ['touch harmed']\n",
    b"!!python/object/new:os.system ['touch harmed']\n",
    b"seed: !!python/name:os.system\n",
    b"--- {seed: 1}\n--- {seed: 2}\n",
    b"%YAML 9.9\n---\nseed: 1\n",
    b"%TAG ! tag:x,2000:\n---\nseed: !y 1\n",
    b"seed: " + b"9" * 100_000 + b"\n",
    b"seed: 0x" + b"f" * 100_000 + b"\n",
    b"? [a, b]\n: 1\n",
    b"? {a: 1}\n: 1\n",
    b"1: 2\n",
    b"true: 2\n",
    b"~: 2\n",
    b"'a\n\n b': 2\n",
    b'"\\u001b[31m": 2\n',
    b"model: n_arms\n",
    b"model: [n_arms, 2]\n",
    b"run: {seed: 1}\n",
    b"space: {}\n",
    b"a" * 200_000,
    b"seed: 'x\n",
    b"seed: |\n  x\n y\n",
    b"\tseed: 1\n",
)


def yaml_of(seed: int) -> bytes:
    """A settings file, usually with an unusual or invalid value for one setting."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.25:
        return TEXTS[rng.integers(len(TEXTS))]
    section = sorted(SECTIONS)[rng.integers(len(SECTIONS))]
    names = SECTIONS[section].split()
    values = [VALUES[i] for i in rng.integers(len(VALUES), size=2)]
    name = names[rng.integers(len(names))]
    match int(rng.integers(8)):
        case 0:
            return f"{section}: {values[0]}\n".encode()
        case 1:
            return f"{section}: {{{values[0]}: {values[1]}}}\n".encode()
        case 2:
            return f"{section}:\n  {name}: {values[0]}\n{values[1]}\n".encode()
        case 3:
            text = bytearray(f"{section}:\n  {name}: {values[0]}\nseed: 1\n".encode())
            text[rng.integers(len(text))] = rng.integers(256)
            return bytes(text)
    return f"{section}:\n  {name}: {values[0]}\n".encode()
