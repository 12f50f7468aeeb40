"""The directory `evidence/` of a home: the key, its vkey, and the signed checkpoints.

    key                     the secret of the log, mode 0600
    vkey                    the public key
    <size>.checkpoint       one for each signed size, with 20 digits
    <size>.peaks            of the newest one: the roots that its root is calculated from
    lost                    leaf hashes of lost lines, see lost_leaves
    <size>[.<n>].tsr        time stamps of that checkpoint: replies of authorities (RFC 3161)
    restored                this home comes from a backup, and signs nothing yet
    resumed                 the line up to which this home was examined, and the key that may sign

It is not derived from the log: what was signed cannot be made again. A backup keeps it without the
key and the last two.

Invariant: a checkpoint is durable before it is printed, and none is ever removed or changed; it
may gain signatures behind its own.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from eventlog.plumbing import Directory, Disk, make_private_dir, require_home
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import STAMP_BYTES_MAX
from projections.evidence.formats.encoding import decode_hash, decode_number, encode_base64
from projections.evidence.formats.keys import LOG, SigningKey, VerifierKey, new_key, parse_vkey
from projections.evidence.formats.merkle import RunningRoot
from projections.evidence.formats.note import NOTE_BYTES_MAX
from projections.evidence.kept.kept_listing import (
    CHECKPOINT,
    DIRECTORY_NAME,
    KEY_NAME,
    RESTORED_NAME,
    STAMP,
    VKEY_NAME,
)
from projections.evidence.kept.key_files import KEY_BYTES_MAX, read_key_in

RESUMED_NAME = "resumed"
RESUMED_BYTES_MAX = 2048  # a seq, a chain and a vkey
PEAKS_BYTES_MAX = 4096  # 63 hashes of 45 characters

_PEAKS = re.compile(r"([0-9]{20})\.peaks", re.ASCII)


class Examined(NamedTuple):
    """The line up to which the log contains all that a key has signed, and that key.

    A key that was made here has signed nothing before; `resume` has examined any other.
    """

    seq: int
    chain: str
    vkey: str


class KeptFiles:
    """The open directory. A caller that writes holds the lock of evidence."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @property
    def path(self) -> str:
        """For messages."""
        return self._directory.path

    def create_key(self, origin: str, seq: int, chain: str) -> VerifierKey:
        """Makes the key of this log, which ends with that line, and allows it to sign.

        A new key has signed nothing, so it may sign a restored log too. Raises ProjectionError
        where there is a key.
        """
        taken = {KEY_NAME, VKEY_NAME} & set(self._directory.names())
        if KEY_NAME in taken and VKEY_NAME not in taken:
            key = self._stored_key()
            examined = self.examined()  # by a run that died, or the key was brought here
            if examined is None or examined.vkey != key.verifier.to_text() or key.name != origin:
                raise self._key_exists_error()
        elif taken:
            raise self._key_exists_error()
        else:
            key = new_key(origin)
            self._write_examined(Examined(seq, chain, key.verifier.to_text()))
            self._directory.replace(KEY_NAME, f"{key.to_secret()}\n".encode())
        self._directory.replace(VKEY_NAME, f"{key.verifier.to_text()}\n".encode())
        self._remove_mark()
        return key.verifier

    def read_key(self) -> SigningKey:
        """The key of this log, which `vkey` verifies.

        Raises UnsafePath where another account can use it, ProjectionError.
        """
        key = self._stored_key()
        try:
            is_own = key.verifier == self.read_vkey()
        except NotProved as error:
            raise ProjectionError(
                f"the vkey cannot be used: {error.what}",
                where=f"{self.path}/{VKEY_NAME}",
                do="put it back from a backup; nothing was signed",
            ) from None
        if not is_own:
            raise ProjectionError(
                "the key is not that of this log, which `vkey` names",
                where=f"{self.path}/{KEY_NAME}",
                do="put back the key that `vkey` verifies; nothing was signed",
            )
        return key

    def _stored_key(self) -> SigningKey:
        try:
            key = read_key_in(self._directory, KEY_NAME)
            if key.kind != LOG:
                raise NotProved("it is the key of a witness")
        except NotProved as error:
            raise ProjectionError(
                f"the key cannot be used: {error.what}",
                where=f"{self.path}/{KEY_NAME}",
                do="put back the key of this log from the copy that you keep; nothing was signed",
            ) from None
        except FileNotFoundError:
            raise ProjectionError(
                "there is no key to sign with",
                where=f"{self.path}/{KEY_NAME}",
                do="run `eventlog evidence key ORIGIN`; if checkpoints of this log were signed,"
                " bring its key here with `eventlog evidence resume`",
            ) from None
        return key

    def read_vkey(self) -> VerifierKey:
        """The public key of this log."""
        try:
            text = self._directory.read(VKEY_NAME, KEY_BYTES_MAX).decode("utf-8", "replace")
        except FileNotFoundError:
            raise ProjectionError(
                "there is no vkey",
                where=f"{self.path}/{VKEY_NAME}",
                do="run `eventlog evidence key ORIGIN`",
            ) from None
        return parse_vkey(text.removesuffix("\n"))

    def is_restored(self) -> bool:
        """Whether this home comes from a backup and may sign nothing yet."""
        return RESTORED_NAME in self._directory.names()

    def examined(self) -> Examined | None:
        """What this home was examined for; None where it was not, or that cannot be read."""
        try:
            data = self._directory.read(RESUMED_NAME, RESUMED_BYTES_MAX)
            seq, chain, vkey, rest = data.decode().split("\n")
            return None if rest else Examined(decode_number(seq, what="the seq"), chain, vkey)
        except (FileNotFoundError, ValueError, NotProved):  # also no UTF-8
            return None

    def resume(self, key: SigningKey, seq: int, chain: str) -> None:
        """Allows this key to sign, durably: the log was examined up to the line of that seq.

        The mark is removed last, so a run that dies before is repeated. Raises ProjectionError
        where another key is here.
        """
        names = self._directory.names()
        if KEY_NAME in names and self._stored_key() != key:
            raise ProjectionError(
                "another key is here already, and no key is ever replaced",
                where=f"{self.path}/{KEY_NAME}",
                do="move that file away, and run this again",
            )
        self._write_examined(Examined(seq, chain, key.verifier.to_text()))
        if VKEY_NAME not in names:
            self._directory.replace(VKEY_NAME, f"{key.verifier.to_text()}\n".encode())
        if KEY_NAME not in names:
            self._directory.replace(KEY_NAME, f"{key.to_secret()}\n".encode())
        self._remove_mark()

    def has_vkey(self) -> bool:
        """Whether it is known here which key verifies this log."""
        return VKEY_NAME in self._directory.names()

    def _write_examined(self, examined: Examined) -> None:
        lines = "".join(f"{value}\n" for value in examined)
        self._directory.replace(RESUMED_NAME, lines.encode())

    def _remove_mark(self) -> None:
        with suppress(FileNotFoundError):
            self._directory.unlink(RESTORED_NAME)
        self._directory.sync()

    def sizes(self) -> list[int]:
        """The signed sizes, ascending."""
        found = map(CHECKPOINT.fullmatch, self._directory.names())
        return sorted(int(match[1]) for match in found if match)

    def checkpoint_path(self, size: int) -> str:
        """The path of a signed checkpoint."""
        return f"{self.path}/{_checkpoint_name(size)}"

    def read_checkpoint(self, size: int) -> bytes:
        """A signed checkpoint."""
        return self._directory.read(_checkpoint_name(size), NOTE_BYTES_MAX)

    def write_checkpoint(self, size: int, data: bytes, peaks: tuple[bytes, ...]) -> None:
        """Keeps a new checkpoint, durably, and the peaks that the next one begins with."""
        lines = "".join(f"{encode_base64(peak)}\n" for peak in peaks)
        self._directory.replace(_peaks_name(size), lines.encode())
        self._directory.replace(_checkpoint_name(size), data)
        for name in self._directory.names():
            if _PEAKS.fullmatch(name) and name != _peaks_name(size):
                self._directory.unlink(name)

    def replace_checkpoint(self, size: int, data: bytes) -> None:
        """Replaces a checkpoint by itself with further signatures, durably.

        Its file keeps its time, which is that of signing.
        """
        name = _checkpoint_name(size)
        written_ns = self._directory.stat(name).st_mtime_ns
        self._directory.replace(name, data)
        os.utime(name, ns=(written_ns, written_ns), dir_fd=self._directory.fd)

    def stamps(self, size: int) -> list[str]:
        """The names of the time stamps of a checkpoint, in the order in which they were kept."""
        own = (name for name in self._directory.names() if name.startswith(f"{size:020d}."))
        return sorted((name for name in own if STAMP.fullmatch(name)), key=_stamp_number)

    def stamp_path(self, name: str) -> str:
        """The path of a time stamp."""
        return f"{self.path}/{name}"

    def read_stamp(self, name: str) -> bytes:
        """A time stamp: the reply of an authority."""
        return self._directory.read(name, STAMP_BYTES_MAX)

    def write_stamp(self, size: int, reply: bytes) -> str:
        """Keeps one more time stamp of a checkpoint, durably; returns its name."""
        names = self.stamps(size)
        number = _stamp_number(names[-1]) + 1 if names else 0  # one may have been taken away
        name = f"{size:020d}.{number}.tsr" if number else f"{size:020d}.tsr"
        self._directory.replace(name, reply)
        return name

    def read_peaks(self, size: int, root: bytes) -> RunningRoot | None:
        """A calculation that continues at `size`; None where the peaks do not give that root."""
        try:
            text = self._directory.read(_peaks_name(size), PEAKS_BYTES_MAX).decode("ascii")
            peaks = [decode_hash(line, what="a peak") for line in text.splitlines()]
            running = RunningRoot(size, peaks)
        except (FileNotFoundError, UnicodeDecodeError, NotProved, ValueError):
            return None
        return running if running.root() == root else None

    def _key_exists_error(self) -> ProjectionError:
        return ProjectionError(
            "this log has a key already",
            where=self.path,
            do="use it: another key cannot continue its checkpoints; where it was brought here,"
            " run `eventlog evidence resume`",
        )


def _checkpoint_name(size: int) -> str:
    return f"{size:020d}.checkpoint"


def _peaks_name(size: int) -> str:
    return f"{size:020d}.peaks"


def _stamp_number(name: str) -> int:
    found = STAMP.fullmatch(name)
    return int(found[2]) if found and found[2] else 0


@contextmanager
def kept_files(
    home: Path, *, create: bool = False, disk: Disk | None = None
) -> Iterator[KeptFiles]:
    """The directory `evidence/` of a home that has a log. Raises ProjectionError without one."""
    require_home(home)
    path = home / DIRECTORY_NAME
    if create:
        with suppress(FileExistsError):
            make_private_dir(path)
    try:
        directory = Directory.open(path, disk=disk)
    except FileNotFoundError:
        raise ProjectionError(
            "this log has no key, and nothing of it was signed",
            where=str(path),
            do="run `eventlog evidence key ORIGIN`",
        ) from None
    with directory:
        yield KeptFiles(directory)
