"""Shared by all tests: one Ray for the session, quiet and small."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

import logging

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tests run beside Ray workers on few cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray of three CPU slots, started once; yields the module."""
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
