"""An operator of NATS with one account, and files with the credentials of its users.

    operator = Operator(directory)
    with nats_server(extra=operator.config) as server:
        env = {**server.env("main"), "EVENTLOG_NATS_CREDS_FILE": operator.creds("mirror")}

Each token is a JWT: JSON that the key above it has signed with Ed25519.

Invariant: all files are in the directory, and are worth nothing elsewhere.
"""

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]

_UNLIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")
_CREDS = """\
-----BEGIN NATS USER JWT-----
{token}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class Operator:
    """The keys, and the tokens that they sign."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._operator = _Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, system = (_Key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
        limits = {"wildcards": True, **dict.fromkeys(_UNLIMITED, -1)}
        stored = {**limits, **dict.fromkeys(_JETSTREAM, -1)}
        kind = {"type": "account", "version": 2}
        tokens = {
            self._account.public: self._operator.sign(self._account, kind, limits=stored),
            system.public: self._operator.sign(system, kind, limits=limits),
        }
        kind = {"type": "operator", "version": 2}
        top = self._operator.sign(self._operator, kind, system_account=system.public)
        preload = "\n".join(f'  {public}: "{token}"' for public, token in tokens.items())
        self.config = (
            f'operator: "{top}"\nsystem_account: {system.public}\n'
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def creds(self, name: str, *, may_publish: tuple[str, ...] = (">",)) -> str:
        """The path of a file with the credentials of a new user of the account."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        kind = {"type": "user", "version": 2, **dict.fromkeys(("subs", "data", "payload"), -1)}
        token = self._account.sign(user, kind, pub={"allow": may_publish}, sub={"allow": [">"]})
        path = self._directory / f"{name}.creds"
        path.touch(mode=0o600)
        path.write_text(_CREDS.format(token=token, seed=user.seed))
        return str(path)


class _Key:
    """A key of NATS: its first letter says what it is for."""

    def __init__(self, prefix: int) -> None:
        seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self.seed = seed.decode()
        self._pair = nkeys.from_seed(seed)
        self.public = self._pair.public_key.decode()

    def sign(self, subject: "_Key", kind: Mapping[str, object], **claims: object) -> str:
        """A token about another key."""
        body = {
            "jti": subject.public,
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": "of a test",
            "nats": {**claims, **kind},
        }
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
        return f"{signed}.{_unpadded(self._pair.sign(signed.encode()))}"


def _encoded(value: Mapping[str, Any]) -> str:
    return _unpadded(json.dumps(value).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
