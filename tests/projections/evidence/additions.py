"""What witnesses and time stamping authorities add to `evidence/`, without either of them."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from projections.evidence.formats.keys import COSIGNER, SigningKey
from projections.evidence.formats.note import cosign, parse_note, with_signatures

WITNESS = SigningKey(name="witness.example/w", kind=COSIGNER, seed=bytes(range(32)))


def checkpoint_path(home: Path, size: int) -> Path:
    return home / "evidence" / f"{size:020d}.checkpoint"


def add_cosignature(home: Path, size: int, time_s: int, *, by: str = WITNESS.name) -> None:
    """Adds the line of a witness to a kept checkpoint."""
    path = checkpoint_path(home, size)
    note = parse_note(path.read_bytes())
    signed = with_signatures(note, [cosign(note.text, replace(WITNESS, name=by), time_s)])
    path.write_bytes(signed.to_bytes())


def add_stamp(home: Path, size: int, time_s: int, number: int | None = None) -> None:
    """Adds the part of an authority's reply that has its time."""
    name = f"{size:020d}.tsr" if number is None else f"{size:020d}.{number}.tsr"
    moment = datetime.fromtimestamp(time_s, UTC).strftime("%Y%m%d%H%M%SZ")
    (home / "evidence" / name).write_bytes(b"\x30\x13\x02\x01\x01\x18\x0f" + moment.encode())


def set_written(home: Path, size: int, time_s: float) -> None:
    """Lets a checkpoint be written at a given time."""
    os.utime(checkpoint_path(home, size), (time_s, time_s))
