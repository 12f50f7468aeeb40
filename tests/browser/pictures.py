"""Makes the pictures of docs/console.md from those that a run of these tests left.

    tools/test tests/browser
    .venv/bin/python -m tests.browser.pictures

Invariant: a picture is small: the top of a page, with at most 128 colours.
"""

from pathlib import Path

from PIL import Image

from tests.browser.driver import PHONE, SHOTS, WIDE
from tests.harness.requirements import CHECKOUT

FOLDER = CHECKOUT / "docs/console"
COLOURS = 128  # text stays sharp, and a picture of a page takes some 60 kB
PICTURES = {  # name in docs/console: that of the run
    "overview": "overview-live-1360-light",
    "signals": "signals-1360-dark",
    "signal": "signal-1360-light",
    "outcomes": "outcomes-1360-dark",
    "delivery": "discard-1360-dark",
    "phone": "outcomes-390-light",
}


def shrink(source: Path, target: Path) -> None:
    """Writes the part of a picture that a window shows at first."""
    with Image.open(source) as found:
        window = PHONE if found.width == PHONE["width"] else WIDE
        height = min(found.height, window["height"])
        top = found.convert("RGB").crop((0, 0, found.width, height))
    top.quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    """Writes all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, shot in PICTURES.items():
        shrink(SHOTS / f"{shot}.png", FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
