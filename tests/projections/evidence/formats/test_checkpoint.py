"""Signed notes and checkpoints: the vectors, foreign signatures, and changed bytes."""

import pytest

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import (
    Cosignature,
    SignedHead,
    open_checkpoint,
    parse_head,
    sign_head,
)
from projections.evidence.formats.keys import COSIGNER, LOG, SigningKey, parse_secret, parse_vkey
from projections.evidence.formats.note import (
    SIGNATURES_MAX,
    Signature,
    cosign,
    parse_note,
    parse_signatures,
    sign_note,
    with_signatures,
)
from tests.projections.evidence.vectors import tree, vectors

TIME_S = 1764412800
WITNESS = SigningKey(name="witness.example/vectors", kind=COSIGNER, seed=bytes(range(32, 64)))


def log_key() -> SigningKey:
    return parse_secret(vectors()["secret"])


def head(size: int = 300) -> SignedHead:
    return SignedHead(origin=log_key().name, size=size, root=tree().root(size))


def signed() -> bytes:
    return vectors()["checkpoint"].encode()


def test_a_checkpoint_and_its_cosignature_are_those_of_the_vectors() -> None:
    note = sign_head(head(), log_key())
    assert note.to_bytes() == signed()
    cosignature = cosign(note.text, WITNESS, TIME_S)
    assert cosignature.to_text() == vectors()["cosignature"]
    both = with_signatures(note, [cosignature]).to_bytes()
    assert both == signed() + vectors()["cosignature"].encode()
    witness = parse_vkey(vectors()["witness_vkey"])
    opened = open_checkpoint(both, parse_vkey(vectors()["vkey"]), [witness])
    assert opened.head == head()
    assert opened.cosignatures == (Cosignature(name=witness.name, time_s=TIME_S),)


def test_no_changed_byte_of_a_checkpoint_opens() -> None:
    data, key = signed(), log_key().verifier
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
            data[:at] + bytes([data[at] ^ 32]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[:at] + data[at : at + 1] + data[at:],
            data[:at],
        ):
            with pytest.raises(NotProved):
                open_checkpoint(changed, key)


def test_signatures_of_other_keys_are_ignored_and_wrong_ones_of_ours_are_not() -> None:
    note, key = sign_head(head(), log_key()), log_key()
    other = SigningKey(name="other.example", kind=LOG, seed=bytes(32))
    namesake = SigningKey(name=key.name, kind=LOG, seed=bytes(32))
    foreign = [*sign_note(note.text, other).signatures, *sign_note(note.text, namesake).signatures]
    mixed = with_signatures(note, foreign)
    assert open_checkpoint(mixed.to_bytes(), key.verifier).head == head()
    wrong = sign_note(b"another text\n", key).signatures
    with pytest.raises(NotProved, match="wrong"):
        open_checkpoint(with_signatures(note, wrong).to_bytes(), key.verifier)
    with pytest.raises(NotProved, match="not signed"):
        open_checkpoint(note.to_bytes(), namesake.verifier)
    with pytest.raises(NotProved, match="the key of"):
        open_checkpoint(note.to_bytes(), other.verifier)


def test_a_line_of_a_stranger_is_ignored_whatever_its_name() -> None:
    note, key = sign_head(head(), log_key()), log_key().verifier
    for name in ("w" * 300, "w\u200bx", "\u00e4" * 200, "\U0001fae9"):
        stranger = Signature(name=name, id=b"1234", value=b"5")
        data = with_signatures(note, [stranger]).to_bytes()
        assert open_checkpoint(data, key).note.to_bytes() == data
    for name in ("", "a b", "a+b", "a\u2003b"):
        data = with_signatures(note, [Signature(name=name, id=b"1234", value=b"5")]).to_bytes()
        with pytest.raises(NotProved, match="signature"):
            open_checkpoint(data, key)


def test_the_head_of_an_empty_log_has_its_root() -> None:
    assert parse_head(b"o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n").size == 0


