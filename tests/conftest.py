"""Fixtures shared by all tests, among them one small Ray for the session."""

import csv
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

import logging

import pytest
import torch

_LONGEST = (
    "test_accuracy",
    "test_search",
    "test_search_kills",
    "test_tune_command",
    "test_faults",
    "test_ray_train",
    "test_durability",
    "test_restarts",
    "test_malformed",
    "test_endurance",
)
"""Files whose tests take longest; they are started first, so that no core is idle at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One torch thread, as Ray workers run beside the tests on few cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads_put_back(_one_thread):
    """Fail the test that changes the number of threads, not a later one."""
    yield
    assert torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with three CPU slots, started once; yields the module ``ray``."""
    import ray

    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200 << 20,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[Path, int], None]]:
    """A function that mounts a tmpfs of some kilobytes at a folder, or remounts it with another size or options."""
    mounted: list[Path] = []

    def mount(place: Path, kilobytes: int, *options: str) -> None:
        again = ["remount"] if place in mounted else []
        place.mkdir(parents=True, exist_ok=True)
        option = ",".join([*again, f"size={kilobytes}k", *options])
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", place], capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        if place not in mounted:
            mounted.append(place)

    yield mount
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", place], check=True)


_FAULT_COLUMNS = ("fault", "made", "times", "happened", "steps_lost", "seconds")


@pytest.fixture
def fault_row() -> Callable[..., None]:
    """A function that appends the result of a fault test to the CSV file named by CPLMIX_RAY_FAULTS, if set.

    docs/reliability.md is written from these rows. ``times`` counts how often the fault was made; ``steps_lost`` and
    ``seconds`` (to recover) are the largest seen, None where they do not apply.
    """

    def keep(
        fault: str, made: str, times: int, happened: str, steps_lost: int | None = None, seconds: float | None = None
    ) -> None:
        target = os.environ.get("CPLMIX_RAY_FAULTS")
        if target is None:
            return
        new = not Path(target).exists()
        with open(target, "a", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            if new:
                table.writerow(_FAULT_COLUMNS)
            shown = None if seconds is None else round(seconds, 1)
            table.writerow([fault, made, times, happened, steps_lost, shown])

    return keep
