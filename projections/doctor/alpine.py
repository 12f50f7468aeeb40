"""What `doctor` asks of Alpine: address, health, and whether it takes the key.

Invariant: nothing at Alpine changes, and the key is shown nowhere.
"""

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from eventlog.plumbing import printable_value
from projections.alpine.client import AlpineClient, NoResponse
from projections.alpine.contract import describe_response
from projections.alpine.credentials import FileKey, KeyUnavailable
from projections.delivery.projection import AlpineConfig
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, DoctorFinding
from projections.errors import ProjectionError
from projections.hosts import is_loopback

ID_MAX = 2**31 - 1  # behind every signal: the page after it is empty


async def check_alpine(config: AlpineConfig) -> list[DoctorFinding]:
    """Whether Alpine is there and takes the key, and who else can read it."""
    findings = []
    if config.disabled is not None:
        found = f"nothing is delivered: {config.disabled}"
        do = "nothing, unless signals are to be delivered: then see docs/operations.md"
        findings.append(DoctorFinding(check="alpine", level=NOTE, found=found, do=do))
    if config.url:
        try:
            client = AlpineClient(config.url, config.key)
        except ProjectionError as error:
            return [DoctorFinding(check="alpine", level=PROBLEM, found=error.what, do=error.do)]
        try:
            findings += await _check_server(client)
        finally:
            await client.close()
    return [*findings, *_key_file_findings(config)]


async def _check_server(client: AlpineClient) -> list[DoctorFinding]:
    check, findings = "alpine", []
    url, parts = printable_value(client.url), urlsplit(client.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        found = f"the key goes over the network in the clear to {url}"
        do = "use an https address in ALPINE_API_URL"
        findings.append(DoctorFinding(check=check, level=WARNING, found=found, do=do))
    do = "signals wait until it answers: look after Alpine, ALPINE_API_URL and the network"
    try:
        health = await client.health()
    except NoResponse as error:
        found = f"{url}: {error.what}"
        return [*findings, DoctorFinding(check=check, level=PROBLEM, found=found, do=do)]
    if health.status != 200:
        found = f"{url} is not well: {describe_response(health.status, health.data)}"
        return [*findings, DoctorFinding(check=check, level=PROBLEM, found=found, do=do)]
    healthy = DoctorFinding(check=check, level=OK, found=f"{url} says that it is well")
    return [*findings, healthy, await _check_key(client)]


async def _check_key(client: AlpineClient) -> DoctorFinding:
    """Whether Alpine takes the key, by a page that is empty."""
    check = "alpine key"
    try:
        response = await client.page(ID_MAX)
    except KeyUnavailable as error:
        do = "put the key into the file that ALPINE_API_KEY_FILE names"
        return DoctorFinding(check=check, level=PROBLEM, found=str(error), do=do)
    except NoResponse as error:
        do = "ask again; deliveries tell, too: see `eventlog status`"
        return DoctorFinding(check=check, level=WARNING, found=f"not tried: {error.what}", do=do)
    if response.status == 200:
        return DoctorFinding(check=check, level=OK, found="Alpine takes it")
    found = describe_response(response.status, response.data)
    if response.status in (401, 403):
        do = "put the right key into its file: the daemon takes it at once"
        return DoctorFinding(check=check, level=PROBLEM, found=f"Alpine refuses it: {found}", do=do)
    return DoctorFinding(
        check=check,
        level=NOTE,
        found=f"whether Alpine takes it cannot be told, for it did not list its signals: {found}",
        do="see `eventlog status` once something was delivered",
    )


def _key_file_findings(config: AlpineConfig) -> list[DoctorFinding]:
    """Who may read the key."""
    if not isinstance(config.key, FileKey):
        try:
            config.key.read()
        except KeyUnavailable:
            return []
        do = "put it into a file of mode 0600, and its path into ALPINE_API_KEY_FILE"
        found = "it is in the environment, which other programs of this account can read"
        return [DoctorFinding(check="alpine key", level=NOTE, found=found, do=do)]
    path = Path(config.key.path)
    try:
        status = path.stat()
    except OSError as error:
        found = f"its file cannot be read: {error.strerror}"
        do = "name a readable file in ALPINE_API_KEY_FILE"
        return [DoctorFinding(check="alpine key", level=PROBLEM, found=found, do=do)]
    name = printable_value(str(path))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        found, do = f"others may change {name}", "chmod go-w it"
        return [DoctorFinding(check="alpine key", level=PROBLEM, found=found, do=do)]
    if status.st_mode & stat.S_IROTH:
        found, do = f"anybody on this machine may read {name}", "chmod o-rwx it, and renew the key"
        return [DoctorFinding(check="alpine key", level=PROBLEM, found=found, do=do)]
    if not os.access(path, os.R_OK):
        found, do = f"this account may not read {name}", "run it as the daemon's account"
        return [DoctorFinding(check="alpine key", level=WARNING, found=found, do=do)]
    mode = stat.S_IMODE(status.st_mode)
    return [DoctorFinding(check="alpine key", level=OK, found=f"{name} has mode {mode:04o}")]
