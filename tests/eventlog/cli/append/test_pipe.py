"""`eventlog append` as the long-lived pipe of a generator in any language (contract 6, P1, P3)."""

import fcntl
import json
import os
import random
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from eventlog.format.line import PAYLOAD_BYTES_MAX
from eventlog.schema.json_input import INPUT_BYTES_MAX
from tests.harness.command import (
    COMMAND,
    NO_STDIN,
    NO_STDOUT,
    NO_STREAMS,
    Pipe,
    child_of,
    eventlog,
    jsonl,
    pipe,
    strace,
)
from tests.harness.deadline import until
from tests.harness.log_checks import (
    assert_receipts_kept,
    assert_valid_log,
    entries_in,
    ids_in,
    tree_contents,
)
from tests.harness.signals import a_signal, closed, signals

EXIT_S = 10.0  # what is promised for SIGTERM; below, twice as long for a machine that is busy
FIRST = "00000000000000000001.jsonl"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def padded(number: int, size: int) -> bytes:
    """A valid line of exactly `size` bytes, without its newline."""
    line = json.dumps(a_signal(number)).encode()
    return line[:-1] + b" " * (size - len(line)) + b"}"


# -- one answer a line


BAD_LINES = {
    "blank": b"",
    "white space": b"   ",
    "no JSON": b"nonsense",
    "a list": b"[]",
    "null": b"null",
    "text": b'"text"',
    "no UTF-8": b"\xff\xfe",
    "NUL": b"\0",
    "cut off": b'{"symbol":"AAPL"',
    "empty": b"{}",
    "a byte too long": b"x" * (INPUT_BYTES_MAX + 1),
    "far too long": b"x" * (3 * INPUT_BYTES_MAX),
    "deep": b"[" * 100_000,
    "too large": json.dumps(a_signal(99, note="x" * PAYLOAD_BYTES_MAX)).encode(),
    "a bad price": json.dumps(a_signal(99, target_price=-1)).encode(),
    "a key of ours": json.dumps(a_signal(99, chain="x")).encode(),
    "a conflict": json.dumps(a_signal(1, stop_price=1.0)).encode(),
}


def test_each_line_gets_exactly_one_answer_in_order(home: Path) -> None:
    lines: list[Any] = [a_signal(1)]
    for number, bad in enumerate(BAD_LINES.values(), 2):
        lines += [bad, a_signal(number)]
    done = eventlog("append", "--skip-invalid", home=home, stdin=jsonl(lines))
    assert done.code == 1
    assert len(done.answers) == len(lines)
    for number, (line, answer) in enumerate(zip(lines, done.answers, strict=True), 1):
        if isinstance(line, dict):
            assert answer["signal_id"] == line["signal_id"]
        else:
            assert answer["line"] == number
            assert answer["field"] and answer["error"]
            assert f"line {number}: " in done.err
    assert ids_in(home) == [f"s-{n}" for n in range(1, len(BAD_LINES) + 2)]
    assert_receipts_kept(home, [answer for answer in done.answers if "seq" in answer])


def test_the_answers_have_the_form_defined_by_the_contract(home: Path) -> None:
    lines = [a_signal(1), a_signal(1), closed(1), {"event": "tick"}, a_signal(2, target_price=-1)]
    done = eventlog("append", home=home, stdin=jsonl(lines))
    first, again, fact, tick, refused = done.answers
    entries = entries_in(home)
    assert first == {
        "seq": 1,
        "signal_id": "s-1",
        "sha256": entries[0]["sha256"],
        "chain": entries[0]["chain"],
        "recorded_at": entries[0]["recorded_at"],
        "duplicate": False,
    }
    assert again == {**first, "duplicate": True}
    assert (fact["seq"], fact["sha256"], tick["signal_id"]) == (2, None, None)
    assert refused == {
        "line": 5,
        "error": "target_price must be > 0 (got -1)",
        "field": "target_price",
    }
    created = f"created a new log at {home}\n"
    assert done.err == f"{created}line 5: target_price must be > 0 (got -1)\n"


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_the_first_bad_line_ends_it_and_nothing_after_it_is_written(home: Path, bad: bytes) -> None:
    stdin = jsonl([a_signal(1), a_signal(2), bad, a_signal(3), bad, a_signal(4)])
    done = eventlog("append", home=home, stdin=stdin)
    assert done.code == 1
    assert [answer.get("seq") for answer in done.answers] == [1, 2, None]
    assert done.answers[2]["line"] == 3
    assert ids_in(home) == ["s-1", "s-2"]


