"""A time stamp authority on loopback: `openssl ts` behind an HTTP server, with its own root.

    with stamp_authority(directory) as authority:
        authority.url, authority.ca

Invariant: server and files are gone or worth nothing after the test.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness.requirements import needs_tool

PART_BYTES = 4096
_CONFIG = """[tsa]
default_tsa = one
[one]
serial = {directory}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1, millisecs:500
clock_precision_digits = 3
ess_cert_id_chain = no
ess_cert_id_alg = sha256
[req]
distinguished_name = dn
prompt = no
[dn]
CN = {name} root
[stamps]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
"""
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")


class StampAuthority:
    """Its certificates, and how it answers."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        needs_tool("openssl", apt="openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self.name = f"CN={name} of a test"
        self.ca, self._directory = directory / "root.pem", directory
        self._config = directory / "tsa.cnf"
        self.change: Callable[[bytes], bytes] = lambda reply: reply  # what is sent in its place
        self.status, self.pause_s = 200, 0.0  # after each part of a reply
        self.requests: list[bytes] = []
        self.port = 0
        self._config.write_text(_CONFIG.format(directory=directory, name=name))
        (directory / "serial").write_text("01\n")
        key, request = directory / "tsa.key", directory / "tsa.csr"
        config = ("-config", self._config)
        root_key = directory / "root.key"
        files = ("-keyout", root_key, "-out", self.ca)
        _openssl("req", "-x509", *_NEW_KEY, *config, "-extensions", "root", *files)
        subject = ("-subj", f"/{self.name}")
        _openssl("req", *_NEW_KEY[:-2], *config, *subject, "-keyout", key, "-out", request)
        by_root = ("-CA", self.ca, "-CAkey", root_key, "-CAcreateserial", "-days", "1")
        extensions = ("-extfile", self._config, "-extensions", "stamps")
        _openssl(
            "x509", "-req", "-in", request, *by_root, *extensions, "-out", directory / "tsa.pem"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stamp"

    @property
    def certificate(self) -> bytes:
        """The one that signs, as PEM."""
        return (self._directory / "tsa.pem").read_bytes()

    def reply_to(self, query: bytes, *, added: bytes = b"") -> bytes:
        """The reply as `openssl ts` gives it, with certificates that are added as PEM."""
        question, answer = self._directory / "query.tsq", self._directory / "reply.tsr"
        question.write_bytes(query)
        signer: tuple[object, ...] = (
            "-signer",
            self._directory / "tsa.pem",
            "-inkey",
            self._directory / "tsa.key",
        )
        files = ("-queryfile", question, "-out", answer)
        chain = self._directory / "added.pem"
        chain.write_bytes(added)
        signer += ("-chain", chain) if added else ()
        _openssl("ts", "-reply", "-config", self._config, *files, *signer)
        return answer.read_bytes()

    def accepts(self, reply: bytes, data: bytes) -> bool:
        """Whether `openssl ts` verifies a reply over these bytes by the root of this authority."""
        answer, file = self._directory / "kept.tsr", self._directory / "data"
        answer.write_bytes(reply)
        file.write_bytes(data)
        words = ("ts", "-verify", "-in", answer, "-data", file, "-CAfile", self.ca)
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
        return done.returncode == 0


@contextmanager
def stamp_authority(directory: Path, name: str = "authority") -> Iterator[StampAuthority]:
    """An authority that answers until the end of the block."""
    authority = StampAuthority(directory, name)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            authority.requests.append(query)
            assert self.headers["Content-Type"] == "application/timestamp-query"
            body = authority.change(authority.reply_to(query))
            self.send_response(authority.status)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # the client has read enough
                for at in range(0, len(body), PART_BYTES):
                    self.wfile.write(body[at : at + PART_BYTES])
                    time.sleep(authority.pause_s)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        authority.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield authority
        finally:
            server.shutdown()
            thread.join()


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
