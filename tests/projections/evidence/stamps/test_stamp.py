"""Time stamps: only a reply that verifies is kept, and only for the checkpoint that it is about."""

import json
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from rfc3161_client import decode_timestamp_response

from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.note import parse_note
from projections.evidence.kept.kept_files import kept_files
from projections.evidence.proofs.proving import prove
from projections.evidence.signing.signing import sign_checkpoint
from projections.evidence.stamps import stamp
from projections.evidence.stamps.der_order import with_sorted_certificates
from projections.evidence.stamps.stamp import (
    parse_authorities,
    stamp_request,
    stamped_bytes,
    verify_stamp,
)
from projections.evidence.stamps.timestamp import anchor, ask_authority, require_url
from tests.harness.command import eventlog
from tests.harness.requirements import CHECKOUT
from tests.harness.stamp_authority import StampAuthority, stamp_authority
from tests.projections.evidence.handover.homes import signed_home, statement_of, write_trades

CHECKPOINT = "log.example\n1\nAAAA\n\n\N{EM DASH} log.example AAAAAAAA\n".encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StampAuthority]:
    with stamp_authority(tmp_path_factory.mktemp("authority")) as found:
        yield found


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> StampAuthority:
    return StampAuthority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(autouse=True)
def honest(authority: StampAuthority) -> Iterator[None]:
    yield
    authority.change, authority.status, authority.pause_s = (lambda reply: reply), 200, 0.0


def checkpoint_of(home: Path) -> bytes:
    return max((home / "evidence").glob("*.checkpoint")).read_bytes()


def stamps_of(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "evidence").glob("*.tsr"))


def test_a_stamp_is_over_the_text_and_the_first_signature_and_openssl_accepts_it(
    home: Path, authority: StampAuthority, other: StampAuthority
) -> None:
    signed_home(home)
    trusted = parse_authorities(authority.ca.read_bytes())
    found = anchor(home, authority.url, trusted)
    assert (found.size, found.is_new, found.stamp.name) == (300, True, authority.name)
    data, reply = checkpoint_of(home), Path(found.path).read_bytes()
    assert stamps_of(home) == [f"{300:020d}.tsr"]
    assert stamped_bytes(data) == data  # it has one signature
    cosigned = data + parse_note(data).signatures[0].to_text().encode()
    assert stamped_bytes(cosigned) == data
    assert verify_stamp(reply, cosigned, trusted) == found.stamp
    assert authority.accepts(reply, data)
    assert not authority.accepts(reply, data + b" ")
    asked = len(authority.requests)
    again = anchor(home, authority.url, trusted)
    assert (again.is_new, again.path, len(authority.requests)) == (False, found.path, asked)
    wrong = parse_authorities(other.ca.read_bytes())
    with pytest.raises(NotProved, match="does not verify"):
        anchor(home, authority.url, wrong)
    assert stamps_of(home) == [f"{300:020d}.tsr"]
    write_trades(home, start=9000, signals=2)
    sign_checkpoint(home)
    assert anchor(home, authority.url, trusted).size == 303
    assert stamps_of(home) == [f"{300:020d}.tsr", f"{303:020d}.tsr"]
    with pytest.raises(NotProved, match="another checkpoint"):
        verify_stamp(reply, checkpoint_of(home), trusted)


def test_openssl_accepts_a_stamp_of_a_cosigned_checkpoint_as_the_index_page_says(
    tmp_path: Path, authority: StampAuthority
) -> None:
    data = CHECKPOINT + "\N{EM DASH} witness.example AAAAAAAA\n".encode()
    (tmp_path / "N.checkpoint").write_bytes(data)
    (tmp_path / "N.tsr").write_bytes(authority.reply_to(stamp_request(data).data))
    recipe = (
        "sed '/^\N{EM DASH} /q' N.checkpoint | openssl ts -verify -in N.tsr -data /dev/stdin"
        f" -CAfile {authority.ca}"
    )
    page = (CHECKOUT / "projections/evidence/handover/index.html").read_text()
    shown = recipe.replace("N.", "checkpoints/N.").replace(str(authority.ca), "ROOT.pem")
    assert shown in page
    assert subprocess.run(["sh", "-c", recipe], cwd=tmp_path, check=False).returncode == 0


