"""Copies of the directories beside `logs/` that a backup keeps.

    backup     copies what was there before the log was copied, so that this log covers it
    restore    makes the mark first, then the files; the log gets its name after that

Invariant: a good copy is never replaced by a file that does not begin with it.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256

from eventlog.archive.kept_dirs import KEPT_DIRS, KeptDir
from eventlog.archive.manifest import KeptCopy
from eventlog.errors import BackupUnusable, EventLogError
from eventlog.storage.atomic import is_temporary_name
from eventlog.storage.directory import Directory
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home, make_durable_dir

KEPT_BYTES_MAX = 64 << 20  # of a file, which is read whole: far more than any of them has

# The files of each directory at one moment, or what is wrong with it.
KeptNames = Mapping[str, Sequence[str] | EventLogError]


def kept_names(disk: Disk, home: Home) -> KeptNames:
    """The files that a backup of this home copies.

    What is wrong with a directory is returned in its place: the log is backed up all the same.
    """
    found: dict[str, Sequence[str] | EventLogError] = {}
    for kept_dir in KEPT_DIRS.values():
        try:
            with _open(disk, home, kept_dir) as directory:
                found[kept_dir.name] = sorted(filter(kept_dir.is_copied, directory.names()))
        except FileNotFoundError:
            continue
        except (EventLogError, OSError) as error:
            found[kept_dir.name] = _not_copied_error(f"{home.root}/{kept_dir.name}", error)
    return found


def copy_kept(
    disk: Disk, home: Home, backup: Directory, names: KeptNames, listed: Sequence[KeptCopy]
) -> tuple[tuple[KeptCopy, ...], EventLogError | None]:
    """Copies what is new into the backup, durably. Returns what it then has, and what is wrong.

    A file with which something is wrong keeps its copy, and does not keep others from being copied.
    Raises UnsafePath, OSError where the backup cannot be written to.
    """
    copies = {(found.directory, found.name): found for found in listed}
    problems: list[EventLogError] = []
    for kept_dir in KEPT_DIRS.values():
        known = {name for directory, name in copies if directory == kept_dir.name}
        there = names.get(kept_dir.name, ())
        if isinstance(there, EventLogError):
            problems.append(there)
            continue  # what was copied before stays
        wanted = sorted(known.union(there))
        if not wanted:
            continue
        with backup.subdirectory(kept_dir.name, create=True) as dest:
            for name in wanted:
                key = (kept_dir.name, name)
                try:
                    data = _read_source(disk, home, kept_dir, name)
                    found = _copy(dest, key, data, copies.get(key))
                except BackupUnusable as error:
                    problems.append(error)
                    continue
                if found is not None:
                    copies[key] = found
        backup.sync()
    return tuple(copies[key] for key in sorted(copies)), problems[0] if problems else None


def _copy(
    dest: Directory, key: tuple[str, str], data: bytes | None, listed: KeptCopy | None
) -> KeptCopy | None:
    """The copy of one file, which is made where it is missing, short or damaged.

    None where the file has gone since its name was seen.
    """
    if listed is not None:
        is_intact = _read_copy(dest, listed) is not None
        if data is None and is_intact:
            return listed
        if data is None or not _has_hash(data[: listed.bytes], listed):
            raise _differs_error(dest, listed, is_intact=is_intact)
        if is_intact and len(data) == listed.bytes:
            return listed
    if data is None:
        return None
    directory, name = key
    made = KeptCopy(
        directory=directory, name=name, bytes=len(data), sha256=sha256(data).hexdigest()
    )
    dest.replace(name, data)
    if _read_copy(dest, made) is None:
        raise BackupUnusable(
            "the copy reads back different from what was written",
            where=f"{dest.path}/{name}",
            do="check the destination disk and its connection",
        )
    return made


def restore_kept(disk: Disk, backup: Home, home: Home, copies: Sequence[KeptCopy]) -> None:
    """Makes the directories of a home that has no log yet, durably, each with its mark.

    Raises BackupUnusable where a copy is damaged, UnsafePath, OSError.
    """
    for kept_dir in KEPT_DIRS.values():
        files = [found for found in copies if found.directory == kept_dir.name]
        if not files:
            with suppress(FileNotFoundError), _open(disk, home, kept_dir) as directory:
                _clear(directory, set())
            continue
        make_durable_dir(disk, f"{home.root}/{kept_dir.name}")
        with (
            _open(disk, home, kept_dir) as directory,
            _open(disk, backup, kept_dir) as source,
        ):
            directory.replace(kept_dir.restored_mark, b"")
            _clear(directory, {kept_dir.restored_mark})
            for found in files:
                data = _read_copy(source, found)
                if data is None:
                    raise _damaged_error(source, found)
                directory.replace(found.name, data)


def _clear(directory: Directory, kept: Collection[str]) -> None:
    """Removes what an interrupted restore has left."""
    for name in directory.names():
        if name not in kept:
            directory.unlink(name)


def may_restore_over(disk: Disk, home: Home, name: str) -> bool:
    """Whether what has that name in a home without a log is what an interrupted restore left."""
    kept_dir = KEPT_DIRS.get(name)
    if kept_dir is None:
        return False
    with _open(disk, home, kept_dir) as directory:
        names = {name for name in directory.names() if not is_temporary_name(name)}
    has_own_files = bool(names & kept_dir.never_copied - {kept_dir.restored_mark})
    return not names or (kept_dir.restored_mark in names and not has_own_files)


def _open(disk: Disk, home: Home, kept_dir: KeptDir) -> Directory:
    return Directory.open(f"{home.root}/{kept_dir.name}", disk=disk)


def _read_source(disk: Disk, home: Home, kept_dir: KeptDir, name: str) -> bytes | None:
    """The bytes of a file; None where it has gone, or holds a secret. Raises BackupUnusable."""
    try:
        with _open(disk, home, kept_dir) as directory:
            data = directory.read(name, KEPT_BYTES_MAX)
    except FileNotFoundError:
        return None
    except (EventLogError, OSError) as error:
        raise _not_copied_error(f"{home.root}/{kept_dir.name}/{name}", error) from error
    return None if kept_dir.secret in data else data


def _read_copy(dest: Directory, listed: KeptCopy) -> bytes | None:
    """The bytes of a copy, from the device; None where they are not those that are listed."""
    try:
        with dest.opened(listed.name) as fd:
            dest.disk.drop_cache(fd)
            data = dest.disk.pread(fd, listed.bytes, 0)
    except FileNotFoundError:
        return None
    return data if _has_hash(data, listed) else None


def _has_hash(data: bytes, listed: KeptCopy) -> bool:
    return len(data) == listed.bytes and sha256(data).hexdigest() == listed.sha256


def _not_copied_error(where: str, error: EventLogError | OSError) -> BackupUnusable:
    what = error.what if isinstance(error, EventLogError) else error.strerror
    return BackupUnusable(
        f"this was not backed up: {what}",
        where=where,
        do="the log was backed up, and all else here: put a regular file or directory there that"
        " this account can read, or move it away",
    )


def _differs_error(dest: Directory, listed: KeptCopy, *, is_intact: bool) -> BackupUnusable:
    path = f"{listed.directory}/{listed.name}"
    if is_intact:
        return BackupUnusable(
            f"{path} of the home is not the file that was backed up: it does not begin with it",
            where=f"{dest.path}/{listed.name}",
            do="the log was backed up, and this copy stays: find out which of the two is right. If"
            " it is the copy, put it back into the home; else make a new backup in an empty"
            " directory",
        )
    return BackupUnusable(
        f"{path} is damaged in the backup, and the home does not have its bytes",
        where=f"{dest.path}/{listed.name}",
        do="the log was backed up: make a new backup in an empty directory",
    )


def _damaged_error(source: Directory, listed: KeptCopy) -> BackupUnusable:
    return BackupUnusable(
        f"{listed.directory}/{listed.name} is missing or damaged in the backup",
        where=f"{source.path}/{listed.name}",
        do="nothing was restored: use another backup; while the home has the file, `eventlog "
        "backup` makes that copy again",
    )
