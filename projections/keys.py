"""Where Alpine's API key comes from: a file that may change, or a fixed value.

Invariant: no repr, error or log line shows a key.
"""

from pathlib import Path
from typing import Protocol

KEY_BYTES_MAX = 4096  # a larger file is no key


class KeySource(Protocol):
    """Gives the key, and says when it changed."""

    def read(self) -> bytes | None:
        """The key now; None where there is none."""

    def stamp(self) -> object:
        """Equal as long as the key has not changed."""


class FixedKey:
    """A key from the environment."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def __repr__(self) -> str:
        return "FixedKey(***)"

    def read(self) -> bytes | None:
        return self._key

    def stamp(self) -> object:
        return 0


class FileKey:
    """A key in a file of its own, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = ()
        self._key: bytes | None = None

    def __repr__(self) -> str:
        return f"FileKey({str(self._path)!r})"

    def read(self) -> bytes | None:
        stamp = self.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                with self._path.open("rb") as file:
                    self._key = file.read(KEY_BYTES_MAX).strip() or None
            except OSError:
                self._key = None
        return self._key

    def stamp(self) -> object:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_size)
