"""Lines that an operator has signed by some other program, and which of them are entries.

The check in Python and the page in the browser judge each of them alike.
"""

from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.keys import SigningKey
from projections.evidence.formats.merkle import leaf_hash
from projections.evidence.formats.note import Signature, cosign, with_signatures
from projections.evidence.proofs.proof import Proof

LOG = SigningKey(name="foreign.example", kind=1, seed=bytes(range(64, 96)))
GOOD = (
    b'{"v":1,"seq":1,"batch":1,"recorded_at":"2025-11-18T02:00:00.123456Z","event":"signal",'
    b'"symbol":"AAPL","chain":"%b"}' % (b"0" * 64)
)


def _with(old: bytes, new: bytes) -> bytes:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def _symbol(json: bytes) -> bytes:
    return _with(b'"AAPL"', json)


ACCEPTED = {
    "good": GOOD,
    "escaped NUL": _symbol(rb'"\u0000<script>alert(1)</script>"'),
    "Hebrew": _symbol('"\u05d0\u05d1 100 \u05d2"'.encode()),
    "right-to-left override": _symbol('"a\u202eb"'.encode()),
    "braces and colons in a string": _symbol(rb'"{\"a\":1,\"a\":[":"'.replace(b'":"', b':"')),
    "one name in two objects": _symbol(b'{"symbol":[{"symbol":1},{"symbol":2}]}'),
    "32 levels": _symbol(b"[" * 31 + b"]" * 31),
    "many brackets, not deep": _symbol(b"[" + b",".join([b"[]"] * 40) + b"]"),
    "a pair of surrogates": _symbol(rb'"\ud83d\ude00"'),
    "numbers": _symbol(b"[-0,1e5,1.5E-999,123456789012345678901234567890]"),
    "65,535 bytes with its newline": _symbol(b'"%b"' % (b"A" * (65_534 - len(GOOD) + 4))),
    "the last second of a leap day": _with(b"2025-11-18T02:00:00", b"2024-02-29T23:59:59"),
}
REFUSED = {
    "no JSON behind the head": GOOD[: GOOD.index(b',"symbol"')] + b" BUY AAPL at 5",
    "no JSON between head and chain": _symbol(b"BUY AAPL at 5"),
    "no chain": GOOD[: GOOD.index(b',"chain"')] + b"}",
    "a chain that is none": _with(b"0" * 64, b"chain"),
    "a chain of capitals": _with(b"0" * 64, b"A" * 64),
    "text behind the chain": GOOD + b" ",
    "event twice": _with(b'"symbol"', b'"event":"other","symbol"'),
    "event twice, the same": _with(b'"symbol"', b'"event":"signal","symbol"'),
    "v twice": _with(b'"symbol"', b'"v":2,"symbol"'),
    "chain twice": _with(b'"symbol"', b'"chain":"' + b"1" * 64 + b'","symbol"'),
    "a key of the payload twice": _with(b'"symbol"', b'"symbol":"MSFT","symbol"'),
    "twice by an escape": _with(b'"symbol"', rb'"s\u0079mbol" :"MSFT","symbol"'),
    "twice within": _symbol(b'{"a":[1,{"b":1,"b":2}]}'),
    "a time that is text": _with(b"2025-11-18T02", "2025\u202e(witnessed) \u009b31m".encode()),
    "no such month": _with(b"2025-11-18T02", b"2025-99-99T99"),
    "no such day": _with(b"2025-11-18", b"2025-02-29"),
    "hour 24": _with(b"T02:00:00", b"T24:00:00"),
    "second 60": _with(b"T02:00:00", b"T23:59:60"),
    "year 0": _with(b"2025-", b"0000-"),
    "batch 0": _with(b'"batch":1', b'"batch":0'),
    "a later batch": _with(b'"batch":1', b'"batch":2'),
    "seq 1.0": _with(b'"seq":1', b'"seq":1.0'),
    "seq true": _with(b'"seq":1', b'"seq":true'),
    "another seq": _with(b'"seq":1,"batch":1', b'"seq":2,"batch":1'),
    "a newline": _with(b',"symbol"', b',\n"symbol"'),
    "a carriage return in a string": _symbol(b'"A\r"'),
    "half of a pair of surrogates": _symbol(rb'"A\ud800"'),
    "not UTF-8": _symbol(b'"A\xff"'),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "33 levels": _symbol(b"[" * 32 + b"]" * 32),
    "30,000 levels": _symbol(b"[" * 30_000 + b"]" * 30_000),
    "NaN": _symbol(b"NaN"),
    "infinity": _symbol(b"1e999"),
    "60,000 digits": _symbol(b"9" * 60_000),
    "a leading zero": _symbol(b"01"),
    "65,536 bytes with its newline": _symbol(b'"%b"' % (b"A" * (65_535 - len(GOOD) + 4))),
    "200 kB": _symbol(b'"%b"' % (b"A" * 200_000)),
}


def foreign_proof(line: bytes = GOOD, witnesses: tuple[tuple[SigningKey, int], ...] = ()) -> bytes:
    """The proof of a log of one line, with the cosignatures of witnesses at their times."""
    note = sign_head(SignedHead(origin=LOG.name, size=1, root=leaf_hash(line)), LOG)
    lines: list[Signature] = [cosign(note.text, key, time_s) for key, time_s in witnesses]
    signed = with_signatures(note, lines).to_bytes()
    return Proof(line=line, index=0, path=(), checkpoint=signed).to_bytes()
