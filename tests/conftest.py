"""What holds for every test: neither its owner's settings nor the machine's speed decide it."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

OWNERS_SETTINGS = (
    "EVENTLOG_",
    "ALPINE_",
    "ARGO_API_KEY",
    "EXTERNAL_SIGNAL_API_KEY",
    "DATABASE_URL",
    "PYTHONUNBUFFERED",  # with it Python holds back nothing that a stream might refuse at exit
)

ASKED_FOR = ("ALPINE_CONTRACT_",)  # names another Alpine for tests/tools/alpine/test_contract.py

# It takes minutes whatever the machine does, and a quarter of a core: started last, all would wait
# for it. pytest-xdist lets others steal what waits behind it.
FIRST = "test_soak.py"

# Shared machines are slow at times. With CI=true Hypothesis also takes the same inputs each time.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Forgets settings that would lead a test to a real home, backend or key."""
    for name in list(os.environ):
        if name.startswith(OWNERS_SETTINGS) and not name.startswith(ASKED_FOR):
            del os.environ[name]
    settings.load_profile("house")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a shell runs behind it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else what we start ignores it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; the others keep their order."""
    items.sort(key=lambda item: item.path.name != FIRST)
