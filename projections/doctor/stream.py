"""Checks the NATS servers and the stream, where EVENTLOG_STREAM is set.

Invariant: nothing is written to the stream, and no key is shown.
"""

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from eventlog import EventLogError
from eventlog.plumbing import (
    REPLICAS_MIN,
    StreamSettings,
    StreamUnfit,
    open_append_connection,
    open_stream,
    printable_value,
    read_monitors,
    replica_state,
    require_client,
    sync_rule,
)
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, DoctorFinding
from projections.hosts import is_loopback
from projections.replication.same_log import require_lines

# The kill loop was run with it: no acknowledged line was lost. 2.15.1 was left without a leader
# where the stream was compressed. 2.12 is the first one that stores several messages as a whole.
VERSION_TESTED = (2, 14)
VERSION_MIN = (2, 12)

SERVER, KEY, SYNC, STREAM, PEERS = "nats server", "nats key", "nats sync", "stream", "peers"


def check_stream(settings: StreamSettings, home: Path) -> list[DoctorFinding]:
    """Reports about each server, the login, the sync of messages, the stream and its peers."""
    require_client()
    return asyncio.run(_check(settings, home))


async def _check(settings: StreamSettings, home: Path) -> list[DoctorFinding]:
    servers = [one for url in settings.urls for one in await _check_server(settings, url)]
    findings = [*servers, *_key_findings(settings), *await _check_sync(settings)]
    if any(server.level != PROBLEM for server in servers):
        findings += await _check_content(settings, home)
    return findings


async def _check_server(settings: StreamSettings, url: str) -> list[DoctorFinding]:
    """Reports whether a server lets this account in, its version, and whether it encrypts."""
    parts = urlsplit(url)
    name = printable_value(parts.netloc.rpartition("@")[2] or url)
    try:
        connection = await open_append_connection(replace(settings, urls=(url,)))
    except EventLogError as error:
        return [_finding(SERVER, PROBLEM, f"{name}: {error.what}", error.do)]
    version, is_encrypted = connection.server_version, connection.is_encrypted
    await connection.close()
    is_exposed = not is_encrypted and not is_loopback(parts.hostname or "")
    return server_findings(name, version, is_encrypted=is_encrypted, is_exposed=is_exposed)


def server_findings(
    name: str, version: tuple[int, ...], *, is_encrypted: bool, is_exposed: bool
) -> list[DoctorFinding]:
    """The findings about a server that lets this account in.

    `is_exposed`: lines reach it over a network, and not encrypted.
    """
    number, findings = ".".join(map(str, version)), []
    if version[:2] < VERSION_MIN:
        do = "install a server of the version that docs/commands.md names"
        found = f"{name} has version {number}: it is too old"
        findings.append(_finding(SERVER, PROBLEM, found, do))
    elif version[:2] != VERSION_TESTED:
        tested = ".".join(map(str, VERSION_TESTED))
        found = f"{name} has version {number}; the tests of lost servers were run with {tested}"
        do = "use that version, or run those tests before you rely on another one"
        findings.append(_finding(SERVER, WARNING, found, do))
    if is_exposed:
        do = "use an address that begins with tls://, and EVENTLOG_NATS_CA_FILE"
        found = f"{name} gets the lines of the log unencrypted"
        findings.append(_finding(SERVER, WARNING, found, do))
    encrypted = ", encrypted" if is_encrypted else ""
    found = f"{name} has version {number}{encrypted}"
    return findings or [DoctorFinding(check=SERVER, level=OK, found=found)]


def _key_findings(settings: StreamSettings) -> Iterator[DoctorFinding]:
    """Reports who may read the file of the key or of the credentials."""
    path = settings.nkey_file or settings.creds_file
    if not path:
        if not any("@" in url for url in settings.urls):
            do = "give each role a key: see tools/ops/nats of the checkout"
            yield _finding(KEY, NOTE, "this account logs in to NATS without a key", do)
        return
    name = printable_value(path)
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError as error:
        do = "set EVENTLOG_NATS_NKEY_FILE or EVENTLOG_NATS_CREDS_FILE to a readable file"
        yield _finding(KEY, PROBLEM, f"{name} cannot be read: {error.strerror}", do)
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        do = "run chmod 600 on it, and replace the key"
        yield _finding(KEY, PROBLEM, f"other accounts may read or change {name}", do)
    else:
        yield DoctorFinding(check=KEY, level=OK, found=f"{name} has mode {mode:04o}")


async def _check_sync(settings: StreamSettings) -> list[DoctorFinding]:
    """Reports whether the servers sync each message before they acknowledge it."""
    if not settings.monitor_urls:
        found = "nothing checks sync_interval of the servers"
        do = "set EVENTLOG_NATS_MONITOR_URL to their monitoring endpoints"
        return [_finding(SYNC, WARNING, found, do)]
    findings = []
    for url, answer in zip(settings.monitor_urls, await read_monitors(settings), strict=True):
        name = printable_value(urlsplit(url).netloc or url)
        rule = sync_rule(answer) if isinstance(answer, dict) else None
        if isinstance(answer, str):
            do = "check that the server runs, and EVENTLOG_NATS_MONITOR_URL"
            findings.append(_finding(SYNC, WARNING, f"{name} does not answer: {answer}", do))
        elif rule is not None:
            do = 'set sync_interval: "always" in its configuration, and restart it'
            findings.append(_finding(SYNC, PROBLEM, f"{name}: {rule}", do))
        else:
            found = f"{name} syncs each message"
            findings.append(DoctorFinding(check=SYNC, level=OK, found=found))
    return findings


async def _check_content(settings: StreamSettings, home: Path) -> list[DoctorFinding]:
    """Reports whether the stream meets the rules and can hold the log, and who holds it."""
    try:
        stream = await open_stream(settings)
        try:
            end = await stream.last()
        finally:
            await stream.close()
    except EventLogError as error:
        return [_finding(STREAM, PROBLEM, error.what, error.do)]
    found = f"{settings.stream} meets the rules and ends at seq {end.seq}"
    findings = [DoctorFinding(check=STREAM, level=OK, found=found)]
    try:
        if replica_state(home) is None:
            require_lines(home, end.seq)
    except StreamUnfit as error:
        findings.append(_finding(STREAM, PROBLEM, error.what, error.do))
    if end.replicas < REPLICAS_MIN:
        do = f"create a stream with {REPLICAS_MIN} replicas before a loss of the server matters"
        findings.append(_finding(PEERS, NOTE, "one server holds it: nothing is replicated", do))
    elif end.replicas_current < end.replicas:
        found = f"{end.replicas_current} of {end.replicas} servers are up to date"
        do = "bring the others back: with another loss the stream may stop"
        findings.append(_finding(PEERS, WARNING, found, do))
    else:
        found = f"all {end.replicas} servers are up to date"
        findings.append(DoctorFinding(check=PEERS, level=OK, found=found))
    return findings


def _finding(check: str, level: str, found: str, do: str) -> DoctorFinding:
    return DoctorFinding(check=check, level=level, found=found, do=do or "see docs/operations.md")
