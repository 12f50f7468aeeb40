"""The tables of docs/schema.md, made from the tables of rules in eventlog.schema.

    .venv/bin/python -m tools.schema_tables

replaces them in the page. A table is found by its heading row.

Invariant: text between the tables stays as it is.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventlog.schema.facts import FACTS
from eventlog.schema.fields import RULE_TEXTS, FieldRule
from eventlog.schema.signal import ALIASES, DEFAULTS, FIELD_RULES, REQUIRED_FIELDS

PAGE = Path(__file__).parents[1] / "docs/schema.md"


def signal_table() -> str:
    """One row per field of a signal."""
    rows: list[Sequence[str]] = []
    for field, rule in FIELD_RULES.items():
        parts = [RULE_TEXTS[rule].words]
        parts += [f"alias `{alias}`" for alias, name in ALIASES.items() if name == field]
        parts += [f"default: {DEFAULTS[field]}"] if field in DEFAULTS else []
        required = "yes" if field in REQUIRED_FIELDS else "no"
        rows.append((f"`{field}`", required, "; ".join(parts)))
    rows.append(("`sha256`", "no", "computed; if it is given, it is checked"))
    rows.append(("any other key", "no", "kept; must be JSON"))
    return _table(("field", "required", "rule"), rows)


def fact_table() -> str:
    """One row per fact."""
    rows = []
    for event, fact in FACTS.items():
        required, optional = (
            ", ".join(f"`{key}`" for key, rule in fact.keys.items() if rule.required is wanted)
            for wanted in (True, False)
        )
        changes = ", ".join(f"`{column}`" for column in fact.changes) or "none"
        rows.append((f"`{event}`", required, optional, fact.meaning, changes))
    return _table(
        ("event", "required keys", "optional keys", "meaning", "changes in `signals`"), rows
    )


def fact_key_table() -> str:
    """One row per rule of the keys of facts."""
    keys: dict[FieldRule, dict[str, None]] = {}  # the keys of each rule, in order
    for fact in FACTS.values():
        for key, (rule, _) in fact.keys.items():
            keys.setdefault(rule, {})[key] = None
    rows = [
        (", ".join(f"`{key}`" for key in names), RULE_TEXTS[rule].words)
        for rule, names in keys.items()
    ]
    return _table(("key", "rule"), [*rows, ("any other key", "kept; must be JSON")])


def with_tables(page: str) -> str:
    """The page with each of its tables replaced. Raises ValueError where one is not there once."""
    for table in (signal_table(), fact_table(), fact_key_table()):
        heading = table.partition("\n")[0]
        pattern = re.compile(rf"^{re.escape(heading)}\n(\|.*\n)+", re.MULTILINE)
        before, *after = pattern.split(page)[::2]
        if len(after) != 1:
            raise ValueError(f"the page has {len(after)} tables with the heading {heading}")
        page = before + table + after[0]
    return page


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(_lines([heading, ["---"] * len(heading), *rows]))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield "| " + " | ".join(row).replace("|  |", "| |") + " |\n"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
    sys.exit(0)
