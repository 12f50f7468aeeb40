"""The page that checks a proof in a browser, without a network.

Invariant: its security policy allows its own script and style, and nothing else.
"""

from importlib.resources import files

NAME = "verify.html"


def page_bytes() -> bytes:
    """The page."""
    return (files("projections.evidence.handover") / NAME).read_bytes()
