"""Servers that an operator runs with signed tokens: a credentials file is enough to log in."""

from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.credentials import Operator
from tests.harness.log_checks import lines_in
from tests.harness.nats import nats_server
from tests.harness.read_side import append
from tests.harness.signals import signals

pytestmark = pytest.mark.slow  # a server and several commands

NAME = "EVENTLOG_NATS_CREDS_FILE"


def test_a_credentials_file_logs_in_and_what_it_does_not_allow_is_said_in_words(
    tmp_path: Path,
) -> None:
    primary, replica = tmp_path / "primary", tmp_path / "replica"
    operator, other = Operator(tmp_path), Operator(tmp_path)
    append(primary, *signals(3))
    with nats_server(extra=operator.config) as server:
        env = {**server.env("main"), NAME: operator.creds("all")}
        created = eventlog(
            *("mirror", "create", "--replicas", 1, "--allow-single"), home=primary, env=env
        )
        assert (created.code, created.err) == (0, "")
        assert eventlog("-q", "project", "mirror", "--once", home=primary, env=env).code == 0
        assert eventlog("-q", "follow", "--once", home=replica, env=env).code == 0
        assert lines_in(replica) == lines_in(primary)
        for path, said in (
            (other.creds("foreign"), "the server refuses the login"),
            (operator.creds("nothing", may_publish=("x",)), "permissions violation"),
            (str(tmp_path / "none.creds"), "No such file"),
            ("", "the server refuses the login"),
        ):
            refused = eventlog("mirror", "create", home=primary, env={**env, NAME: path})
            assert (refused.code, said in refused.err) == (3, True), refused.err
