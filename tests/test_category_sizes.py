"""The warning on categories without cells or with few of them."""

import numpy as np
import pytest

from cplmix_ray.models.cplmixvae.category_sizes import size_remarks
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig


def remarks(cells_k: list[int], **model) -> list[str]:
    config = CplMixVAEConfig(model={"n_categories": len(cells_k), **model})
    return size_remarks(np.repeat(np.arange(len(cells_k)), cells_k), config)


def test_large_categories_are_not_mentioned():
    assert remarks([10, 50, 10]) == []
    assert remarks([1, 1, 1], min_cells_per_category=0) == []
    assert remarks([9, 50, 70], min_cells_per_category=9) == []


def test_empty_and_small_categories_are_named_with_what_to_do():
    (line,) = remarks([40, 0, 9, 30, 2, 30])
    assert "no cells: 1," in line
    assert "fewer than 10 cells (--min-cells-per-category): 2 (9), 4 (2);" in line
    assert "--n-categories 3" in line and "--seeds" in line


@pytest.mark.parametrize(
    ("cells_k", "named", "unnamed"), [([30, 0, 40], "no cells", "fewer"), ([30, 3, 40], "fewer", "no cells")]
)
def test_only_what_occurs_is_mentioned(cells_k, named, unnamed):
    (line,) = remarks(cells_k)
    assert named in line and unnamed not in line


def test_a_collapse_has_other_remedies():
    (line,) = remarks([90, 3, 0, 0])
    assert "Only 2 of 4" in line and "--n-categories" not in line


def test_long_lists_end_in_their_number():
    (line,) = remarks([50] * 20 + [1] * 15)
    assert "and 7 more" in line and "34 (1)" not in line


def test_a_resumed_run_may_change_the_minimum():
    assert "model.min_cells_per_category" in CplMixVAEConfig.resumable_settings
