"""The states that a power loss may leave on a simulated disk, in two models.

*Ordered*: changes reach the device in the order in which they were made, and the last one may be
cut. *Adversarial*: lengths and names reach it in any combination, and sectors in any order; a new
sector that did not reach the device holds zeros or garbage.

Invariant: synced bytes and names are in every state, unchanged.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice, product
from random import Random

from tools.crash.inodes import (
    ROOT,
    SECTOR_BYTES,
    Change,
    File,
    Folder,
    Inode,
    Inodes,
    Resize,
    Write,
    applied,
    renamed,
)

ORDERED = "ordered"
ADVERSARIAL = "adversarial"
BOTH = (ORDERED, ADVERSARIAL)
GARBAGE = b"\xa5"
SUBSET_CHANGES_MAX = 6  # of one directory: 2^6 combinations of its last changes
FILES_STATES_MAX = 20_000  # of one step, before they are combined with names

State = Inodes  # with nothing pending


def cuts(write: Write) -> list[int]:
    """The lengths at which a write may have stopped: ends, quarters, lines, sectors."""
    offset, data = write
    found = {0, 1, len(data) // 4, len(data) // 2, len(data) - 1, len(data)}
    newline = data.find(b"\n")
    while newline >= 0:
        found |= {newline, newline + 1, newline + 2}
        newline = data.find(b"\n", newline + 1)
    found |= set(range(-offset % SECTOR_BYTES, len(data), SECTOR_BYTES))
    return sorted(cut for cut in found if 0 <= cut <= len(data))


def ordered_contents(file: File) -> Iterator[bytes]:
    """Every prefix of the pending changes, the last of them cut."""
    data = file.device
    yield data
    for change in file.pending:
        if isinstance(change, Write):
            for cut in cuts(change)[1:-1]:
                yield applied(data, Write(change.offset, change.data[:cut]))
        data = applied(data, change)
        yield data


def adversarial_contents(file: File) -> Iterator[bytes]:
    """Full length with one or two sectors missing, or all of them."""
    full = _full(file)
    sectors = sorted(_sectors(file.pending, len(full)))
    for fill in (b"\0", GARBAGE):
        for count in (1, 2):
            for missing in combinations(sectors, count):
                yield without_sectors(file, full, dict.fromkeys(missing, fill))
        if len(sectors) > 2:
            yield without_sectors(file, full, dict.fromkeys(sectors, fill))


def without_sectors(file: File, full: bytes, missing: dict[int, bytes]) -> bytes:
    """`full`, but some sectors hold the bytes of the device, or a fill beyond its end."""
    device = file.device
    for sector, fill in missing.items():
        start, end = sector * SECTOR_BYTES, min((sector + 1) * SECTOR_BYTES, len(full))
        old = device[start:end]
        full = b"%b%b%b" % (full[:start], old + fill * (end - start - len(old)), full[end:])
    return full


def _full(file: File) -> bytes:
    data = file.device
    for change in file.pending:
        data = applied(data, change)
    return data


def _sectors(changes: Iterable[Change], length: int) -> set[int]:
    """The sectors of a file of `length` bytes that the changes write."""
    found: set[int] = set()
    for change in changes:
        if isinstance(change, Write):
            end = min(change.offset + len(change.data), length)
            found |= set(range(change.offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)))
    return found


def folder_contents(folder: Folder, model: str) -> Iterator[dict[str, int]]:
    """Every prefix of the pending changes; adversarial: every subset of the last ones."""
    names = folder.device
    if model == ORDERED:
        yield names
        for change in folder.pending:
            names = renamed(names, change)
            yield names
        return
    for change in folder.pending[:-SUBSET_CHANGES_MAX]:
        names = renamed(names, change)
    last = folder.pending[-SUBSET_CHANGES_MAX:]
    for chosen in product((False, True), repeat=len(last)):
        subset = names
        for change, is_there in zip(last, chosen, strict=True):
            if is_there:
                subset = renamed(subset, change)
        yield subset


def power_losses(inodes: Inodes, models: Iterable[str] = BOTH) -> Iterator[State]:
    """Every state that the models allow, some of them more than once."""
    lock_records, inodes = _without_lock_record(inodes)
    for model in models:
        files: list[list[tuple[int, Inode]]] = []
        folders: list[list[tuple[int, Inode]]] = []
        for ino, inode in inodes.items():
            if isinstance(inode, File):
                contents = ordered_contents if model == ORDERED else adversarial_contents
                kept = dict.fromkeys(contents(inode)) if inode.pending else [inode.device]
                files.append([(ino, File(data, data)) for data in kept or [_full(inode)]])
            elif isinstance(inode, Folder):
                found = folder_contents(inode, model) if inode.pending else [inode.device]
                folders.append([(ino, Folder(names, names)) for names in found])
            else:
                folders.append([(ino, inode)])
        number = 0
        for some in islice(product(*files), FILES_STATES_MAX):
            for others in product(*folders):
                # A new boot ignores the lock record, so its versions take turns.
                lock_record = lock_records[number % len(lock_records)]
                yield dict((*some, *others, *lock_record))
                number += 1


def nothing(inodes: Inodes) -> State:
    """The state in which no pending change reached the device."""
    return {ino: _settled(inode, is_pending_there=False) for ino, inode in inodes.items()}


def everything(inodes: Inodes) -> State:
    """The state in which all pending changes reached the device."""
    return {ino: _settled(inode, is_pending_there=True) for ino, inode in inodes.items()}


def _settled(inode: Inode, *, is_pending_there: bool) -> Inode:
    if isinstance(inode, File):
        data = _full(inode) if is_pending_there else inode.device
        return File(data, data)
    if isinstance(inode, Folder):
        names = inode.names if is_pending_there else inode.device
        return Folder(names, names)
    return inode


def _without_lock_record(inodes: Inodes) -> tuple[list[tuple[tuple[int, Inode], ...]], Inodes]:
    """The versions of the lock file, which is never synced, and all other inodes."""
    ino = inode_named(".lock", inodes)
    file = inodes.get(ino)
    if not isinstance(file, File):
        return [()], inodes
    versions = _lock_record_versions(file)
    rest = {other: inode for other, inode in inodes.items() if other != ino}
    return [((ino, File(data, data)),) for data in versions], rest


def _lock_record_versions(file: File) -> Iterable[bytes]:
    """Each whole version of the lock record, and the last one cut in half."""
    data = file.device
    versions = [data]
    for change in file.pending:
        data = applied(data, change)
        versions.append(data)
    return dict.fromkeys((*versions, data[: len(data) // 2]))


def inode_named(name: str, inodes: Inodes) -> int:
    """The inode number of the file with that name, such as `.lock`; 0 if there is none."""
    for inode in inodes.values():
        if isinstance(inode, Folder) and name in inode.names:
            return inode.names[name]
    return 0


def random_content(file: File, random: Random, models: Iterable[str] = BOTH) -> bytes:
    """A random content that a power loss or a failed sync may leave, beyond those listed above."""
    if not file.pending:
        return file.device
    kind = random.random()
    if kind < 0.15:
        return file.device
    if kind < 0.3:
        return _full(file)
    if kind < 0.6 or ADVERSARIAL not in models:
        return random.choice(list(ordered_contents(file)))
    changes = file.pending[: random.randint(1, len(file.pending))]
    length = len(_full(file._replace(pending=changes)))
    if random.random() < 0.3:
        length = random.randint(min(length, len(file.device)), length)
    full = applied(_full(file._replace(pending=changes)), Resize(length))
    lost_share = random.choice((0.1, 0.3, 0.7))
    missing = {
        sector: random.choice((b"\0", GARBAGE))
        for sector in sorted(_sectors(changes, length))
        if random.random() < lost_share
    }
    return without_sectors(file, full, missing)


def random_power_loss(inodes: Inodes, random: Random, models: Sequence[str] = BOTH) -> State:
    """One state that the models allow."""
    state: State = {}
    lock_ino = inode_named(".lock", inodes)
    for ino, inode in inodes.items():
        if isinstance(inode, File):
            if ino == lock_ino:
                data = random.choice(list(_lock_record_versions(inode)))
            else:
                data = random_content(inode, random, models)
            state[ino] = File(data, data)
        elif isinstance(inode, Folder):
            contents = [inode.device]
            if inode.pending:
                contents = list(folder_contents(inode, random.choice(models)))
            names = random.choice(contents)
            state[ino] = Folder(names, names)
        else:
            state[ino] = inode
    return state


def files_of(inodes: Inodes) -> Iterator[tuple[str, Inode]]:
    """Paths and inodes of everything that has a name for processes, in order."""
    todo = [("", ROOT)]
    while todo:
        path, ino = todo.pop()
        inode = inodes[ino]
        if isinstance(inode, Folder):
            names = sorted(inode.names.items(), reverse=True)
            todo += [(f"{path}/{name}", child) for name, child in names]
            yield path + "/", inode
        else:
            yield path, inode


def segments_of(inodes: Inodes) -> tuple[tuple[str, bytes], ...]:
    """Path and content of each segment, as processes read them, in order."""
    return tuple(
        (path, inode.cache)
        for path, inode in files_of(inodes)
        if isinstance(inode, File) and path.endswith(".jsonl")
    )


def digest(state: State) -> int:
    """A hash of everything that a process would find in a state."""
    found: list[tuple[str, bytes | str]] = []
    for path, inode in files_of(state):
        if isinstance(inode, File):
            found.append((path, inode.device))
        else:
            found.append((path, "" if isinstance(inode, Folder) else inode.target))
    return hash(tuple(found))
