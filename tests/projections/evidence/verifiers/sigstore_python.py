"""Checks a proof with sigstore of PyPI: SignedNote.verify and verify_merkle_inclusion.

python sigstore_python.py VKEY inclusion PROOF...

It writes `accepted` or `refused` for each proof, since its start takes most of its time.
"""

import base64
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore._utils import KeyID
from sigstore.errors import VerificationError
from sigstore_models.common import v1

ED25519 = bytes.fromhex("302a300506032b6570032100")  # the start of such a key in DER


def verify(vkey: str, path: str) -> None:
    """Raises VerificationError, or ValueError where a part of the proof has no form."""
    _, key_id, key = vkey.split("+", 2)
    head, _, checkpoint = Path(path).read_text().partition("\n\n")
    lines = head.split("\n")
    der = ED25519 + base64.b64decode(key)[1:]
    public = v1.PublicKey(
        raw_bytes=base64.b64encode(der), key_details=v1.PublicKeyDetails.PKIX_ED25519
    )
    signed = SignedCheckpoint.from_text(checkpoint)
    keyring = RekorKeyring(Keyring([public]))
    signed.signed_note.verify(keyring, KeyID(bytes.fromhex(key_id)))
    index = int(lines[2].removeprefix("index "))
    proof = SimpleNamespace(
        hashes=[base64.b64decode(line) for line in lines[3:]],
        log_index=index,
        tree_size=signed.checkpoint.log_size,
        root_hash=bytes.fromhex(signed.checkpoint.log_hash),
    )
    body = base64.b64decode(lines[1].removeprefix("extra "))
    inner = SimpleNamespace(canonicalized_body=body, inclusion_proof=proof)
    entry: Any = SimpleNamespace(log_index=index, _inner=inner)
    verify_merkle_inclusion(entry)


for each in sys.argv[3:]:
    try:
        verify(sys.argv[1], each)
    except (VerificationError, ValueError):
        sys.stdout.write("refused\n")
    else:
        sys.stdout.write("accepted\n")
