"""The tables of docs/schema.md are those that the rules give."""

import pytest

from tools.schema_tables import PAGE, signal_table, with_tables


def test_the_page_has_the_tables_of_the_rules() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run .venv/bin/python -m tools.schema_tables"


def test_a_row_that_was_edited_by_hand_is_replaced() -> None:
    page = PAGE.read_text()
    row = signal_table().splitlines()[3]
    assert page.count(row) == 1
    assert with_tables(page.replace(row, "| `symbol` | no | anything |")) == page


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has 0 tables"):
        with_tables("# Rules\n")
