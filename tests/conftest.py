"""Set-up of every test: no result depends on the settings of a user or the speed of the machine."""

import gc
import os
import signal
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

USER_SETTINGS = (
    "EVENTLOG_",
    "ALPINE_",
    "ARGO_API_KEY",
    "EXTERNAL_SIGNAL_API_KEY",
    "DATABASE_URL",
    "COLUMNS",  # of a terminal, which shows what fits
    "LINES",
    "PYTHONUNBUFFERED",  # with it Python has nothing left to flush to a closed stream at exit
)

# Settings of the tests themselves: another Alpine for tests/tools/alpine/test_contract.py, and a
# directory of real prices.
TEST_SETTINGS = ("ALPINE_CONTRACT_", "EVENTLOG_TEST_")

# These modules have the longest tests. A long test that starts last keeps the whole run waiting.
# The first one takes minutes on any machine, and a quarter of a core.
LONGEST = (
    *("test_soak.py", "test_explorer.py", "test_writer.py", "test_backup_shared_files.py"),
    *("test_projection.py", "test_swapped_links.py", "test_daemon.py", "test_as_of.py"),
    *("test_active_signals.py", "test_importer.py", "test_demonstration.py"),
    *("test_full_disk.py", "test_run_directory.py", "test_verify.py"),
)

# With --quick: cases of one parametrized test, tests of a module that starts programs, and examples
# of one property.
QUICK_CASES = 2
QUICK_TESTS_WITH_PROGRAMS = 3
QUICK_EXAMPLES = 10
STARTS_PROGRAMS = (
    *("subprocess", "eventlog", "pipe", "daemon", "console", "AlpineServer", "tiny_alpine"),
)

# Shared machines are slow at times. With CI=true Hypothesis also uses the same inputs in each run.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("house"), max_examples=QUICK_EXAMPLES)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --quick."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="a selection of the tests that are not marked slow: see QUICK_CASES",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Removes settings that would lead a test to a real home, backend or key."""
    for name in list(os.environ):
        if name.startswith(USER_SETTINGS) and not name.startswith(TEST_SETTINGS):
            del os.environ[name]
    settings.load_profile("quick" if config.getoption("--quick") else "house")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # child processes inherit it


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Runs the longest tests first; the others keep their order. Selects what --quick runs."""
    items[:] = _longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    if config.getoption("--quick"):
        quick = _quick(items)
        chosen = set(quick)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = quick


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from looking through eight thousand tests again and again."""
    gc.collect()
    gc.freeze()


def _longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The same tests; each worker of pytest-xdist, which gets an equal part, begins with long ones.

    Other workers take over what is queued behind those.
    """
    rank = {name: number for number, name in enumerate(LONGEST)}
    long = [item for item in items if _is_long(item)]
    long.sort(key=lambda item: rank[item.path.name])
    others = [item for item in items if not _is_long(item)]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        mine = long[number::workers]
        end = max(0, len(items) * (number + 1) // workers - len(ordered) - len(mine))
        ordered += [*mine, *others[:end]]
        del others[:end]
    return ordered


def _is_long(item: pytest.Item) -> bool:
    return item.path.name in LONGEST and item.get_closest_marker("slow") is not None


def _quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """The first cases of each test, and the first tests of a module that starts programs."""
    chosen: Counter[str] = Counter()
    quick = []
    for item in items:
        if item.get_closest_marker("slow") is not None:
            continue
        module = getattr(item, "module", None)
        limits = {item.nodeid.partition("[")[0]: QUICK_CASES}
        if any(hasattr(module, name) for name in STARTS_PROGRAMS):
            limits[str(item.path)] = QUICK_TESTS_WITH_PROGRAMS
        if all(chosen[name] < limit for name, limit in limits.items()):
            chosen.update(limits.keys())
            quick.append(item)
    return quick
