"""What a log with accepted damage answers where it is compared with a stream."""

import json
from pathlib import Path

from eventlog import EventLog
from eventlog.replica.fork import own_chain, state_of_log
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in, segments_in
from tests.harness.promotions import promote_alone
from tests.harness.signals import signals

LOST, PROMOTED = 3, 6  # seqs


def test_seqs_count_and_not_lines_where_damage_was_accepted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(PROMOTED - 1))
    lines = lines_in(home)
    (segment,) = segments_in(home)
    damaged = b"x" * (len(lines[LOST - 1]) - 1) + b"\n"
    segment.write_bytes(b"".join([*lines[: LOST - 1], damaged, *lines[LOST:]]))
    assert eventlog("repair", "--accept", home=home).code == 0
    assert promote_alone(home).seq == PROMOTED
    assert own_chain(str(home), LOST) == ""
    assert own_chain(str(home), LOST + 1) == json.loads(lines[LOST])["chain"]
    epochs = [state_of_log(str(home), "main", seq).epoch for seq in (PROMOTED - 1, PROMOTED)]
    assert epochs == [1, 2]
