"""Results of a benchmark: rows of a CSV file that several processes may append to, and tables over seeds."""

import fcntl
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cplmix_ray.benchmarks.runs import read_settings
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.utils.errors import InputError

_SCORES = ("acc", "ari", "nmi", "consensus", "agreement", "amp", "populated", "kl_qc_pc", "reconstruction")
_BATCH_SCORES = ("batch_nmi", "ilisi", "clisi", "kbet", "bras", "graph_connectivity")
COLUMNS = (
    *("version", "name", "data", "method", "seed", "hash", "n_cells", "n_types"),
    *("n_categories", "settings", "coupling", "steps", *_SCORES),
    *(f"val_{name}" for name in (*_SCORES, "loss")),
    *("seconds", "detail", *_BATCH_SCORES),
)
"""Columns of a file, whose order is part of its format. docs/metrics.md defines the scores."""

GROUP = ["name", "data", "method", "hash"]
"""Columns that runs share which differ by their seed alone."""
KEY = [*GROUP, "seed"]
"""Columns that identify a run."""


def keys_of(rows: pd.DataFrame, columns: Sequence[str] = KEY) -> list[tuple[str, ...]]:
    """Of each row, the values that identify its run."""
    return list(rows[list(columns)].itertuples(index=False, name=None))


def with_keys(rows: pd.DataFrame, keys: Collection[tuple[str, ...]], columns: Sequence[str] = KEY) -> pd.DataFrame:
    """Rows of the given runs."""
    return rows[pd.Series([key in keys for key in keys_of(rows, columns)], rows.index, dtype=bool)]


def read_rows(path: str | Path, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Rows of a file as text; no rows where there is no file. An incomplete last line is left out.

    Scores with batches are blank in files that were begun before there were any.

    Raises:
        InputError: the file cannot be read, or its columns are others.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the rows {path} ({error}).") from None
    text = text[: text.rfind("\n") + 1]  # a process that was killed may have left part of a line
    if not text:
        return pd.DataFrame(columns=list(columns), dtype=str)
    earlier = [name for name in columns if name not in _BATCH_SCORES]
    if text.partition("\n")[0] not in (",".join(columns), ",".join(earlier)):
        raise InputError(f"{path} holds no rows of this version's benchmark (its first line differs); name another.")
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return rows.reindex(columns=list(columns), fill_value="")


def append_row(path: Path, figures: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Append a row in one write; the first row of a file is preceded by the names of the columns, which it keeps.

    Args:
        figures: values of some of the columns.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            complete = content.rfind(b"\n") + 1
            if complete < len(content):
                file.truncate(complete)
            names = content[:complete].decode().partition("\n")[0].split(",") if complete else list(columns)
            row = pd.DataFrame([figures]).reindex(columns=names)
            text = row.to_csv(index=False, header=not complete, float_format="%.6g", lineterminator="\n")
            os.write(file.fileno(), text.encode())
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error.strerror or error}).") from None


def values_of(rows: pd.DataFrame, name: str) -> pd.Series:
    """Values of a column, of a setting by its dotted name, or of k_off: K minus the number of types.

    Returns:
        Numbers where all are numbers; None or NaN where a row has no value.

    Raises:
        InputError: there is no such column or setting.
    """
    if name == "k_off":
        return pd.to_numeric(rows["n_categories"]).astype(float) - pd.to_numeric(rows["n_types"])
    if name == "model.n_categories":
        return pd.to_numeric(rows["n_categories"]).astype(float)
    if name in rows:
        try:
            return pd.to_numeric(rows[name]).astype(float)
        except ValueError:
            return rows[name].where(rows[name] != "", None)
    section, _, last = name.partition(".")
    defaults = CplMixVAEConfig().model_dump(mode="json").get(section)
    default = {name: defaults[last]} if isinstance(defaults, dict) and last in defaults else {}

    def value(settings: str) -> Any:
        found = {**default, **read_settings(settings)}
        if name not in found:
            raise InputError(f"Rows have no column or setting '{name}'; names are like acc, k_off or model.n_arms.")
        return found[name]

    return pd.Series([value(settings) for settings in rows["settings"]], rows.index, dtype=object)


def summarize(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each group of runs that differ by their seed alone, in the order of their first rows.

    Returns:
        name, settings (those that not all groups of the name share), data, method, n_categories and runs; and of each
        of ``columns`` the mean over seeds with the sample standard deviation, as text.
    """
    words = rows["settings"].str.split(" ").map(set)
    shared = words.groupby(rows["name"]).agg(lambda sets: set.intersection(*sets))
    found = []
    for _, runs in rows.groupby(GROUP, sort=False):
        first = runs.iloc[0]
        varied = [word for word in first["settings"].split(" ") if word not in shared[first["name"]]]
        found.append(
            {
                **first[["name", "data", "method", "n_categories"]],
                "settings": " ".join(varied),
                "runs": len(runs),
                **{column: mean_sd(pd.to_numeric(runs[column])) for column in columns},
            }
        )
    return pd.DataFrame(found, columns=["name", "settings", "data", "method", "n_categories", "runs", *columns])


def mean_sd(values: pd.Series) -> str:
    """Mean and sample standard deviation as text; NaN is left out, and a single value stands alone."""
    if not values.count():
        return "-"
    return f"{values.mean():.4g}" if values.count() == 1 else f"{values.mean():.3f} +- {values.std():.3f}"
