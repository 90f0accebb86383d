"""Results as rows of a CSV file that several benchmarks may add to, one after the other or at once."""

import csv
import fcntl
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cplmix_ray.benchmarks.jobs import read_settings
from cplmix_ray.config import Config
from cplmix_ray.utils.errors import InputError

_LABEL = ("acc", "ari", "nmi")
_POSTERIOR = ("consensus", "agreement", "amp", "populated", "kl_qc_pc", "reconstruction")
COLUMNS = (
    *("version", "name", "data", "method", "seed", "hash", "n_cells", "n_types"),
    *("n_categories", "settings", "coupling", "steps", *_LABEL, *_POSTERIOR),
    *(f"val_{name}" for name in (*_LABEL, *_POSTERIOR, "loss")),
    *("seconds", "detail"),
)
"""docs/metrics.md says what the scores are. ``val_loss``: reconstruction + beta KL(s) - H(c) of Eq. 7 in nats a cell,
on the validation cells as they are, mean over arms; without the coupling, so that runs of all couplings compare."""

Row = dict[str, str]


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """What tells a run from all others; a job has the same."""
    return row["name"], row["data"], row["method"], row["hash"], row["seed"]


def group_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """What runs have in common that differ by their seed alone."""
    return key_of(row)[:-1]


def number(row: Mapping[str, str], name: str) -> float | None:
    """A figure of a row, None where it has none."""
    return float(row[name]) if row[name] else None


def value_of(row: Mapping[str, str], name: str) -> Any:
    """A column, a setting by its dotted name, or k_off: by how much K exceeds the number of types.

    Raises:
        InputError: there is no such column or setting.
    """
    if name == "k_off":
        return float(row["n_categories"]) - float(row["n_types"]) if row["n_types"] else None
    if name == "model.n_categories":
        return float(row["n_categories"])
    if name in row:
        try:
            return number(row, name)
        except ValueError:
            return row[name]
    settings = read_settings(row["settings"])
    if name in settings:
        return settings[name]
    section, _, last = name.partition(".")
    usual = Config().model_dump(mode="json").get(section)
    if not isinstance(usual, dict) or last not in usual:
        raise InputError(f"Rows have no column or setting '{name}'; names are like acc, k_off or model.n_arms.")
    return usual[last]


def read_rows(path: str | Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """The whole rows of a file; none where there is no file.

    Args:
        columns: what the benchmark that wrote them measures.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the rows {path} ({error}).") from None
    text = text[: text.rfind("\n") + 1]  # a line that a killed process began is none
    if not text:
        return []
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    head = text.partition("\n")[0]
    if head != ",".join(columns):
        raise InputError(f"{path} holds no rows of this version's benchmark (its first line differs); name another.")
    return rows


def append_row(path: Path, figures: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Add a row in one write; the first one of a file comes with the names of the columns.

    Args:
        figures: those of ``columns`` that there are.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            there = file.read()
            whole = there.rfind(b"\n") + 1
            if whole < len(there):
                file.truncate(whole)
            lines = [] if whole else [",".join(columns) + "\n"]
            os.write(file.fileno(), "".join([*lines, _line(figures, columns)]).encode())
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error.strerror or error}).") from None


def _line(figures: Mapping[str, Any], columns: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow([_cell(figures.get(name)) for name in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or value != value:  # a NaN is a figure that is not there
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
