"""Time stamps of RFC 3161 over a checkpoint: the request, and the verification of a reply.

What is stamped is the checkpoint up to and including its first signature line, which later
cosignatures do not change. Needs the extra `evidence`; reads no network and no clock.

Invariant: a stamp that is returned was signed by an authority below the given certificates.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerifierBuilder,
    decode_timestamp_response,
)

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import STAMP_BYTES_MAX, Stamp
from projections.evidence.formats.note import parse_note
from projections.evidence.stamps.der_order import with_sorted_certificates

_SHA256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class StampRequest:
    """A request, and the nonce that its reply must repeat."""

    data: bytes
    nonce: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedAuthorities:
    """Certificates that a reply is verified by, and the policy that it must name, if any."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    policy: x509.ObjectIdentifier | None


def stamped_bytes(checkpoint: bytes) -> bytes:
    """What is stamped of a checkpoint. Raises NotProved."""
    note = parse_note(checkpoint)
    return note.text + b"\n" + note.signatures[0].to_text().encode()


def parse_authorities(pem: bytes, policy: str | None = None) -> TrustedAuthorities:
    """The certificates of a PEM file. Raises ValueError, also where none of them is a root."""
    found = x509.load_pem_x509_certificates(pem)
    roots = tuple(each for each in found if each.issuer == each.subject)
    if not roots:
        raise ValueError("the file has no certificate that is signed by itself")
    others = tuple(each for each in found if each not in roots)
    oid = None if policy is None else x509.ObjectIdentifier(policy)
    return TrustedAuthorities(roots=roots, intermediates=others, policy=oid)


def stamp_request(checkpoint: bytes) -> StampRequest:
    """A request for a stamp of a checkpoint, with a random nonce."""
    builder = TimestampRequestBuilder().data(stamped_bytes(checkpoint))
    request = builder.hash_algorithm(HashAlgorithm.SHA256).nonce(nonce=True).build()
    assert request.nonce is not None, "it was asked for"
    return StampRequest(data=request.as_bytes(), nonce=request.nonce)


def verify_stamp(
    reply: bytes, checkpoint: bytes, trusted: TrustedAuthorities, *, nonce: int | None = None
) -> Stamp:
    """The stamp of a checkpoint that a reply holds. Raises NotProved.

    The certificates must have been valid at the time of the stamp, not now.
    """
    message = stamped_bytes(checkpoint)
    if len(reply) > STAMP_BYTES_MAX:
        raise NotProved(f"the time stamp has more than {STAMP_BYTES_MAX} bytes")
    try:
        return _verified(reply, message, trusted, nonce)
    except NotProved:
        raise
    # These bytes come from the network, and not all that the libraries raise is a ValueError.
    except Exception as error:  # noqa: BLE001
        raise NotProved(f"the time stamp does not verify: {error}") from None


def _verified(
    reply: bytes, message: bytes, trusted: TrustedAuthorities, nonce: int | None
) -> Stamp:
    found = _decoded(reply)
    certificate = _signer_certificate(found, trusted)
    # `certificate` is not passed on: the library would take it for one that is trusted.
    verifier = VerifierBuilder(
        policy_id=trusted.policy,
        roots=list(trusted.roots),
        intermediates=list(trusted.intermediates),
        nonce=nonce,
    ).build()
    imprint = found.tst_info.message_imprint
    if imprint.hash_algorithm != _SHA256:
        raise NotProved("the time stamp is not over a SHA-256")
    if imprint.message != sha256(message).digest():
        raise NotProved(
            "the time stamp is of another checkpoint",
            do="give the one whose file has the size of this checkpoint in its name, or ask the"
            " operator for the same by the checkpoint that was stamped, with --size",
        )
    verifier.verify_message(found, message)
    return Stamp(name=certificate.subject.rfc4514_string(), time_s=_latest_time_s(found))


def _decoded(reply: bytes) -> TimeStampResponse:
    with suppress(ValueError):
        return decode_timestamp_response(reply)
    try:
        return decode_timestamp_response(with_sorted_certificates(reply))
    except ValueError as error:
        raise NotProved(
            f"this is no reply of a time stamp authority in DER (RFC 3161): {error}"
        ) from None


def _signer_certificate(found: TimeStampResponse, trusted: TrustedAuthorities) -> x509.Certificate:
    """The one certificate whose issuer and serial number are those of the signer.

    The certificates in a stamp are not signed with it, so anyone can add one of the same issuer and
    number and with another name. Which of the two was verified could not be said.
    """
    signers = {(each.issuer, each.serial_number) for each in found.signed_data.signer_infos}
    given = {x509.load_der_x509_certificate(data) for data in found.signed_data.certificates}
    named = [
        each
        for each in given.union(trusted.roots, trusted.intermediates)
        if (each.issuer, each.serial_number) in signers
    ]
    if len(signers) != 1 or len(named) != 1 or named[0] not in given:
        raise NotProved("the time stamp does not hold one certificate of its signer, and no other")
    return named[0]


def _latest_time_s(found: TimeStampResponse) -> int:
    """A whole second that is not before the stamp, as far as its authority knows."""
    time, accuracy = found.tst_info.gen_time, found.tst_info.accuracy
    time += timedelta(seconds=1)  # the library drops the fraction of a second
    if accuracy is not None:
        time += timedelta(
            seconds=accuracy.seconds or 0,
            milliseconds=accuracy.millis or 0,
            microseconds=accuracy.micros or 0,
        )
    return math.ceil(time.timestamp())
