"""Directories beside `logs/` that belong to a backup, because no log gives them back.

Such a directory is flat. Its files only grow: none is changed in place, and none is removed.

Invariant: this table is the only place that names them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from eventlog.storage.atomic import is_temporary_name


class KeptDir(NamedTuple):
    """A directory that a backup keeps."""

    name: str
    never_copied: frozenset[str]  # files that stay on their machine
    restored_mark: str  # one of these, which `restore` makes
    derived_suffixes: tuple[str, ...]  # of files that are made again from others
    secret: bytes  # a file with these bytes stays on its machine too, under whatever name

    def is_copied(self, name: str) -> bool:
        """Whether a backup copies the file of that name."""
        return self.may_list(name) and not name.endswith(self.derived_suffixes)

    def may_list(self, name: str) -> bool:
        """Whether a backup may have a file of that name."""
        return name not in self.never_copied and not is_temporary_name(name)


KEPT_DIRS: Mapping[str, KeptDir] = {
    kept_dir.name: kept_dir
    for kept_dir in (
        # What an operator has signed. The key that signs is kept elsewhere by its owner.
        # Whoever edits or replaces it may leave a copy: `key~`, `key.old`.
        KeptDir(
            "evidence",
            frozenset({"key", "restored", "resumed"}),
            "restored",
            (".peaks",),
            b"PRIVATE+KEY+",
        ),
    )
}
