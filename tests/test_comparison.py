"""Two assignments of the same cells compared."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from cplmix_ray.analysis.comparison import compare_categories
from cplmix_ray.utils.errors import InputError


def series(categories: str) -> pd.Series:
    """A category for each letter, "." for none, with the names of the cells as the index."""
    return pd.Series([None if c == "." else c for c in categories], index=[f"cell {i}" for i in range(len(categories))])


def test_the_table_by_hand():
    """0 keeps three of five cells; two go to c. 1 is d with another cell; b is left over."""
    a, b = series("0000011112."), series("aaaccddddbb")
    found = compare_categories(a, b)
    rows = found.table.set_index("category")
    assert rows.loc["0"].tolist() == ["a", 5, 3, 3, 3 / 5, "c (2)"]
    assert rows.loc["1"].tolist() == ["d", 4, 4, 4, 1.0, ""]
    assert rows.loc["2"].tolist() == ["b", 1, 1, 1, 1.0, ""]
    assert rows.loc[""].tolist() == ["c", 0, 2, 0, 0.0, ""]
    assert (found.n_cells, found.stay) == (10, 0.8)
    assert found.ari == pytest.approx(adjusted_rand_score(a[:10], b[:10]))
    assert found.ami == pytest.approx(adjusted_mutual_info_score(a[:10], b[:10]))


def test_renamed_categories_and_shuffled_cells_are_the_same():
    a = series("0123456789" * 3 + "00112")
    b = ("other " + a).sample(frac=1, random_state=0)
    found = compare_categories(a, b)
    assert (found.ari, found.stay) == (1, 1)
    assert ("other " + found.table["category"] == found.table["matched"]).all()


def test_categories_are_listed_by_their_numbers():
    a = pd.Series([f"{k}" for k in range(12)] * 2, index=[str(i) for i in range(24)])
    assert compare_categories(a, a).table["category"].tolist() == [str(k) for k in range(12)]


def test_many_destinations_end_in_their_number():
    a, b = series("0" * 21), series("aaaaaabbbbbccccddde" + "fg")
    (elsewhere,) = compare_categories(a, b).table.query("category == '0'")["elsewhere"]
    assert elsewhere == "b (5), c (4), d (3), 3 more (3)"


def test_cells_that_cannot_be_matched_are_refused():
    twice = pd.Series(["0", "1"], index=["cell 0", "cell 0"])
    with pytest.raises(InputError, match="second has cells of the same name"):
        compare_categories(series("01"), twice, "first", "second")
    with pytest.raises(InputError, match="no cell in common"):
        compare_categories(series("01"), pd.Series(["0"], index=["another"]))
    with pytest.raises(InputError, match="no cell in common"):
        compare_categories(series("0."), series(".1"))
    assert np.isclose(compare_categories(series("0."), series("00")).stay, 1)
