"""The columnar parser: it returns lines whose chain and hashes were checked, or nothing."""

import functools
import hashlib
import random
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventlog import Entry, EventLog, LogCorrupt, LogDiverged, LogNotFound
from eventlog.format.line import decode
from eventlog.format.scan import TIP_START, Tip, scan
from eventlog.plumbing import VerifiedChunk, read_verified
from eventlog.read import columns
from eventlog.read.columns import read_columns
from eventlog.schema.stored import CANONICAL_FORMAT
from eventlog.verify.line_verifier import LineVerifier
from tests.harness.histories import Item, histories
from tests.harness.log_checks import lines_in
from tests.harness.raw_log import RawLog
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def mixed_items() -> list[dict[str, object]]:
    return [
        a_signal(1, regime="TRENDING", reasoning="long enough to be sent to Alpine"),
        a_signal(2),
        closed(1),
        a_signal(3, strategy="Müller", note="…"),
        a_signal(4, consensus_agreement=0.75, nested={"a": [1, 2.5, None]}),
        {"event": "note", "signal_id": "s-1"},
        a_signal(5, entry_price=150, confidence=0),
    ]


@functools.cache
def mixed_lines() -> list[bytes]:
    """Lines of one log: signals as most are, others, facts, and other events."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        append(home, *mixed_items())
        append(home, a_signal(6), a_signal(7))
        return lines_in(home)


def rechained(lines: list[bytes]) -> list[bytes]:
    """The lines with chains that fit, as a forger would write them."""
    chain = b"0" * 64
    found = []
    for line in lines:
        body = line[: line.rindex(b',"chain":"')]
        chain = hashlib.sha256(chain + body).hexdigest().encode()
        found.append(body + b',"chain":"' + chain + b'"}\n')
    return found


def text(value: object) -> bytes:
    return orjson.dumps(value)


def test_columns_hold_the_texts_of_the_lines() -> None:
    lines = mixed_lines()
    found = read_columns(b"".join(lines), TIP_START)
    assert found is not None
    assert found.tip == scan(b"".join(lines), TIP_START).tip
    by_seq = {entry.seq: entry for entry in map(decode, lines)}
    for name in ("signal_id", "symbol", "action", "entry_price", "confidence", "sha256"):
        for seq, value in zip(found.signals.seq, getattr(found.signals, name), strict=True):
            assert value == text(by_seq[int(seq)].payload[name])
    taken = {int(seq) for seq in found.signals.seq}
    assert {1, 2, 4 + 1, 8, 9} <= taken
    assert sorted(taken | {decode(line).seq for line in found.others}) == sorted(by_seq)
    assert list(found.signals.line) == [lines[seq - 1] for seq in sorted(taken)]
    for seq, members in zip(found.signals.seq, found.signals.members, strict=True):
        payload = by_seq[int(seq)].payload
        extra = {key: payload[key] for key in ("regime", "reasoning") if key in payload}
        assert not extra or orjson.loads(b"{" + members[1:] + b"}") == extra


def test_times_give_when_each_entry_was_recorded() -> None:
    found = read_columns(b"".join(mixed_lines()), TIP_START)
    assert found is not None
    said = {
        seq: recorded_at
        for seq_from, seq_to, recorded_at in found.recorded_times
        for seq in range(seq_from, seq_to + 1)
    }
    assert said == {entry.seq: entry.recorded_at for entry in map(decode, mixed_lines())}


@given(st.data())
@settings(max_examples=300)
def test_lines_with_any_flipped_bit_give_no_columns(data: st.DataObject) -> None:
    whole = bytearray(b"".join(mixed_lines()))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if bytes(whole).endswith(b"\n"):
        assert read_columns(bytes(whole), TIP_START) is None


@pytest.mark.parametrize("tip", [Tip(1, 1, "", "0" * 64), Tip(0, 0, "", "1" * 64)])
def test_lines_that_do_not_continue_the_chain_give_no_columns(tip: Tip) -> None:
    assert read_columns(b"".join(mixed_lines()), tip) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"symbol":"AAPL"', b'"symbol":"AAPX"'),
        (b'"entry_price":151.0', b'"entry_price":151.5'),
        (b'"confidence":85.5', b'"confidence":85.6'),
        (b'"sha256":"', b'"sha256":"0'),
        (b'"regime":"TRENDING"', b'"regime":"A","regime":"B"'),
        (b'"regime":"TRENDING"', b'"symbol":"AAPL"'),
        (b'"regime":"TRENDING"', b'"regime": "TRENDING"'),
        (b'"recorded_at":"2', b'"recorded_at":"1'),
    ],
)
def test_an_edited_and_rechained_signal_is_in_no_column(old: bytes, new: bytes) -> None:
    lines = mixed_lines()
    at = 0 if b"recorded" not in old else 1
    edited = [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]
    assert edited != lines
    edited = rechained(edited)
    found = read_columns(b"".join(edited), TIP_START)
    assert found is None or edited[at] in found.others
    assert read_columns(b"".join(rechained(lines)), TIP_START) is not None


# -- the whole log, through the public interface


def entries_of(chunks: list[VerifiedChunk]) -> list[Entry]:
    """All entries, from the columns too, by their lines."""
    return sorted(
        [decode(line) for stretch in chunks for line in stretch.signals.line]
        + [entry for stretch in chunks for entry in stretch.others]
    )


@given(histories(malformed=False), st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=25)
def test_verified_reading_gives_each_entry_once_from_any_entry_on(
    history: list[Item], after: int, lines_in_segment: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        raw = RawLog(home)
        raw.add(history, lines_in_segment=lines_in_segment)
        if not raw.lines:
            with pytest.raises(LogNotFound):
                list(read_verified(home))
            return
        entries = [decode(line) for line in raw.lines]
        after = min(after, len(entries))
        chain = entries[after - 1].chain if after else "0" * 64
        chunks = list(read_verified(home, after=after, chain=chain))
        assert entries_of(chunks) == entries[after:]
        ends = [(stretch.seq_to, stretch.chain) for stretch in chunks]
        assert set(ends) <= {(entry.seq, entry.chain) for entry in entries}
        if chunks:
            middle = chunks[len(chunks) // 2]
            rest = read_verified(
                home, after=middle.seq_to, chain=middle.chain, hint=middle.position
            )
            assert entries_of(list(rest)) == entries[middle.seq_to :]


def test_a_wrong_chain_is_reported_as_another_log(home: Path) -> None:
    append(home, a_signal(1), a_signal(2))
    with pytest.raises(LogDiverged):
        list(read_verified(home, after=1, chain="1" * 64))


@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_signal_that_does_not_have_its_own_hash_is_damage_with_its_place(
    home: Path, at: int
) -> None:
    """Also where the line is not laid out as ours are, and after good ones."""
    append(home, *mixed_items())
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = lines_in(home)
    edited = [*lines[:at], lines[at].replace(b"AAPL", b"AAPX"), *lines[at + 1 :]]
    segment.write_bytes(b"".join(rechained(edited)))
    seen: list[VerifiedChunk] = []
    with pytest.raises(LogCorrupt) as raised:
        seen.extend(read_verified(home))
    assert "does not match its sha256" in str(raised.value)
    assert raised.value.seq == at + 1
    assert raised.value.byte_offset == sum(map(len, lines[:at]))


def test_an_incomplete_signal_is_returned_unparsed(home: Path) -> None:
    raw = RawLog(home)
    raw.add([("signal", {"signal_id": "a"}), ("signal", {"sha256": 1}), ("closed", {})])
    assert [stretch.others for stretch in read_verified(home)] == [[decode(x) for x in raw.lines]]


def test_a_flipped_bit_anywhere_ends_reading_after_the_good_entries(home: Path) -> None:
    with EventLog(home, segment_bytes=3_000) as log:
        for number in range(40):
            log.append(a_signal(number))
    segments = sorted((home / "logs").glob("*.jsonl"))
    whole = [segment.read_bytes() for segment in segments]
    rng = random.Random(5)
    for _ in range(30):
        which = rng.randrange(len(segments))
        data = bytearray(whole[which])
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        segments[which].write_bytes(data)
        before = b"".join(whole[:which]).count(b"\n") + whole[which][:place].count(b"\n")
        seen: list[VerifiedChunk] = []
        with pytest.raises(LogCorrupt) as raised:
            seen.extend(read_verified(home))  # what came before the error stays in it
        segments[which].write_bytes(whole[which])
        assert [entry.seq for entry in entries_of(seen)] == list(range(1, before + 1))
        assert raised.value.seq == before + 1


# -- what an attacker would do: change the text, then make both hashes fit what the columns show

PIECES = (
    *(b'"', b"\\", b",", b":", b"{", b"}", b" ", b"\x7f", b"\x00", b"\r", b"0", b"1", b"."),
    *(b"-", b"e5", b"00", b".0", b"0.00001", b"\xc3\xbc", b"\xff", b"\\u0041", b',"', b'":'),
    *(b'","', b',"symbol":"X"', b',"a":1', b',"a":1,"a":2', b'"a" :1', b',"seq":9', b"null"),
    *(b',"sha256":"', b',"chain":"', b'"}', b"9" * 20, b"[" * 40),
)


def hashed_as_shown(body: bytes) -> bytes:
    """The line of a signal with the hashes that the columns compute of it, right or wrong."""
    found = columns._LINES_PATTERN.findall(body + b"\n")
    digest = b"0" * 64
    if found[0][1]:
        signal_id, symbol, action, entry, target, stop, confidence, strategy = found[0][4:12]
        nine = (action, confidence, entry, signal_id, stop, strategy, symbol, target, found[0][14])
        digest = hashlib.sha256(CANONICAL_FORMAT % nine).hexdigest().encode()
    return rechained([body + b',"sha256":"%b","chain":"' % digest])[0]


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 3), st.sampled_from(PIECES)),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=300)
@example([(10_000, 0, b"")])
def test_no_column_holds_what_the_full_rules_refuse(edits: list[tuple[int, int, bytes]]) -> None:
    body = mixed_lines()[0].rpartition(b',"sha256"')[0]
    for place, length, piece in edits:
        start = place % (len(body) + 1)
        body = body[:start] + piece + body[start + length :]
    line = hashed_as_shown(body)
    found = read_columns(line, TIP_START)
    if found is not None and found.signals.line:
        verifier = LineVerifier()
        assert verifier.check(line) is None
        assert verifier.tip == found.tip


def test_a_quote_that_ends_one_member_and_starts_the_next_is_in_no_column() -> None:
    body = mixed_lines()[1].rpartition(b',"sha256"')[0]
    assert body.endswith(b'+00:00"')
    # "timestamp":"...,"sha256":"...": to the pattern a whole string, to the tail a whole member
    shared = hashed_as_shown(body[:-1] + b',"').replace(b',","sha256":', b',"sha256":')
    assert shared.count(b'+00:00,"sha256":"') == 1
    found = read_columns(rechained([shared])[0], TIP_START)
    assert found is None or not found.signals.line
