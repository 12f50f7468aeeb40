"""Three servers of NATS with the configuration of tools/ops/nats: TLS, a key for each role.

    with guarded_cluster() as cluster:
        settings = cluster.settings_of("follower")
        eventlog("follow", home=home, env=cluster.env_of("follower"))

Invariant: the files are those that are shipped; only the variables that they name are set here.
"""

import asyncio
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]

from eventlog.plumbing import NatsConnection, StreamSettings
from tests.harness.certificates import Authority
from tests.harness.nats import REQUEST_S, NatsServers
from tests.harness.requirements import CHECKOUT
from tools.nats_nodes import client_env

SHIPPED = CHECKOUT / "tools/ops/nats"
STREAM = "main"  # as in roles.conf
ROLES = tuple(
    name.lower() for name in re.findall(r"\$(\w+)_NKEY", (SHIPPED / "roles.conf").read_text())
)


class GuardedServers(NatsServers):
    """A cluster to which each role logs in with its key."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, nodes=3)
        self.authority = Authority(directory / "tls")
        public = {f"{role.upper()}_NKEY": self._new_key(role) for role in ROLES}
        shutil.copy(SHIPPED / "roles.conf", directory)
        routes = {
            f"NATS_ROUTE_{number}": f"nats://127.0.0.1:{port}"
            for number, port in enumerate(self.route_ports, 1)
        }
        for index in range(3):
            shutil.copy(SHIPPED / "server.conf", self.config(index))
            self.node_env[index] = {
                "NATS_NODE": f"n{index}",
                "NATS_LISTEN": f"127.0.0.1:{self.ports[index]}",
                "NATS_MONITOR": f"127.0.0.1:{self.monitor_ports[index]}",
                "NATS_CLUSTER": f"127.0.0.1:{self.route_ports[index]}",
                "NATS_STORE": str(self.store(index)),
                "NATS_CERT": str(self.authority.cert),
                "NATS_KEY": str(self.authority.key),
                "NATS_CA": str(self.authority.ca),
                **routes,
                **public,
            }

    def settings_of(self, role: str) -> StreamSettings:
        """The settings with which a role uses the stream."""
        return StreamSettings(
            name=STREAM,
            urls=tuple(f"tls://127.0.0.1:{port}" for port in self.ports),
            nkey_file=str(self.key_of(role)),
            ca_file=str(self.authority.ca),
            monitor_urls=tuple(self.monitor_urls),
        )

    def env_of(self, role: str) -> dict[str, str]:
        """The environment of a command of a role."""
        return client_env(self.settings_of(role))

    def request(self, verb: str, body: object = None) -> dict[str, Any]:
        """The answer of the JetStream API to the operator, an error included."""

        async def ask() -> dict[str, Any]:
            settings = self.settings_of("operator")
            connection = await NatsConnection.connect(settings, "_INBOX.stream")
            try:
                data = b"" if body is None else json.dumps(body).encode()
                answer = await connection.request(f"$JS.API.{verb}", data, None, REQUEST_S)
                return dict(json.loads(answer))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def key_of(self, role: str) -> Path:
        """The file with the key of a role."""
        return self.directory / f"{role}.nkey"

    def new_seed(self) -> bytes:
        """A key that no server knows."""
        return bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))

    def _new_key(self, role: str) -> str:
        """Makes the key of a role, and returns its public half."""
        seed = self.new_seed()
        self.key_of(role).touch(mode=0o600)
        self.key_of(role).write_bytes(seed)
        return str(nkeys.from_seed(seed).public_key.decode())


@contextmanager
def guarded_cluster() -> Iterator[GuardedServers]:
    """Three nodes that run, as one cluster."""
    with tempfile.TemporaryDirectory(prefix="nats-", ignore_cleanup_errors=True) as directory:
        servers = GuardedServers(Path(directory))
        try:
            servers.start()
            servers.wait_until_healthy()
            yield servers
        finally:
            servers.kill()