def test_a_bad_line_ends_a_running_pipe_too(home: Path) -> None:
    with pipe(home) as p:
        p.send_items(a_signal(1))
        assert p.read_answers()[0]["seq"] == 1
        p.send_items({"event": "closed", "signal_id": "s-1"})
        assert p.read_answers()[0]["error"] == "exit_price is missing"
        assert p.read_all_answers() == []
        assert p.wait() == 1
    assert ids_in(home) == ["s-1"]


def test_the_last_line_needs_no_newline(home: Path) -> None:
    done = eventlog("append", home=home, stdin=jsonl(signals(2)).rstrip(b"\n"))
    assert (done.code, len(done.answers)) == (0, 2)


@pytest.mark.parametrize("newline", [b"", b"\n"])
@pytest.mark.parametrize("size", [INPUT_BYTES_MAX + 1, 1 << 20, 3_000_000])
def test_a_last_line_that_is_too_long_gets_an_answer(home: Path, size: int, newline: bytes) -> None:
    stdin = jsonl([a_signal(1)]) + b"x" * size + newline
    done = eventlog("append", home=home, stdin=stdin)
    assert done.code == 1
    assert [answer.get("field") for answer in done.answers] == [None, "line"]


def test_lines_may_end_as_on_windows(home: Path) -> None:
    done = eventlog("append", home=home, stdin=jsonl(signals(2)).replace(b"\n", b"\r\n"))
    assert (done.code, len(done.answers)) == (0, 2)


