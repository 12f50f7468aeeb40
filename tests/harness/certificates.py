"""A certificate authority, and a certificate of it for loopback, made by `openssl`.

    authority = Authority(directory)
    authority.ca, authority.cert, authority.key     paths

Invariant: all files are in the directory, and are worth nothing elsewhere.
"""

import subprocess
from pathlib import Path

from tests.harness.requirements import needs_tool

_NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"


class Authority:
    """An authority with one certificate."""

    def __init__(self, directory: Path) -> None:
        needs_tool("openssl", apt="openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.cert, self.key = (directory / name for name in ("ca.pem", "n.pem", "n.key"))
        ca_key, request, names = (directory / name for name in ("ca.key", "n.csr", "names"))
        names.write_text(_NAMES)
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        of_a_day = ["-days", "1"]
        ca_words = ["-keyout", ca_key, "-out", self.ca, "-subj", "/CN=authority of a test"]
        _openssl("req", "-x509", *new_key, *of_a_day, *ca_words)
        _openssl("req", *new_key, "-keyout", self.key, "-out", request, "-subj", "/CN=a server")
        by_ca = ["-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", names]
        _openssl("x509", "-req", "-in", request, "-out", self.cert, *by_ca, *of_a_day)


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
