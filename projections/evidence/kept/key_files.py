"""Files that hold one secret key, mode 0600, as one line of text.

Invariant: a key that another account can read is refused, and no key is ever replaced.
"""

import stat
from contextlib import suppress
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import Directory, refuse_in_home
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.keys import LOG, SigningKey, parse_secret

KEY_BYTES_MAX = 1024  # a name of 255 bytes, and a key


def read_key_in(directory: Directory, name: str) -> SigningKey:
    """The key in a file of an open directory. Raises FileNotFoundError, UnsafePath, NotProved."""
    found = directory.stat(name)
    text = directory.read(name, KEY_BYTES_MAX).decode("utf-8", "replace")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafePath(
            "another account can read the key",
            where=f"{directory.path}/{name}",
            do="run `chmod 600` on it; where one has read it, sign nothing more with it",
        )
    return parse_secret(text.removesuffix("\n"))


def read_key_file(path: Path, *, kind: int) -> SigningKey:
    """The key of that kind in a file. Raises ProjectionError, UnsafePath, OSError."""
    where = path.absolute()
    try:
        with Directory.open(where.parent, follow=True) as directory:
            key = read_key_in(directory, where.name)
        if key.kind != kind:
            raise NotProved(f"it is the key of {'a log' if key.kind == LOG else 'a witness'}")
    except FileNotFoundError:
        raise ProjectionError(
            "there is no key in that file", where=str(path), do="name the file that holds the key"
        ) from None
    except NotProved as error:
        raise ProjectionError(
            f"the key cannot be used: {error.what}", where=str(path), do="name another file"
        ) from None
    return key


def create_key_file(path: Path, key: SigningKey) -> None:
    """Writes a key into a new file, durably. Raises ProjectionError where there is one, OSError."""
    where = path.absolute()
    refuse_in_home(where.parent)
    with Directory.open(where.parent, follow=True) as directory:
        with suppress(FileNotFoundError):
            directory.stat(where.name)
            raise ProjectionError(
                "there is a file already", where=str(path), do="name a new file, or use that key"
            )
        directory.replace(where.name, f"{key.to_secret()}\n".encode())
