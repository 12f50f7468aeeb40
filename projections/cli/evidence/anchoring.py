"""The command `evidence anchor`, and the options that name a time stamp authority.

Invariant: nothing that did not verify is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventlog.plumbing import JSON_OPTION, CommandContext, WrongUsage, print_line, printable
from projections.cli.common import print_json
from projections.cli.evidence.extra import needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved

if TYPE_CHECKING:
    from projections.evidence.formats.checkpoint import Stamp
    from projections.evidence.stamps.stamp import TrustedAuthorities

Command = TypeVar("Command", bound=Callable[..., Any])

CA_BYTES_MAX = 1 << 20  # a bundle of all authorities of a system is smaller
PEM = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenStamp:
    """A time stamp that a user gives, not verified, and what it is verified by."""

    reply: bytes
    trusted: "TrustedAuthorities"

    def verified(self, checkpoint: bytes) -> "Stamp":
        """The stamp of this checkpoint. Raises NotProved."""
        from projections.evidence.stamps.stamp import verify_stamp

        return verify_stamp(self.reply, checkpoint, self.trusted)


def policy_option(command: Command) -> Command:
    """Adds --tsa-policy."""
    text = "The policy that the stamp must name, as an object identifier. Default: any."
    return click.option("--tsa-policy", "policy", metavar="OID", help=text)(command)


def stamp_options(command: Command) -> Command:
    """Adds --tsr, --tsa-ca and --tsa-policy."""
    text = "The root certificate that --tsr is verified by, and intermediate ones."
    command = click.option("--tsa-ca", "ca", metavar="PEM", type=PEM, help=text)(command)
    text = "A time stamp of the checkpoint. Default: none."
    return click.option("--tsr", metavar="FILE", type=PEM, help=text)(policy_option(command))


def given_stamp(tsr: Path | None, ca: Path | None, policy: str | None) -> "GivenStamp | None":
    """What these options give; None without them. Raises WrongUsage."""
    if (tsr is None) != (ca is None) or (policy is not None and tsr is None):
        raise WrongUsage("--tsr and --tsa-ca belong together", do="give both, or neither")
    if tsr is None or ca is None:
        return None
    from projections.evidence.formats.checkpoint import STAMP_BYTES_MAX

    with tsr.open("rb") as opened:
        reply = opened.read(STAMP_BYTES_MAX + 1)
    return GivenStamp(reply=reply, trusted=trusted_authorities(ca, policy))


def trusted_authorities(path: Path, policy: str | None) -> "TrustedAuthorities":
    """What --tsa-ca and --tsa-policy give. Raises WrongUsage."""
    from projections.evidence.stamps.stamp import parse_authorities

    with path.open("rb") as opened:
        pem = opened.read(CA_BYTES_MAX)
    try:
        return parse_authorities(pem, policy)
    except ValueError as error:
        option = "--tsa-ca or --tsa-policy" if policy is not None else "--tsa-ca"
        do = "give a PEM file with the root certificate of the authority"
        raise WrongUsage(f"{option}: {error}", do=do) from None


@click.command()
@click.option("--tsa", "url", metavar="URL", required=True, help="The address of the authority.")
@click.option(
    "--tsa-ca",
    "ca",
    metavar="PEM",
    type=PEM,
    required=True,
    help="The root certificate that its stamps are verified by, and intermediate ones.",
)
@policy_option
@JSON_OPTION
@click.pass_obj
def anchor(obj: CommandContext, url: str, ca: Path, policy: str | None, as_json: bool) -> None:
    """Have the newest checkpoint stamped, and keep the stamp.

    The authority (RFC 3161) receives a hash and nothing else. Its reply is verified: signature,
    certificate, nonce, hash and policy; exit code 1 if it does not verify, and then nothing is
    kept. A stamp shows that all entries of the checkpoint existed at its time. If the checkpoint
    has a stamp of that authority already, that one is printed.

    \b
    Example:
      eventlog evidence anchor --tsa http://tsa.example.com --tsa-ca tsa-root.pem
    """
    with needs_extra():
        from projections.evidence.formats.encoding import time_text
        from projections.evidence.stamps.timestamp import anchor as ask
        from projections.evidence.stamps.timestamp import require_url

    try:
        require_url(url)
    except ValueError as error:
        raise WrongUsage(f"--tsa: {error}", do="give an address like http://tsa.example") from None
    trusted = trusted_authorities(ca, policy)
    with exits_unless_proved(as_json=as_json):
        found = ask(Path(obj.home), url, trusted)
    at = time_text(found.stamp.time_s)
    if as_json:
        print_json(
            {
                "path": found.path,
                "size": found.size,
                "authority": found.stamp.name,
                "time": at,
                "is_new": found.is_new,
            }
        )
        return
    print_line(found.path)
    print_line(f"{found.size} entries not later than {at}, by {printable(found.stamp.name)}")