def test_no_reply_that_does_not_verify_is_kept(
    home: Path, authority: StampAuthority, other: StampAuthority
) -> None:
    signed_home(home)
    trusted = parse_authorities(authority.ca.read_bytes())
    first = authority.reply_to(stamp_request(checkpoint_of(home)).data)
    otherwise = authority.reply_to(stamp_request(checkpoint_of(home).replace(b"0", b"1", 1)).data)
    by_other = other.reply_to(stamp_request(checkpoint_of(home)).data)
    for reply in (first, otherwise, by_other, b"", b"0", first[:-1], b"<html>"):
        authority.change = lambda _, reply=reply: reply  # type: ignore[misc]
        with pytest.raises(NotProved):  # `first` is a replay: its nonce is that of another request
            anchor(home, authority.url, trusted)
    authority.change = lambda _: b"x" * (1 << 17)
    with pytest.raises(ProjectionError, match="more than 65536 bytes"):
        anchor(home, authority.url, trusted)
    authority.status = 503
    with pytest.raises(ProjectionError, match="status 503"):
        anchor(home, authority.url, trusted)
    with pytest.raises(ProjectionError, match="gave no time stamp"):
        anchor(home, "http://127.0.0.1:1/", trusted)
    assert stamps_of(home) == []


def test_a_stamp_must_name_the_policy_that_was_demanded(
    home: Path, authority: StampAuthority
) -> None:
    signed_home(home)
    pem = authority.ca.read_bytes()
    with pytest.raises(NotProved, match="Policy"):
        anchor(home, authority.url, parse_authorities(pem, "1.2.3.4.9"))
    assert anchor(home, authority.url, parse_authorities(pem, "1.2.3.4.1")).is_new


def test_no_byte_of_what_is_signed_in_a_stamp_can_be_changed(authority: StampAuthority) -> None:
    """Bytes that no signature covers may differ; the stamp then says the same or is refused."""
    checkpoint = CHECKPOINT
    trusted = parse_authorities(authority.ca.read_bytes())
    reply = authority.reply_to(stamp_request(checkpoint).data)
    found, chance = verify_stamp(reply, checkpoint, trusted), random.Random(7)
    passed = 0
    for at in chance.sample(range(len(reply)), 250):
        changed = reply[:at] + bytes([reply[at] ^ 1 << chance.randrange(8)]) + reply[at + 1 :]
        try:
            assert verify_stamp(changed, checkpoint, trusted) == found
        except NotProved:
            continue
        passed += 1
    assert passed < 10


