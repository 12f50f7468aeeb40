"""The one error of this backend that a person sees: it could not start, or may not.

Invariant: it says what is wrong and what to do, and never holds a key or a database URL.
"""


class CannotStart(Exception):
    """`what` is wrong, and what to `do` about it."""

    def __init__(self, what: str, *, do: str) -> None:
        super().__init__(what, do)
        self.what = what
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}; {self.do}"
