"""The command `evidence page`.

Invariant: it needs neither home nor network nor the extra.
"""

from pathlib import Path

import click

from eventlog.plumbing import print_line


@click.command()
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default="verify.html",
    show_default=True,
    help="Where to write the page.",
)
def page(output: Path) -> None:
    """Write the page that checks proofs in a browser.

    It is one file for those who have no eventlog. It can be opened from a disk, loads nothing and
    sends nothing. Give it to a client once, together with the vkey, before the first proof.

    \b
    Example:
      eventlog evidence page --output verify.html
    """
    from eventlog.plumbing import output_file
    from projections.evidence.handover.page import page_bytes

    with output_file(output, home=None) as file:
        file.write(page_bytes())
    print_line(str(output))