def test_a_witness_that_signed_twice_counts_once_with_its_earlier_time() -> None:
    note = sign_head(head(), log_key())
    twice = [cosign(note.text, WITNESS, TIME_S + 5), cosign(note.text, WITNESS, TIME_S)]
    data = with_signatures(note, twice).to_bytes()
    opened = open_checkpoint(data, log_key().verifier, [WITNESS.verifier])
    assert opened.cosignatures == (Cosignature(name=WITNESS.name, time_s=TIME_S),)


def test_a_wrong_cosignature_of_a_witness_that_was_named_is_refused() -> None:
    note = sign_head(head(), log_key())
    wrong = cosign(sign_head(head(299), log_key()).text, WITNESS, TIME_S)
    data = with_signatures(note, [wrong]).to_bytes()
    assert open_checkpoint(data, log_key().verifier).cosignatures == ()
    with pytest.raises(NotProved, match="witness"):
        open_checkpoint(data, log_key().verifier, [WITNESS.verifier])


def test_a_cosigner_is_no_log_and_a_log_is_no_witness() -> None:
    key = log_key()
    with pytest.raises(NotProved, match="the key of"):
        open_checkpoint(signed(), SigningKey(name=key.name, kind=COSIGNER, seed=key.seed).verifier)
    with pytest.raises(NotProved, match="witness"):
        open_checkpoint(signed(), key.verifier, [key.verifier])


def test_lines_that_other_logs_add_are_signed_too() -> None:
    more = SignedHead(origin=log_key().name, size=1, root=bytes(32), extensions=("x", "y z"))
    data = sign_head(more, log_key()).to_bytes()
    assert open_checkpoint(data, log_key().verifier).head == more


ROOT = "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        f"o\n1\n{ROOT}",
        f"o\n01\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n 1\n{ROOT}\n",
        f"o\n1_0\n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{'1' * 5000}\n{ROOT}\n",
        f"\n1\n{ROOT}\n",
        f"o\n1\n{ROOT}\n\n",
        "o\n1\n" + "A" * 42 + "B=\n",  # unused bits that are not zero
        "o\n1\n" + "A" * 43 + "\n",
        "o\n1\n" + "A" * 43 + "==\n",
        "o\n1\n" + "-" * 43 + "=\n",
        "o\n1\nAAAA\n",
        "o\n1\n\u00e4\n",
        f"o\n0\n{ROOT}\n",  # an empty log has one root
    ],
)
def test_a_head_in_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(NotProved):
        parse_head(text.encode())
    assert parse_head(f"o\n1\n{ROOT}\n".encode()).size == 1


def test_a_note_is_cut_at_its_last_empty_line_and_has_few_signatures() -> None:
    line = sign_note(b"x\n", log_key()).signatures[0].to_text()
    note = parse_note(f"a\n\nb\n\n{line}".encode())
    assert note.text == b"a\n\nb\n"
    assert note.to_bytes() == f"a\n\nb\n\n{line}".encode()
    assert len(parse_signatures(line * SIGNATURES_MAX)) == SIGNATURES_MAX
    for bad in (
        f"a\n{line}",
        f"\n\n{line}",
        "a\n\n",
        f"a\n\n{line}\n",
        f"a\n\n{line[:-1]}",
        f"a\t\n\n{line}",
        f"a\r\n\n{line}",
        f"a\n\n{line.replace(chr(0x2014), '-')}",
        f"a\n\n{line.replace(' ', '  ')}",
        "a\n\n\N{EM DASH} name AAAAAA==\n",
        "a\n\n" + line * (SIGNATURES_MAX + 1),
        "a" * 1_000_001 + f"\n\n{line}",
    ):
        with pytest.raises(NotProved):
            parse_note(bad.encode())
    with pytest.raises(NotProved):
        parse_note(b"\xff\n\n" + line.encode())
