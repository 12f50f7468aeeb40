"""The command `evidence publish`.

Invariant: what is written outside the home can be read by a web server.
"""

from pathlib import Path

import click

from eventlog.plumbing import JSON_OPTION, CommandContext, print_note
from projections.cli.common import print_result
from projections.cli.evidence.extra import needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--entries", "with_entries", is_flag=True, help="Publish the lines too, readable.")
@click.option("--all", "all_again", is_flag=True, help="Write all files again, also those there.")
@JSON_OPTION
@click.pass_obj
def publish(
    obj: CommandContext, directory: Path, with_entries: bool, all_again: bool, as_json: bool
) -> None:
    """Write checkpoint and tiles to DIR, for a web server.

    The checkpoint is the newest. DIR has the layout of C2SP tlog-tiles, from which anyone can make
    proofs and follow the log. A second run adds what is new, and writes changed tiles of hashes
    again. Files get mode 0644 and directories 0755; DIR must not be in a home. The hashes of lines
    are public then: a line with few unknowns can be guessed from its hash, unless it was appended
    with --salt. Exit code 1 if nothing was signed yet.

    \b
    Example:
      eventlog evidence publish /srv/www/log
      eventlog evidence publish --entries /srv/www/log
    """
    from eventlog.plumbing import count_text, progress_bar

    with needs_extra():
        from projections.evidence.handover.publish import publish as publish_to

    def warn(unsalted: int) -> None:
        print_note(
            f"{count_text(unsalted, 'new entry')} without a salt: whoever has the hash of such"
            " a line can guess it where little of it is unknown; append with --salt"
        )

    with exits_unless_proved(as_json=False), progress_bar("publishing") as progress:
        done = publish_to(
            Path(obj.home),
            directory,
            with_entries=with_entries,
            all_again=all_again,
            on_unsalted=warn,
            progress=progress,
        )
    print_result(done, as_json=as_json)
