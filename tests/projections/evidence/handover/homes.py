"""A signed home with trades, and its statement."""

from io import BytesIO
from pathlib import Path

from eventlog import EventLog
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.handover.write_statement import write_statement
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.signals import a_signal, closed

ORIGIN = "log.example/main"
LINES = 300


def write_trades(home: Path, *, start: int = 1, signals: int = 200) -> None:
    """Signals of two strategies, of which half are closed at different prices."""
    items = [
        a_signal(number, strategy="momentum" if number % 3 else "reversal", regime="calm")
        for number in range(start, start + signals)
    ]
    items += [
        closed(number, exit_price=149.0 + number % 7) for number in range(start, start + signals, 2)
    ]
    with EventLog(home) as log:
        log.append_many(items)


def signed_home(home: Path) -> VerifierKey:
    """Writes LINES entries and signs them."""
    write_trades(home)
    key = create_key(home, ORIGIN)
    sign_checkpoint(home)
    return key


def statement_of(home: Path) -> bytes:
    file = BytesIO()
    write_statement(home, file)
    return file.getvalue()
