"""Set-up of every test: no result depends on the settings of a user or the speed of the machine."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

USER_SETTINGS = (
    "EVENTLOG_",
    "ALPINE_",
    "ARGO_API_KEY",
    "EXTERNAL_SIGNAL_API_KEY",
    "DATABASE_URL",
    "PYTHONUNBUFFERED",  # with it Python has nothing left to flush to a closed stream at exit
)

# Settings of the tests themselves: another Alpine for tests/tools/alpine/test_contract.py, and a
# directory of real prices.
TEST_SETTINGS = ("ALPINE_CONTRACT_", "EVENTLOG_TEST_")

# This module takes minutes on any machine, and a quarter of a core. Started last, it would keep the
# whole run waiting. pytest-xdist lets other workers take over the tests queued behind it.
FIRST = "test_soak.py"

# Shared machines are slow at times. With CI=true Hypothesis also uses the same inputs in each run.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Removes settings that would lead a test to a real home, backend or key."""
    for name in list(os.environ):
        if name.startswith(USER_SETTINGS) and not name.startswith(TEST_SETTINGS):
            del os.environ[name]
    settings.load_profile("house")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # child processes inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the longest module first; the others keep their order."""
    items.sort(key=lambda item: item.path.name != FIRST)
