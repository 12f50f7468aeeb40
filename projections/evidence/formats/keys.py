"""Ed25519 keys of logs and witnesses in their text forms; the only module that uses cryptography.

    vkey     NAME+hex key id+base64(kind + public key)
    secret   PRIVATE+KEY+NAME+hex key id+base64(kind + seed)

https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature. Needs the extra `evidence`.

Invariant: no error and no repr contains a seed.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from projections.errors import NotProved
from projections.evidence.formats.encoding import (
    ID_BYTES,
    TIME_BYTES,
    TIME_MAX_S,
    decode_base64,
    encode_base64,
)

LOG = 1  # signs notes as they are
COSIGNER = 4  # signs a time and a checkpoint: a witness
KEY_BYTES = 32  # of an Ed25519 seed, and of a public key

_KINDS = (LOG, COSIGNER)
_SECRET_PREFIX = "PRIVATE+KEY+"


# signed-note: UTF-8 without Unicode spaces and plus; a note has no control characters either. The
# spaces are written out, since the tables of Unicode differ between programs and grow.
_NAME = re.compile(
    r"[^\x00-\x20+\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]+"
)
_NEW_NAME = re.compile("[!-*,-~]{1,255}")  # no `+`


def is_name(name: str) -> bool:
    """Whether a key of someone may have that name, by the rules of signed-note."""
    return _NAME.fullmatch(name) is not None


def is_new_name(name: str) -> bool:
    """Whether a new key may have that name: printable ASCII, which all programs judge alike."""
    return _NEW_NAME.fullmatch(name) is not None


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The four bytes by which a signature names its key."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:ID_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A public key: verifies the signatures of one log or one witness."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes before each of its signatures."""
        return key_id(self.name, self.kind, self.public)

    def to_text(self) -> str:
        """The vkey."""
        encoded = encode_base64(bytes([self.kind]) + self.public)
        return f"{self.name}+{self.id.hex()}+{encoded}"

    def verify(self, text: bytes, signature: bytes) -> int | None:
        """Returns the time that a cosigner signed, None for a log. Raises NotProved."""
        time_s, message = None, text
        if self.kind == COSIGNER:
            time_s = int.from_bytes(signature[:TIME_BYTES])
            message, signature = cosigned_message(text, time_s), signature[TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise NotProved(f"the signature of {self.name} is wrong") from None
        if time_s is not None and not 0 < time_s <= TIME_MAX_S:
            raise NotProved(f"the cosignature of {self.name} has no time")
        return time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key, and the public one that belongs to it."""

    name: str
    kind: int
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The public key."""
        public = self._private().public_key().public_bytes_raw()
        return VerifierKey(name=self.name, kind=self.kind, public=public)

    def to_secret(self) -> str:
        """The secret in its text form."""
        encoded = encode_base64(bytes([self.kind]) + self.seed)
        return f"{_SECRET_PREFIX}{self.name}+{self.verifier.id.hex()}+{encoded}"

    def sign(self, text: bytes, *, time_s: int | None = None) -> bytes:
        """Key id and signature of a text; a cosigner needs a time, a log takes none."""
        if (self.kind == COSIGNER) != (time_s is not None):
            raise ValueError("a time belongs to a cosigner's key, and to no other")
        if time_s is None:
            return self.verifier.id + self._private().sign(text)
        signature = self._private().sign(cosigned_message(text, time_s))
        return self.verifier.id + time_s.to_bytes(TIME_BYTES) + signature

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def cosigned_message(text: bytes, time_s: int) -> bytes:
    """What a cosigner signs."""
    return b"cosignature/v1\ntime %d\n" % time_s + text


def new_key(name: str, kind: int = LOG) -> SigningKey:
    """A key from the random numbers of the system. Raises ValueError for a name it cannot have."""
    if not is_new_name(name):
        raise ValueError("the name of a new key is printable ASCII without spaces and `+`")
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    return SigningKey(name=name, kind=kind, seed=seed)


def parse_vkey(text: str) -> VerifierKey:
    """A vkey, without a newline. Raises NotProved."""
    name, id_text, kind, public = _parse(text, what="the vkey")
    key = VerifierKey(name=name, kind=kind, public=public)
    if key.id.hex() != id_text:
        raise NotProved("the vkey is wrong: its key id is not that of its key")
    return key


def parse_secret(text: str) -> SigningKey:
    """A secret, without a newline. Raises NotProved, which does not show it."""
    if not text.startswith(_SECRET_PREFIX):
        raise NotProved("the file holds no secret key: it does not begin with PRIVATE+KEY+")
    rest = text.removeprefix(_SECRET_PREFIX)
    name, id_text, kind, seed = _parse(rest, what="the secret key")
    key = SigningKey(name=name, kind=kind, seed=seed)
    if key.verifier.id.hex() != id_text:
        raise NotProved("the secret key is wrong: its key id is not that of its key")
    return key


def _parse(text: str, *, what: str) -> tuple[str, str, int, bytes]:
    """Name, key id in hex, kind, and key."""
    parts = text.split("+", 2)  # base64 may hold further plus signs
    if len(parts) != 3 or not is_name(parts[0]):
        raise NotProved(f"{what} does not have the form NAME+ID+KEY")
    name, id_text, encoded = parts
    raw = decode_base64(encoded, what=f"the key in {what}")
    if len(raw) != 1 + KEY_BYTES or raw[0] not in _KINDS:
        raise NotProved(f"{what} is not an Ed25519 key of a log or of a cosigner")
    return name, id_text, raw[0], raw[1:]
