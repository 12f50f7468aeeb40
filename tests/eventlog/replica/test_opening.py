"""Without the extra `nats` the rest works, and what needs it names it."""

import sys

import pytest

from eventlog import Unsupported
from eventlog.plumbing import require_client


@pytest.mark.parametrize("package", ["nats", "nkeys"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_client()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("nats", "nkeys")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "eventlog.replica.nats_connection")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unsupported, match=rf"{package}.*signal-eventlog\[nats\]"):
        require_client()
