"""The report of a run: a table, and the same as JSON.

Invariant: table and JSON are made from the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tools.benchmarks.peer_table import PeerResult
from tools.benchmarks.runner import FDATASYNC_MIN_MS, Result, Rounds

HEADINGS = (
    "name",
    "ours",
    "peer",
    "ratio",
    "half within",
    "mark at",
    "goal",
    "reached",
    "what, against",
)
ABOUT_THE_RATIO = (
    "ours and peer are medians; the ratio is the median of the rounds' own ratios, half of which "
    "lie within the next column"
)
LEFT = frozenset({0, 7, 8})  # text columns; the others hold numbers and are aligned to the right
PEER_HEADINGS = (
    "name",
    *("ours, 1", "peer, 1", "ratio", "half within"),
    *("ours, 64", "peer, 64", "ratio", "half within"),
    "call of the peer",
)
LEFT_OF_PEERS = frozenset({0, 9})


def table(results: Sequence[Result], versions: dict[str, str]) -> str:
    """The table, the notes on single targets, and the versions."""
    lines = _lines((HEADINGS, *map(_row, results)), left=LEFT)
    notes = (
        (result.target.id, result.rounds.note if result.rounds else result.why)
        for result in results
    )
    lines.extend(f"{name}: {text}" for name, text in notes if text)
    lines.extend(("", ABOUT_THE_RATIO, _about_the_disk(_fdatasync_ms(results))))
    lines.append(_versions(versions))
    return "\n".join(lines)


def peers_table(results: Sequence[PeerResult], versions: dict[str, str]) -> str:
    """The table of `--peers`, the reasons for what is missing, and the versions."""
    lines = _lines((PEER_HEADINGS, *map(_peer_row, results)), left=LEFT_OF_PEERS)
    lines.extend(f"{result.peer.id}: {result.why}" for result in results if result.why)
    lines.extend(("", f"1: one thread; 64: 64 producers. {ABOUT_THE_RATIO}"))
    lines.extend((_about_the_disk(_fdatasync_ms(results)), _versions(versions)))
    return "\n".join(lines)


def as_json(
    results: Sequence[Result], versions: dict[str, str], *, quick: bool
) -> dict[str, object]:
    """The same as plain values; `marks` in the order of the table."""
    return {
        "quick": quick,
        "fdatasync_ms": _fdatasync_ms(results),
        "fdatasync_min_ms": FDATASYNC_MIN_MS,
        "versions": versions,
        "marks": [_target(result) for result in results],
    }


def peers_as_json(
    results: Sequence[PeerResult], versions: dict[str, str], *, quick: bool
) -> dict[str, object]:
    """The same as plain values; `peers` in the order of the table."""
    return {
        "quick": quick,
        "fdatasync_ms": _fdatasync_ms(results),
        "fdatasync_min_ms": FDATASYNC_MIN_MS,
        "versions": versions,
        "peers": [_peer(result) for result in results],
    }


def _peer(result: PeerResult) -> dict[str, object]:
    return {
        "name": result.peer.id,
        "what": result.peer.what,
        "one_thread": _compared(result.one),
        "producers": _compared(result.many),
        "why": result.why,
        "took_s": round(result.took_s, 1),
    }


def _compared(rounds: Rounds | None) -> dict[str, object] | None:
    if rounds is None:
        return None
    return {
        "ours": median(rounds.ours),
        "peer": median(rounds.peer),
        "ratio": rounds.ratio,
        "ratio_half": rounds.ratio_half,
        "rounds": {"ours": rounds.ours, "peer": rounds.peer},
    }


def _target(result: Result) -> dict[str, object]:
    target, rounds = result.target, result.rounds
    return {
        "name": target.id,
        "what": target.what,
        "against": target.peer,
        "unit": target.unit,
        "ours": result.ours,
        "peer": result.peer,
        "ratio": result.ratio,
        "ratio_half": rounds.ratio_half if rounds else None,
        "mark": target.mark,
        "goal": target.goal,
        "better": target.better,
        "of": target.of,
        "reached": result.verdict,
        "informative": result.informative,
        "fdatasync_ms": round(result.fdatasync_ms, 4),
        "rounds": {"ours": rounds.ours, "peer": rounds.peer} if rounds else None,
        "note": rounds.note if rounds else "",
        "why": result.why,
        "took_s": round(result.took_s, 1),
    }


def _fdatasync_ms(results: Sequence[Result | PeerResult]) -> float:
    return round(min(result.fdatasync_ms for result in results), 4)


def _row(result: Result) -> tuple[str, ...]:
    target = result.target
    unit = f" {target.unit}" if target.of == "ours" else ""
    reached = result.verdict
    return (
        target.id,
        _figure(result.ours, target.unit),
        _figure(result.peer, target.unit),
        *_ratio_cells(result.rounds),
        f"{target.mark:g}{unit}",
        f"{target.goal:g}{unit}",
        f"({reached}) informative" if result.informative else reached,
        f"{target.what}, against {target.peer}",
    )


def _peer_row(result: PeerResult) -> tuple[str, ...]:
    cells: list[str] = []
    for rounds in (result.one, result.many):
        sides = (rounds.ours, rounds.peer) if rounds else (None, None)
        cells += (_figure(median(side) if side else None, "/s") for side in sides)
        cells += _ratio_cells(rounds)
    return (result.peer.id, *cells, result.peer.what)


def _ratio_cells(rounds: Rounds | None) -> tuple[str, str]:
    """The ratio of the two sides, and what half of the rounds lie within."""
    if rounds is None or rounds.ratio is None or rounds.ratio_half is None:
        return "-", "-"
    low, high = rounds.ratio_half
    return f"{rounds.ratio:.2f}", f"{low:.2f}-{high:.2f}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} /s" if unit == "/s" else f"{value:,.3g} {unit}"


def _lines(rows: Sequence[Sequence[str]], *, left: frozenset[int]) -> list[str]:
    """The rows as aligned lines; the first row is the heading, the columns `left` are text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, left) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _line(row: Sequence[str], widths: Sequence[int], left: frozenset[int]) -> str:
    cells = [
        text.ljust(width) if column in left else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def _about_the_disk(fdatasync_ms: float) -> str:
    fdatasync = f"a bare fdatasync takes {fdatasync_ms:.3f} ms here"
    if fdatasync_ms < FDATASYNC_MIN_MS:
        return (
            f"{fdatasync}: targets about appends hold where it is {FDATASYNC_MIN_MS} ms or more, "
            "so theirs are informative only"
        )
    return f"{fdatasync}: targets about appends hold"
