"""Random histories for Hypothesis: ordinary, odd and malformed items of a log.

    histories()      a list of (event, payload), in stored form
    entries_of(h)    the entries of a log that holds exactly these

Ids come from a small pool, so that there are duplicate signals, and facts about existing signals.
With `malformed=False` every item passes validation: `{"event": event, **payload}` can be appended
(a log with the signal_id in its dedupe window refuses a second signal with other content).
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias

import orjson
from hypothesis import strategies as st

from eventlog import Entry

Item: TypeAlias = tuple[str, dict[str, Any]]

HASHED_FIELDS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "timestamp"),
)
IDS = ("a", "İd-ü✓", "id with spaces '\";--")
FACTS = ("executed", "skipped", "expired", "cancelled", "reduced", "closed", "voided")
ITEMS_MAX = 30  # enough for each signal to go through all its events twice
EPOCH = datetime(2025, 11, 18, 2, tzinfo=UTC)

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
prices = st.sampled_from([90.0, 97.0, 100.0, 105.0, 110.0, 150.25, 1e-4, 1e16, 5e-324, 1.7e308])
prices |= st.floats(min_value=1e-6, max_value=1e9)
fractions = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1e-300]) | st.floats(0.01, 0.99)
finite = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e16, -1e-5, -0.0])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | finite
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
OTHER_KEYS = ("reasoning", "regime", "consensus_agreement", "sources_count", "note-ü", "a", "z")
extras = st.dictionaries(st.sampled_from(OTHER_KEYS), values, max_size=3)


def deep(levels: int) -> list[Any]:
    """A list in a list in a list ..."""
    nested: list[Any] = []
    for _ in range(levels - 1):
        nested = [nested]
    return nested


@st.composite
def moments(draw: st.DrawFn) -> str:
    """A timestamp in stored form."""
    micros = draw(st.integers(0, 10**12) | st.sampled_from([0, 1, 999_999]))
    return (EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")


@st.composite
def signals(draw: st.DrawFn) -> Item:
    """A signal in stored form, its sha256 included."""
    payload: dict[str, Any] = {
        "signal_id": draw(st.sampled_from(IDS)),
        "symbol": draw(st.sampled_from(["AAPL", "BTC-USD", "ÄÖÜ", "<B>'\";--"])),
        "action": draw(st.sampled_from(["BUY", "SELL"])),
        "entry_price": draw(prices),
        "target_price": draw(prices),
        "stop_price": draw(prices),
        "confidence": draw(st.sampled_from([0.0, 1.5, 85.5, 100.0]) | st.floats(1.01, 100.0)),
        "strategy": draw(text.filter(bool)),
        "asset_type": draw(st.sampled_from(["stock", "crypto", "unknown", ""])),
        "data_source": draw(st.sampled_from(["weighted_consensus", "x,\u2028y"])),
        "timestamp": draw(moments()),
        **draw(extras),
    }
    return "signal", with_sha256(payload)


def with_sha256(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with the hash of its nine fields as its last key."""
    nine = {key: payload[key] for key in HASHED_FIELDS}
    digest = sha256(json.dumps(nine, sort_keys=True).encode()).hexdigest()
    return {**payload, "sha256": digest}


@st.composite
def facts(draw: st.DrawFn, *, exits: st.SearchStrategy[float] = prices) -> Item:
    """One of the facts in stored form, with all, some or none of its optional keys.

    The seq that a `voided` names is 0, for `histories` to replace, or any seq.
    """
    event = draw(st.sampled_from(FACTS))
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {"reason": text.filter(bool)}
    if event == "executed":
        required = {"order_id": st.sampled_from(["o-1", "o-2", "ö"])}
        optional = {"fill_price": prices, "executed_at": moments()}
    if event == "skipped":
        required, optional = optional, {}
    if event == "reduced":
        required = {"part": st.integers(1, 4), "exit_price": exits, "fraction": fractions}
        optional = {"closed_at": moments()}
    if event == "voided":
        required = {"voids": st.just(0) | st.integers(1, ITEMS_MAX)}
    if event == "closed":
        required = {"exit_price": exits}
        optional = {
            "outcome": st.sampled_from(["win", "loss", "breakeven", "expired"]),
            "profit_loss_pct": finite.map(lambda x: x + 0.0),
            "closed_at": moments(),
        }
    keys = draw(st.fixed_dictionaries(required, optional=optional))
    keys = {**draw(extras), **keys}
    return event, {"signal_id": draw(st.sampled_from(IDS)), **{k: keys[k] for k in sorted(keys)}}


