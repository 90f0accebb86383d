"""Files with altered bytes: read to the end, or refused in one sentence."""

import pytest
from fuzz import run

PASSED = ("used", "refused")


def counts_of(first: int, n: int) -> tuple[int, int]:
    """How many files were used, and how many refused."""
    found = run(list(range(first, first + n)))
    assert {key: seeds for key, seeds in found.items() if key[1] not in PASSED} == {}
    assert sum(map(len, found.values())) == n
    used, refused = (sum(len(seeds) for key, seeds in found.items() if key[1] == said) for said in PASSED)
    assert min(used, refused) > 0
    return used, refused


def test_files_with_altered_bytes():
    counts_of(0, 40)


@pytest.mark.slow
def test_many_files_with_altered_bytes(fault_row):
    used, refused = counts_of(10_000, 400)
    fault_row(
        "a file whose bytes are damaged",
        "bytes of .h5ad, .npz, .csv, YAML and augmenter files flipped, zeroed, put in, taken out",
        used + refused,
        f"{refused} refused in one sentence, {used} read",
    )
