"""Fixtures of the tests of commands."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For commands that run in the process of the test: they configure or disable logging."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    logging.disable(logging.NOTSET)
    root.setLevel(level)
    root.handlers[:] = handlers