# Events that the packages do not know, with any content, also that of a signal.
names = st.sampled_from(["note", "signal2", "executed.late", "a" * 64])
others = st.tuples(names, extras | signals().map(lambda item: item[1]))

JUNK: list[Any] = [
    *(None, "", "x", "\x00", "BUY", "buy", "150.5", "win", True, False, [], {}, [1.5]),
    *(-1, 0, 1, 150, 2**63 - 1, -0.0, 0.0, 0.5, 1.0, 100.5, -1.5, 1e308, "y" * 129),
    *("2025-11-18", "2025-02-30T00:00:00.000000+00:00", "2025-W47-2T02:00:00.000000+00:00"),
    *("2025-11-18T24:00:00.000000+00:00", "2025-11-18 02:00:00.000000+00:00", deep(31), deep(32)),
]


@st.composite
def broken(draw: st.DrawFn) -> Item:
    """A signal or fact of another program: with keys lost, moved, or of any value."""
    event, payload = draw(signals() | facts())
    key = draw(st.sampled_from(sorted(payload)))
    match draw(st.sampled_from(["lose", "junk", "move", "more", "nothing"])):
        case "lose":
            del payload[key]
        case "junk":
            payload[key] = draw(st.sampled_from(JUNK))
        case "move":
            payload[key] = payload.pop(key)
        case "more":
            payload["more"] = draw(st.sampled_from(JUNK))
        case _:
            payload = draw(extras)
    return event, payload


@st.composite
def histories(draw: st.DrawFn, *, malformed: bool = True, items_max: int = ITEMS_MAX) -> list[Item]:
    """The items of a log, in order; some come again, as late retries do.

    Most facts come after their signal, and most `voided` name the last fact of their signal.
    """
    some_facts = facts(exits=prices | finite if malformed else prices)
    kinds = [signals(), some_facts, some_facts, others] + ([broken()] if malformed else [])
    first = draw(st.lists(signals(), max_size=len(IDS)))  # so that facts have signals to refer to
    history = first + draw(st.lists(st.one_of(kinds), max_size=items_max))
    again = draw(st.lists(st.sampled_from(history), max_size=4)) if history else []
    return _with_voids(history + again)


def _with_voids(history: Sequence[Item]) -> list[Item]:
    """The history, where `voided` with the seq 0 names the last fact before it of its signal.

    Several in a row go back further. The facts need not have applied.
    """
    facts_of: dict[object, list[int]] = {}
    found: list[Item] = []
    for seq, (event, payload) in enumerate(history, 1):
        before = facts_of.setdefault(str(payload.get("signal_id")), [])
        if event == "voided" and payload.get("voids") == 0:
            payload = {**payload, "voids": before.pop() if before else 1}  # noqa: PLW2901
        elif event in FACTS:
            before.append(seq)
        found.append((event, payload))
    return found


def entries_of(history: Sequence[Item], *, gaps: Sequence[int] = ()) -> list[Entry]:
    """The entries of a log with this history, as decoding its lines gives them.

    `gaps` are indices of items whose damage was accepted: their seqs are left out. Chains are made
    up; batches of three entries are a little more than a second apart.
    """
    entries = []
    for index, (event, payload) in enumerate(history):
        batch = index // 3 * 3
        moment = EPOCH + timedelta(microseconds=batch * 400_001)
        recorded_at = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        decoded = orjson.loads(orjson.dumps(payload))
        if index not in gaps:
            chain = sha256(str(index + 1).encode()).hexdigest()
            entries.append(Entry(index + 1, batch + 1, recorded_at, event, decoded, chain))
    return entries
