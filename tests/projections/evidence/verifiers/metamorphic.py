"""Checks a proof or growth with metamorphic-log, which is written in Rust.

python metamorphic.py VKEY inclusion PROOF
python metamorphic.py VKEY consistency OLD_CHECKPOINT GROWTH
"""

import base64
import hashlib
import sys
from pathlib import Path

import metamorphic_log as verifier  # type: ignore[import-untyped]


def split(path: str) -> tuple[list[str], str]:
    """The lines before the checkpoint, and the checkpoint."""
    head, _, checkpoint = Path(path).read_text().partition("\n\n")
    return head.split("\n"), checkpoint


def main(vkey: str, kind: str, *paths: str) -> None:
    head, checkpoint = split(paths[-1])
    first = 3 if kind == "inclusion" else 1
    path = [base64.b64decode(line) for line in head[first:]]
    if kind == "inclusion":
        line = base64.b64decode(head[1].removeprefix("extra "))
        leaf = hashlib.sha256(b"\0" + line).digest()
        index = int(head[2].removeprefix("index "))
        verifier.checkpoint_verify_inclusion(checkpoint, [vkey], index, leaf, path)
    else:
        old = Path(paths[0]).read_text()
        verifier.checkpoint_verify_consistency(old, checkpoint, [vkey], path)


main(*sys.argv[1:])