def twin_of(certificate: bytes, *, differs: int = 0) -> bytes:
    """A certificate with the issuer and number of another one, and the name of someone else.

    It is longer, so that it may stand behind the other one in a set.
    """
    genuine, key = (
        x509.load_pem_x509_certificate(certificate),
        ec.generate_private_key(ec.SECP256R1()),
    )
    name = x509.Name(
        x509.NameAttribute(each, "A famous time stamp authority of great age")
        for each in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME)
    )
    builder = x509.CertificateBuilder(
        issuer_name=genuine.issuer,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=genuine.serial_number ^ differs,
        not_valid_before=genuine.not_valid_before_utc,
        not_valid_after=genuine.not_valid_after_utc,
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_no_certificate_that_was_added_gives_a_stamp_its_name(authority: StampAuthority) -> None:
    ca, query = authority.ca.read_bytes(), stamp_request(CHECKPOINT).data
    twin = twin_of(authority.certificate)
    forged = authority.reply_to(query, added=twin)
    assert authority.accepts(forged, CHECKPOINT)  # what was added is not signed
    for _ in range(8):  # the library keeps them in a set, whose order differs
        with pytest.raises(NotProved, match="one certificate of its signer"):
            verify_stamp(forged, CHECKPOINT, parse_authorities(ca))
    with pytest.raises(NotProved, match="one certificate of its signer"):
        verify_stamp(authority.reply_to(query), CHECKPOINT, parse_authorities(ca + twin))
    other = authority.reply_to(query, added=twin_of(authority.certificate, differs=1))
    assert verify_stamp(other, CHECKPOINT, parse_authorities(ca)).name == authority.name


def test_a_stamp_is_not_later_than_its_time_rounded_up_and_its_accuracy(
    authority: StampAuthority,
) -> None:
    trusted = parse_authorities(authority.ca.read_bytes())
    reply = authority.reply_to(stamp_request(CHECKPOINT).data)
    found = re.search(rb"\x18.([0-9]{14})(\.[0-9]{1,3})?Z", reply, re.DOTALL)
    assert found is not None
    second = datetime.strptime(f"{found[1].decode()}Z", "%Y%m%d%H%M%S%z").timestamp()
    latest = second + float(found[2] or 0) + 1.5
    assert latest <= verify_stamp(reply, CHECKPOINT, trusted).time_s < latest + 2


def test_whatever_the_library_raises_on_foreign_bytes_is_no_traceback(
    authority: StampAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> NoReturn:
        raise x509.InvalidVersion("44 is not a valid X509 version", 44)  # no ValueError

    trusted = parse_authorities(authority.ca.read_bytes())
    monkeypatch.setattr(stamp, "decode_timestamp_response", fail)
    with pytest.raises(NotProved, match="does not verify: 44 is not"):
        verify_stamp(b"reply", CHECKPOINT, trusted)


def test_a_server_that_drips_its_head_is_given_up() -> None:
    done = threading.Event()

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not done.wait(0.05):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        dripping = pool.submit(answer, server)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        before_s = time.monotonic()
        with pytest.raises(ProjectionError, match=r"takes longer than 0\.3 s"):
            ask_authority(url, b"x", deadline_s=0.3)
        assert time.monotonic() - before_s < 2.0  # the server would go on for ever
        done.set()
        dripping.result()


def test_a_stamp_that_is_kept_is_never_replaced(home: Path) -> None:
    signed_home(home)
    with kept_files(home) as kept:
        names = [kept.write_stamp(300, reply) for reply in (b"one", b"two", b"three")]
        (home / "evidence" / names[0]).unlink()  # of an authority that is trusted no longer
        names.append(kept.write_stamp(300, b"four"))
        assert [kept.read_stamp(name) for name in names[1:]] == [b"two", b"three", b"four"]
        assert kept.stamps(300) == names[1:]


def test_a_reply_that_drips_is_given_up(authority: StampAuthority) -> None:
    authority.change, authority.pause_s = (lambda _: b"x" * 60_000), 0.06
    with pytest.raises(ProjectionError, match=r"takes longer than 0\.3 s"):
        ask_authority(authority.url, stamp_request(CHECKPOINT).data, deadline_s=0.3)


@pytest.mark.parametrize("url", ["", "tsa.example", "ftp://tsa", "http://", "https://me:pw@tsa"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        require_url(url)


def test_a_file_without_a_root_is_refused(authority: StampAuthority) -> None:
    for pem in (b"", b"text", (authority.ca.parent / "tsa.pem").read_bytes()):
        with pytest.raises(ValueError):
            parse_authorities(pem)


def test_the_commands_anchor_and_check_a_stamp(
    home: Path, tmp_path: Path, authority: StampAuthority, other: StampAuthority
) -> None:
    key = signed_home(home).to_text()
    words = ("evidence", "anchor", "--tsa", authority.url, "--tsa-ca", authority.ca)
    done = eventlog(*words, home=home)
    path, text = done.out.decode().splitlines()
    assert (done.code, text.startswith("300 entries not later than 20")) == (0, True), done.err
    proof = tmp_path / "proof"
    proof.write_bytes(prove(home, 7))
    check = ("evidence", "check", proof, "--key", key, "--tsr", path, "--tsa-ca")
    found = json.loads(eventlog(*check, authority.ca, "--json").out)
    (stamped,) = found["not_later_than"]
    assert (stamped["by"], stamped["name"]) == ("authority", authority.name)
    refused = eventlog(*check, other.ca)
    assert (refused.code, refused.out) == (1, b"")
    assert "NOT PROVED: the time stamp does not verify" in refused.err
    assert eventlog("evidence", "check", proof, "--key", key, "--tsr", path).code == 2
    proof.write_bytes(statement_of(home))
    whole = ("evidence", "check-statement", *check[2:])
    assert (
        f"stamped by {authority.name} not later than 2"
        in eventlog(*whole, authority.ca).out.decode()
    )
    assert eventlog(*whole, other.ca).code == 1


def test_certificates_that_an_authority_sends_unsorted_are_accepted(
    authority: StampAuthority,
) -> None:
    """As `openssl ts` does; the set of them is in no signature."""
    trusted, query = parse_authorities(authority.ca.read_bytes()), stamp_request(CHECKPOINT).data
    genuine = x509.load_pem_x509_certificate(authority.certificate).public_bytes(Encoding.DER)
    added = twin_of(authority.certificate, differs=1)
    other = x509.load_pem_x509_certificate(added).public_bytes(Encoding.DER)
    reply = authority.reply_to(query, added=added)
    pair, turned = b"".join(sorted((genuine, other))), b"".join(sorted((genuine, other))[::-1])
    assert reply.count(pair) + reply.count(turned) == 1
    ordered, unsorted = reply.replace(turned, pair), reply.replace(pair, turned)
    assert authority.accepts(unsorted, CHECKPOINT)
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        decode_timestamp_response(unsorted)
    assert verify_stamp(unsorted, CHECKPOINT, trusted) == verify_stamp(ordered, CHECKPOINT, trusted)
    with pytest.raises(NotProved, match="in DER"):
        verify_stamp(unsorted[:-1], CHECKPOINT, trusted)
    for cut in range(0, len(reply), 7):
        with pytest.raises(ValueError, match=r"element|length"):
            with_sorted_certificates(reply[:cut])
