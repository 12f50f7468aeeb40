"""The lazy fronts: each name that a front lists can be imported from it."""

from importlib import import_module

import pytest


@pytest.mark.parametrize("front", ["eventlog", "eventlog.plumbing", "projections"])
def test_each_name_of_a_front_can_be_imported_from_it(front: str) -> None:
    module = import_module(front)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert sorted(module.__all__) == sorted(module._MODULES)
