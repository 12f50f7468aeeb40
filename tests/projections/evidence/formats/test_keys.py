"""Keys in their text forms: one spelling each, and secrets that are never shown."""

import pytest

from projections.errors import NotProved
from projections.evidence.formats.keys import (
    COSIGNER,
    LOG,
    SigningKey,
    cosigned_message,
    is_name,
    is_new_name,
    new_key,
    parse_secret,
    parse_vkey,
)
from tests.projections.evidence.vectors import vectors


def test_keys_are_those_of_the_vectors() -> None:
    key = parse_secret(vectors()["secret"])
    assert key.seed == bytes(range(32))
    assert key.to_secret() == vectors()["secret"]
    assert key.verifier.to_text() == vectors()["vkey"]
    assert parse_vkey(vectors()["vkey"]) == key.verifier
    witness = SigningKey(name="witness.example/vectors", kind=COSIGNER, seed=bytes(range(32, 64)))
    assert witness.verifier.to_text() == vectors()["witness_vkey"]


def test_a_new_key_differs_from_others_and_verifies_what_it_signs() -> None:
    one, other = new_key("log.example"), new_key("log.example")
    assert one.seed != other.seed
    assert parse_secret(one.to_secret()) == one
    assert one.verifier.verify(b"text\n", one.sign(b"text\n")[4:]) is None
    with pytest.raises(NotProved, match="wrong"):
        other.verifier.verify(b"text\n", one.sign(b"text\n")[4:])


def test_every_changed_character_of_a_vkey_or_a_secret_is_refused() -> None:
    for text, parse in ((vectors()["vkey"], parse_vkey), (vectors()["secret"], parse_secret)):
        for at, char in enumerate(text):
            for changed in (
                text[:at] + ("A" if char != "A" else "B") + text[at + 1 :],
                text[:at] + char.swapcase() + text[at + 1 :],
                text[:at] + text[at + 1 :],
                text[:at] + char + text[at:],
                text[:at] + " " + text[at:],
            ):
                if changed != text:
                    with pytest.raises(NotProved):
                        parse(changed)
        with pytest.raises(NotProved):
            parse(f"{text}\n")


def test_no_error_and_no_repr_shows_a_seed() -> None:
    secret = vectors()["secret"]
    hidden = secret.rpartition("+")[2]
    assert hidden not in repr(parse_secret(secret))
    assert "seed" not in repr(parse_secret(secret))
    for broken in (secret[:-1], f"{secret}A", secret.replace("2bf6c563", "2bf6c564")):
        with pytest.raises(NotProved) as found:
            parse_secret(broken)
        assert hidden[:12] not in str(found.value)


@pytest.mark.parametrize("kind", [0, 2, 6, 255])
def test_only_keys_of_logs_and_cosigners_are_accepted(kind: int) -> None:
    text = SigningKey(name="x", kind=kind, seed=bytes(32)).verifier.to_text()
    with pytest.raises(NotProved, match="Ed25519"):
        parse_vkey(text)


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00", "a\u200b", "n" * 256, "\u00e4" * 128]
)
def test_a_name_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    assert not is_new_name(name)
    with pytest.raises(ValueError):
        new_key(name)


def test_a_name_of_someone_else_follows_the_rules_of_signed_notes_and_no_tables() -> None:
    """The rules of Go's note.Open: UTF-8, no Unicode spaces, no plus."""
    for name in (
        "w",
        "\u00e4" * 400,
        "a\u200bb",
        "\ufeff",
        "\ue000",
        "\u0378",
        "\U0001fae9",
        "a\x7f",
    ):
        assert is_name(name)
        key = SigningKey(name=name, kind=COSIGNER, seed=bytes(32)).verifier
        assert parse_vkey(key.to_text()) == key
    spaces = [chr(at) for at in range(0x3001) if chr(at).isspace()]
    for space in (*spaces, "+", "\x00", "\ud800"):
        assert not is_name(f"a{space}b")
    assert not is_name("")


def test_a_cosigner_signs_its_time_and_no_year_beyond_9999() -> None:
    key = SigningKey(name="w", kind=COSIGNER, seed=bytes(32))
    assert cosigned_message(b"t\n", 7) == b"cosignature/v1\ntime 7\nt\n"
    assert key.verifier.verify(b"t\n", key.sign(b"t\n", time_s=7)[4:]) == 7
    for time_s in (0, 253_402_300_800, 2**63):  # a witness of checkpoints never signs 0
        with pytest.raises(NotProved, match="no time"):
            key.verifier.verify(b"t\n", key.sign(b"t\n", time_s=time_s)[4:])
    for short in (b"", b"1234567", bytes(71), bytes(73)):
        with pytest.raises(NotProved, match="wrong"):
            key.verifier.verify(b"t\n", short)


def test_a_time_belongs_to_a_cosigner_only() -> None:
    with pytest.raises(ValueError):
        SigningKey(name="x", kind=LOG, seed=bytes(32)).sign(b"t\n", time_s=1)
    with pytest.raises(ValueError):
        SigningKey(name="x", kind=COSIGNER, seed=bytes(32)).sign(b"t\n")
