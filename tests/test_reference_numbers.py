"""The commands still yield the recorded numbers, within what libraries and processors may change of them."""

import json
from pathlib import Path

import pytest
from reference_numbers import leaves, run_setting
from reference_settings import LOCAL, make_data

pytestmark = pytest.mark.slow
RECORDED = json.loads((Path(__file__).parent / "reference_numbers.json").read_text())


def losses(record: dict) -> dict[str, list[float]]:
    """The losses of the steps by their place in a record."""
    return {place: value for place, value in leaves(record) if place.split()[-1].startswith(("loss/", "augmenter/"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.mark.parametrize("name", [name for name in LOCAL if losses(RECORDED[name])])
def test_losses_are_those_recorded(name, data):
    recorded, now = losses(RECORDED[name]), losses(run_setting(name, data))
    assert recorded.keys() <= now.keys()
    for place, values in recorded.items():
        assert now[place] == pytest.approx(values, rel=1e-4), place