def test_a_file_is_read_as_stdin_is(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "signals.jsonl"
    file.write_bytes(jsonl(signals(3)))
    assert [a["seq"] for a in eventlog("append", file, home=home).answers] == [1, 2, 3]
    done = eventlog("append", "-", home=home, stdin=file.read_bytes())
    assert [a["duplicate"] for a in done.answers] == [True, True, True]


def test_empty_input_creates_no_log(home: Path) -> None:
    done = eventlog("append", home=home)
    assert (done.code, done.out, done.err) == (0, b"", "")
    assert not home.exists()


# -- how much at a time


def test_a_lone_line_gets_its_answer_before_the_next_is_written(home: Path) -> None:
    with pipe(home) as p:
        for number in range(1, 21):
            p.send_items(a_signal(number))
            (receipt,) = p.read_answers()
            assert (receipt["seq"], receipt["signal_id"]) == (number, f"s-{number}")
            assert len(ids_in(home)) == number  # and it is in the log by then
        p.close_stdin()
        assert p.wait() == 0


def test_half_a_line_waits_for_its_other_half(home: Path) -> None:
    line = jsonl([a_signal(1)])
    with pipe(home) as p:
        p.write_bytes_to_stdin(line[:100])
        assert p.is_silent()
        p.write_bytes_to_stdin(line[100:] + line[:1])
        assert p.read_answers()[0]["seq"] == 1
        p.write_bytes_to_stdin(line[1:])
        assert p.read_answers()[0]["duplicate"]


def test_all_waiting_lines_are_committed_together(home: Path) -> None:
    hang = strace("-P", home / "logs" / FIRST, "-e", "inject=fdatasync:delay_enter=300000:when=1")
    with pipe(home, under=hang) as p:
        p.send_items(a_signal(1))
        child_of(p.process)
        until((home / "logs" / FIRST).exists)  # it is about to write the first
        p.send_items(*signals(49, start=2))  # they wait while it is synced
        assert [receipt["seq"] for receipt in p.read_answers(50)] == list(range(1, 51))
        p.close_stdin()
        assert p.wait() == 0
    assert len({entry["batch"] for entry in entries_in(home)}) <= 4


def test_many_lines_at_once_take_few_commits(home: Path) -> None:
    done = eventlog("append", home=home, stdin=jsonl(signals(3000)))
    assert len(done.answers) == 3000
    assert len({entry["batch"] for entry in assert_receipts_kept(home, done.answers)}) < 100


@pytest.mark.parametrize("size", [60_000, 200_000, INPUT_BYTES_MAX])
def test_a_long_line_with_a_small_signal_is_accepted(home: Path, size: int) -> None:
    with pipe(home) as p:
        p.send_items(padded(1, size), a_signal(2), padded(3, size))
        assert [receipt["signal_id"] for receipt in p.read_answers(3)] == ["s-1", "s-2", "s-3"]


def test_a_line_of_the_maximum_length_is_accepted(home: Path) -> None:
    small = a_signal(1, note="")
    with_note = eventlog("append", home=home, stdin=jsonl([small]))
    payload = entries_in(home)[0]
    for key in ("v", "seq", "batch", "recorded_at", "event", "chain"):
        del payload[key]
    size = len(json.dumps(payload, separators=(",", ":")))
    largest = a_signal(2, note="x" * (PAYLOAD_BYTES_MAX - size))
    done = eventlog("append", home=home, stdin=jsonl([largest]))
    assert (with_note.code, done.code) == (0, 0), done.err
    largest["note"] += "x"
    done = eventlog("append", home=home, stdin=jsonl([{**largest, "signal_id": "s-3"}]))
    assert (done.code, done.answers[0]["field"]) == (1, "note")
    assert_valid_log(home)


# -- asked to stop (P1)


def feed(p: Pipe, count: int) -> threading.Thread:
    """Sends signals from another thread until the pipe has no reader."""

    def send_items() -> None:
        with suppress(BrokenPipeError, ValueError):  # it has gone; the test closed the pipe
            for signal in signals(count):
                p.send_items(signal)

    thread = threading.Thread(target=send_items)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)],
    ids=["SIGTERM", "SIGTERM twice", "SIGINT"],
)
def test_sigterm_answers_all_accepted_lines_and_ends_the_pipe(
    home: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    with pipe(home) as p:
        feeding = feed(p, 100_000)
        answers = p.read_answers(50)
        for number in numbers:
            p.send(number)
        answers += p.read_all_answers()
        code = p.wait(2 * EXIT_S)
    feeding.join()
    assert code == (130 if numbers == (signal.SIGINT,) else 0)
    assert "Traceback" not in p.err
    entries = assert_receipts_kept(home, answers)
    assert len(entries) == len(answers), "each line that it took is answered"


def test_sigterm_ends_a_pipe_that_waits_for_input(home: Path) -> None:
    with pipe(home) as p:
        p.send_items(a_signal(1))
        p.read_answers()
        p.write_bytes_to_stdin(b'{"half a line')
        p.send(signal.SIGTERM)
        assert (p.read_all_answers(), p.wait(2 * EXIT_S)) == ([], 0)
        assert p.err == f"created a new log at {home}\n"
    assert_valid_log(home)


def test_sigterm_during_a_sync_finishes_and_answers_the_batch(home: Path) -> None:
    hang = strace("-P", home / "logs" / FIRST, "-e", "inject=fdatasync:delay_enter=1000000:when=1")
    with pipe(home, under=hang) as p:
        p.send_items(*signals(3))
        pid = child_of(p.process)
        until(lambda: (home / "logs" / FIRST).exists() and entries_in(home))
        for _ in range(2):
            os.kill(pid, signal.SIGTERM)
        receipts = p.read_all_answers()
        assert p.wait(2 * EXIT_S) == 0
    assert [receipt["seq"] for receipt in receipts] == [1, 2, 3]
    assert_receipts_kept(home, receipts)


def wait_until_it_is_stuck(home: Path) -> None:
    """Returns once there are signals, and no new ones came for a while."""
    before, now = -1, 0
    while before != now or not now:
        time.sleep(0.5)
        before, now = now, len(ids_in(home))


@pytest.mark.slow
def test_sigterm_ends_a_pipe_whose_answers_have_no_reader(home: Path) -> None:
    with pipe(home) as p:
        feeding = feed(p, 100_000)
        wait_until_it_is_stuck(home)
        p.send(signal.SIGTERM)
        p.send(signal.SIGTERM)
        code = p.wait(2 * EXIT_S)
        answers = p.read_all_answers()
    feeding.join()
    assert code in (0, 3)
    assert "Traceback" not in p.err
    assert_receipts_kept(home, answers)


@pytest.mark.slow
def test_sigterm_ends_a_pipe_while_another_process_holds_the_lock(home: Path) -> None:
    eventlog("append", home=home, stdin=jsonl([a_signal(1)]))
    with (home / "logs/.lock").open("rb") as lock, pipe(home) as p:
        p.send_items(a_signal(1))
        assert p.read_answers()[0]["duplicate"]  # it runs, and knows what SIGTERM is to do
        fcntl.flock(lock, fcntl.LOCK_EX)
        p.send_items(a_signal(2))
        assert p.is_silent(for_s=0.5)
        p.send(signal.SIGTERM)
        answers = p.read_all_answers()
        assert p.wait(2 * EXIT_S) == 3
    assert len(answers) == 1 and "lock" in answers[0]["error"]
    assert "Traceback" not in p.err
    assert ids_in(home) == ["s-1"]


# -- streams that are closed (P3)


@pytest.mark.parametrize("under", [NO_STDIN, NO_STDOUT, NO_STREAMS], ids=["0", "1", "0 1 2"])
@pytest.mark.parametrize(
    "words", [("append",), ("cat",), ("tail",), ("verify",), ("--help",), ("--version",)]
)
def test_a_stream_closed_from_the_start_is_harmless(
    home: Path, under: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with EventLog(home) as log:
        log.append_many(signals(3))
    (home / "data").rmdir()  # where `verify` notes that the log was whole
    before = tree_contents(home)
    done = eventlog(*words, home=home, under=under)
    assert "Traceback" not in done.err
    assert done.code in (0, 3)
    assert tree_contents(home) == before


def test_with_stdout_closed_from_the_start_signals_still_go_into_the_log(home: Path) -> None:
    """And nothing else does: the first file that is opened would become our stdout."""
    for number in (1, 2):
        eventlog("append", home=home, stdin=jsonl([a_signal(number)]), under=NO_STDOUT)
    assert ids_in(home) == ["s-1", "s-2"]
    assert_valid_log(home)
    for path in (home / "logs").iterdir():
        if path.suffix != ".jsonl":
            assert b'"seq"' not in path.read_bytes() or path.is_symlink()


def test_a_closed_reader_of_the_answers_ends_the_pipe_quietly(home: Path) -> None:
    with pipe(home) as p:
        p.send_items(a_signal(1))
        answers = p.read_answers()
        p.close_stdout()
        with suppress(BrokenPipeError):
            for number in range(2, 10_000):
                p.send_items(a_signal(number))
        assert p.wait() == 3
    assert "Traceback" not in p.err and "Exception" not in p.err
    assert_receipts_kept(home, answers)


@pytest.mark.parametrize(
    "words", [("cat",), ("tail", "-n", "3000"), ("tail", "-n", "3000", "--json")]
)
def test_a_reader_that_closes_the_pipe_stops_the_command_quietly(
    home: Path, words: tuple[str, ...]
) -> None:
    eventlog("append", home=home, stdin=jsonl(signals(3000)))
    script = '"$0" --home "$@" | head -n 1; exit "${PIPESTATUS[0]}"'
    command = ["bash", "-c", script, str(COMMAND), str(home), *words]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    "words",
    [
        *(("append",), ("cat",), ("tail",), ("tail", "--json"), ("verify",), ("verify", "--json")),
        *(("--help",), ("append", "--help"), ("--version",)),
    ],
    ids=" ".join,
)
def test_an_unwritable_output_is_reported_without_a_traceback(
    home: Path, words: tuple[str, ...]
) -> None:
    with EventLog(home) as log:
        log.append_many(signals(3))
    with open("/dev/full", "wb") as full:
        done = eventlog(*words, home=home, stdin=jsonl([a_signal(4)]), stdout=full.fileno())
    assert done.code == 3
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err and "Exception" not in done.err
    assert_valid_log(home)


def test_unwritable_messages_change_neither_answers_nor_exit_code(home: Path) -> None:
    lines = jsonl([a_signal(1), a_signal(2, action="HOLD"), a_signal(3)])
    under = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    done = eventlog("append", "--skip-invalid", home=home, stdin=lines, under=under)
    assert (done.code, [a.get("seq") for a in done.answers]) == (1, [1, None, 2])
    assert eventlog("cat", home=home / "nowhere", under=under).code == 3


# -- killed


@pytest.mark.slow
def test_after_a_kill_at_any_moment_every_printed_receipt_is_in_the_log(home: Path) -> None:
    dice = random.Random(2)
    receipts: list[dict[str, Any]] = []
    for round_ in range(12):
        with pipe(home, "--segment-bytes", 20_000) as p:

            def send_items(p: Pipe = p, start: int = 1000 * round_) -> None:
                with suppress(BrokenPipeError):
                    # Some of the round before are sent again: their fate is unknown.
                    for signal in signals(1500, start=max(0, start - 300)):
                        p.send_items(signal)

            talking = threading.Thread(target=send_items)
            talking.start()
            receipts += p.read_answers(dice.choice((1, 5, 50, 400)))
            p.send(signal.SIGKILL)
            receipts += p.read_all_answers()
            p.wait()
            talking.join()
        assert_receipts_kept(home, receipts)
    done = eventlog("append", home=home, stdin=jsonl([a_signal(10**6)]))
    assert done.code == 0
    assert_receipts_kept(home, [*receipts, *done.answers])
    assert len(receipts) > 100
