"""The command `evidence export`.

Invariant: the directory appears complete or not at all.
"""

from pathlib import Path

import click

from eventlog.plumbing import JSON_OPTION, CommandContext
from projections.cli.common import print_result
from projections.cli.evidence.extra import needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved


@click.command("export")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@JSON_OPTION
@click.pass_obj
def export_(obj: CommandContext, directory: Path, as_json: bool) -> None:
    """Write all that was signed to DIR, for a regulator.

    DIR gets all entries up to the newest checkpoint, the signals as CSV with each state in between,
    checkpoints, time stamps, tiles, what an audit of a kept checkpoint reads, the page that checks
    proofs, and an index page in plain words.
    It must not exist yet; its files are private. Exit code 1 if nothing was signed yet.

    \b
    Example:
      eventlog evidence export 2025-11-export
    """
    from eventlog.plumbing import progress_bar

    with needs_extra():
        from projections.evidence.handover.export import export_evidence

    with exits_unless_proved(as_json=False), progress_bar("exporting", "line") as progress:
        done = export_evidence(Path(obj.home), directory, progress=progress)
    print_result(done, as_json=as_json)
