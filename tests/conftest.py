"""What holds for every test: neither its owner's settings nor the machine's speed decide it."""

import os

from hypothesis import HealthCheck, settings

OWNERS_SETTINGS = (
    "EVENTLOG_",
    "ALPINE_",
    "ARGO_API_KEY",
    "EXTERNAL_SIGNAL_API_KEY",
    "DATABASE_URL",
)

ASKED_FOR = ("ALPINE_CONTRACT_",)  # names another Alpine for tests/test_alpine_contract.py

# Shared machines are slow at times. With CI=true Hypothesis also takes the same inputs each time.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Forgets settings that would lead a test to a real home, backend or key."""
    for name in list(os.environ):
        if name.startswith(OWNERS_SETTINGS) and not name.startswith(ASKED_FOR):
            del os.environ[name]
    settings.load_profile("house")
