"""The error that a user of this backend sees: it cannot start.

Invariant: its text states what is wrong and what to do, without a key or a database URL.
"""


class CannotStart(Exception):
    """`what` is wrong, and what to `do` about it."""

    def __init__(self, what: str, *, do: str) -> None:
        super().__init__(what, do)
        self.what = what
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}; {self.do}"
