"""The report of a run: a table, and the same as JSON.

Invariant: table and JSON are made from the same results.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.benchmarks.runner import FDATASYNC_MIN_MS, Result

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


def table(results: Sequence[Result], versions: dict[str, str]) -> str:
    """The table, the notes on single targets, and the versions."""
    rows = [HEADINGS, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = (
        (result.target.id, result.rounds.note if result.rounds else result.why)
        for result in results
    )
    lines.extend(f"{name}: {text}" for name, text in notes if text)
    lines.extend(("", ABOUT_THE_RATIO, _about_the_disk(results)))
    lines.append(", ".join(f"{name} {value}" for name, value in versions.items()))
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
        "ratio_half": result.ratio_half,
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


def _fdatasync_ms(results: Sequence[Result]) -> float:
    return round(min(result.fdatasync_ms for result in results), 4)


def _row(result: Result) -> tuple[str, ...]:
    target = result.target
    unit = f" {target.unit}" if target.of == "ours" else ""
    span = result.ratio_half
    reached = result.verdict
    return (
        target.id,
        _figure(result.ours, target.unit),
        _figure(result.peer, target.unit),
        "-" if result.ratio is None else f"{result.ratio:.2f}",
        "-" if span is None else f"{span[0]:.2f}-{span[1]:.2f}",
        f"{target.mark:g}{unit}",
        f"{target.goal:g}{unit}",
        f"({reached}) informative" if result.informative else reached,
        f"{target.what}, against {target.peer}",
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} /s" if unit == "/s" else f"{value:,.3g} {unit}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if column in LEFT else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _about_the_disk(results: Sequence[Result]) -> str:
    fdatasync_ms = _fdatasync_ms(results)
    fdatasync = f"a bare fdatasync takes {fdatasync_ms:.3f} ms here"
    if fdatasync_ms < FDATASYNC_MIN_MS:
        return (
            f"{fdatasync}: targets about appends hold where it is {FDATASYNC_MIN_MS} ms or more, "
            "so theirs are informative only"
        )
    return f"{fdatasync}: targets about appends hold"
