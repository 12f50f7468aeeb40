"""The checks of Alpine: its address, its health, and whether it accepts the key.

Invariant: nothing changes at Alpine, and the key is never shown.
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

ID_MAX = 2**31 - 1  # greater than the id of any signal, so the page after it is empty


async def check_alpine(config: AlpineConfig) -> list[DoctorFinding]:
    """Reports whether Alpine answers and accepts the key, and who else can read the key."""
    findings = []
    if config.disabled is not None:
        found = f"delivery is disabled: {config.disabled}"
        do = "nothing; to deliver signals, see docs/operations.md"
        level = NOTE
        if config.is_refused:
            do, level = "set the variable to true or false, or unset it", PROBLEM
        findings.append(DoctorFinding(check="alpine", level=level, found=found, do=do))
    if config.url:
        try:
            client = AlpineClient(config.url, config.key)
        except ProjectionError as error:
            return [DoctorFinding(check="alpine", level=PROBLEM, found=error.what, do=error.do)]
        try:
            findings += await _check_server(client)
        finally:
            await client.close()
    is_reported = any(one.check == "alpine key" for one in findings)
    return [*findings, *_key_findings(config, is_reported=is_reported)]


async def _check_server(client: AlpineClient) -> list[DoctorFinding]:
    check, findings = "alpine", []
    url, parts = printable_value(client.url), urlsplit(client.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        found = f"the key is sent unencrypted to {url}"
        do = "use an https address in ALPINE_API_URL"
        findings.append(DoctorFinding(check=check, level=WARNING, found=found, do=do))
    do = "signals wait until it answers: check Alpine, ALPINE_API_URL and the network"
    try:
        health = await client.health()
    except NoResponse as error:
        found = f"{url}: {error.what}"
        return [*findings, DoctorFinding(check=check, level=PROBLEM, found=found, do=do)]
    if health.status != 200:
        found = f"{url} is unhealthy: {describe_response(health.status, health.data)}"
        return [*findings, DoctorFinding(check=check, level=PROBLEM, found=found, do=do)]
    healthy = DoctorFinding(check=check, level=OK, found=f"{url} is healthy")
    return [*findings, healthy, await _check_key(client)]


async def _check_key(client: AlpineClient) -> DoctorFinding:
    """Reports whether Alpine accepts the key, by a request for an empty page."""
    check = "alpine key"
    try:
        response = await client.page(ID_MAX)
    except KeyUnavailable as error:
        do = "put the key into the file that ALPINE_API_KEY_FILE names"
        return DoctorFinding(check=check, level=PROBLEM, found=str(error), do=do)
    except NoResponse as error:
        do = "run doctor again, or see `eventlog status` once a signal was delivered"
        return DoctorFinding(check=check, level=WARNING, found=f"not checked: {error.what}", do=do)
    if response.status == 200:
        return DoctorFinding(check=check, level=OK, found="Alpine accepts it")
    found = describe_response(response.status, response.data)
    if response.status in (401, 403):
        do = "put the right key into its file: the daemon reads it again at once"
        return DoctorFinding(check=check, level=PROBLEM, found=f"Alpine refuses it: {found}", do=do)
    return DoctorFinding(
        check=check,
        level=NOTE,
        found=f"not checked, because Alpine did not list its signals: {found}",
        do="see `eventlog status` once a signal was delivered",
    )


def _key_findings(config: AlpineConfig, *, is_reported: bool) -> list[DoctorFinding]:
    """Reports who may read the key. `is_reported`: a key that is not there has been reported."""
    check = "alpine key"
    do: str | None
    if not isinstance(config.key, FileKey):
        try:
            config.key.read()
        except KeyUnavailable:
            return []
        do = "put it into a file with mode 0600, and set ALPINE_API_KEY_FILE to its path"
        found = "it is in the environment, which other programs of this account can read"
        return [DoctorFinding(check=check, level=NOTE, found=found, do=do)]
    path = Path(config.key.path)
    name = printable_value(str(path))
    level, do = PROBLEM, None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        if is_reported:
            return []
        found = f"its file cannot be read: {error.strerror}"
        do = "set ALPINE_API_KEY_FILE to a readable file"
    else:
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            found, do = f"other accounts may change {name}", "run chmod go-w on it"
        elif mode & stat.S_IROTH:
            found = f"every account on this machine may read {name}"
            do = "run chmod o-rwx on it, and replace the key"
        elif not os.access(path, os.R_OK):
            level, found = WARNING, f"this account may not read {name}"
            do = "run doctor under the daemon's account"
        else:
            level, found = OK, f"{name} has mode {mode:04o}"
    return [DoctorFinding(check=check, level=level, found=found, do=do)]
