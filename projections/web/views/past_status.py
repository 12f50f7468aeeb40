"""The overview as of a past entry: what the log held, and that the rest has no history.

Invariant: nothing in it was recorded later.
"""

from pathlib import Path

from projections.web.table import read_home
from projections.web.views.log_rows import SHOWN_ROWS, read_page
from projections.web.views.moment import Moment, Moments
from projections.web.views.signals import SignalCount
from projections.web.views.vitals import DELIVERY_KEYS, LOG_KEYS, TABLE_KEYS

Json = dict[str, object]


def read_past_status(
    home: Path, moments: Moments, signal_count: SignalCount, moment: Moment
) -> Json:
    """The object of /api/status as of a past entry, without read_only and version."""
    entry = moments.entry(moment.seq)
    rows = read_home(home, lambda database: signal_count.at(database, moment.seq))
    page = read_page(home, after=0, before=moment.seq + 1, limit=SHOWN_ROWS)
    return {
        "as_of": moment.to_json(),
        "verdict": {
            "level": "ok",
            "text": f"The log at entry {moment.seq:,}. Lags, delivery and checks have no history.",
            "reasons": [],
        },
        "log": {
            **dict.fromkeys(LOG_KEYS),
            "entries": moment.seq,
            "signals": rows,
            "first_seq": 1 if moment.seq else 0,
            "last_seq": moment.seq,
            "last_recorded_at": moment.recorded_at,
            "chain": None if entry is None else entry.chain,
        },
        "rate": None,
        "table": {**dict.fromkeys(TABLE_KEYS), "rows": rows},
        "delivery": dict.fromkeys(DELIVERY_KEYS),
        "mirror": None,
        "evidence": None,
        "projections": [],
        "history": None,
        "checks": [],
        "latest": page.rows,
    }
