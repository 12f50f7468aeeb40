"""Sources of Alpine's API key: a file that may change, or a fixed value.

Invariant: no repr, error or log line shows a key.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from projections.errors import ProjectionError

KEY_BYTES_MAX = 1024  # the limit of the reference backend; a larger file is no key


class KeyUnavailable(ProjectionError):
    """There is no usable key."""


class KeySource(Protocol):
    """Reads the key, and detects a change."""

    def read(self) -> bytes:
        """The current key. Raises KeyUnavailable."""

    def has_changed(self) -> bool:
        """Whether the key may differ from the last one that `read` returned."""


class FixedKey:
    """A key from the environment variable `name`."""

    def __init__(self, key: str, name: str = "ALPINE_API_KEY") -> None:
        # Bytes that are not UTF-8 arrive as lone surrogates, and are sent as they were.
        self._key = key.encode("utf-8", "surrogateescape").strip()
        self._name = name

    def __repr__(self) -> str:
        return f"FixedKey(***, {self._name!r})"

    def read(self) -> bytes:
        return _validated(self._key, self._name)

    def has_changed(self) -> bool:
        return False


class FileKey:
    """A key in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._where = f"ALPINE_API_KEY_FILE {path}"
        self._stamp: object = ()
        self._key = b""
        self._problem = ""  # why it could not be read

    def __repr__(self) -> str:
        return f"FileKey({str(self.path)!r})"

    def read(self) -> bytes:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp  # taken before reading: a change meanwhile is noticed next time
            self._key, self._problem = b"", ""
            try:
                self._key = _read_key_file(self.path)
            except OSError as error:
                self._problem = f"the key file cannot be read: {error.strerror}"
        if self._problem:
            raise KeyUnavailable(self._problem, where=self._where)
        return _validated(self._key, self._where)

    def has_changed(self) -> bool:
        if self._read_stamp() == self._stamp:
            return False
        try:  # touching the file, or writing the same key again, must not cost a request
            return _read_key_file(self.path) != self._key or bool(self._problem)
        except OSError:
            return not self._problem

    def _read_stamp(self) -> object:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _read_key_file(path: Path) -> bytes:
    # O_NONBLOCK: opening a named pipe must not hang the daemon.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(KEY_BYTES_MAX + 2).strip()


def _validated(key: bytes, where: str) -> bytes:
    """Checks a key here, since a library's error about an invalid header would show it."""
    if not key:
        raise KeyUnavailable("there is no API key", where=where)
    if len(key) > KEY_BYTES_MAX:
        raise KeyUnavailable(f"the API key has more than {KEY_BYTES_MAX} bytes", where=where)
    if any(byte < 0x20 or byte == 0x7F for byte in key):
        raise KeyUnavailable(
            "the API key contains control characters, which no header can carry", where=where
        )
    return key
