"""Tables that unfold to more than the memory are refused before they do."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cplmix_ray.data.io import csv_tables as tables
from cplmix_ray.data.io import text_file
from cplmix_ray.data.io.metadata import read_metadata
from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.simulation.tree import read_tree
from cplmix_ray.utils.errors import InputError

LINES = "cell,Gene0,Gene1\n" + "".join(f"c{n},{n},{2 * n}\n" for n in range(40))


def written(path: Path, text: str) -> str:
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["plain.csv", "packed.csv.gz"])
def test_what_is_read_is_what_was_written(tmp_path, name):
    text = "\ufeffé,1\r\n\n" + "x" * 3_000_000 + "\n" + LINES + "no end of line"
    with open_text(written(tmp_path / name, text)) as file:
        assert file.read() == text.removeprefix("\ufeff")
    with open_text(written(tmp_path / name, LINES)) as file:
        assert "".join(file) == LINES


@pytest.mark.parametrize("name", ["plain.csv", "packed.csv.gz"])
@pytest.mark.parametrize("length", [99, 100, 101, 5000])
def test_a_line_may_be_so_long_and_no_longer(tmp_path, monkeypatch, name, length):
    monkeypatch.setattr(text_file, "LONGEST", 100)
    path = written(tmp_path / name, "short\n" * 7 + "x" * length)
    with open_text(path) as file:
        if length > 100:
            with pytest.raises(InputError, match=re.escape(name)):
                file.read()
        else:
            assert len(file.read()) == 42 + length


@pytest.mark.parametrize("read", [read_metadata, read_tree])
def test_a_table_read_as_a_whole_is_smaller_than_the_memory(tmp_path, monkeypatch, read):
    path = written(tmp_path / "cells.csv.gz", LINES)
    monkeypatch.setattr(text_file, "free_memory", lambda: 4 * len(LINES) - 4)
    with pytest.raises(InputError, match=r"cells\.csv\.gz.*memory") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(text_file, "free_memory", lambda: 4 * len(LINES))
    assert len(read_metadata(path)) == 40


def test_a_matrix_that_outgrows_the_memory_is_named_with_the_lines_so_far(tmp_path, monkeypatch):
    path = written(tmp_path / "matrix.csv.gz", LINES)
    monkeypatch.setattr(tables, "CHUNK_VALUES", 20)
    assert tables.read_table(path, np.ones(2, bool)).values.shape == (40, 2)
    monkeypatch.setattr(tables, "free_memory", lambda: 300)
    with pytest.raises(InputError, match=r"matrix\.csv\.gz.*memory.*\b20\b.*\.h5ad"):
        tables.read_table(path, np.ones(2, bool))


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from cplmix_ray.utils.errors import InputError
from cplmix_ray.data.io.{module} import {name}
try:
    {name}(sys.argv[1]{more})
except InputError as error:
    print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize(
    ("module", "name", "more", "unit"),
    [
        ("csv_tables", "read_header", "", "1,"),
        ("csv_tables", "read_header", "", "x"),
        pytest.param("metadata", "read_metadata", "", "1,", marks=pytest.mark.slow),
        ("csv_cells", "read_csv_cells", ", None", "x"),
    ],
)
def test_a_bomb_of_four_gigabytes_in_one_line_is_refused(tmp_path, module, name, more, unit, fault_row):
    """Some 4 MB in the file, and no line's end in 4 GB."""
    path = tmp_path / "bomb.csv.gz"
    head = b"" if name == "read_header" else b"cell,Gene0\nc0,1\n"
    piece = (unit * 2**24)[: 2**24].encode()
    path.write_bytes(gzip.compress(head) + 2**8 * gzip.compress(piece, 1))  # parts of such a file follow one another
    code = LIMITED.format(module=module, name=name, more=more)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said, peak = done.stdout.splitlines()
    assert "bomb.csv.gz" in said
    assert int(peak) * 1024 < 5 << 30
    fault_row(
        "a table that unfolds to 4 GB in one line",
        "a .csv.gz of 4 or 19 MB",
        1,
        "refused in a sentence; memory stays below 5 GB",
    )
