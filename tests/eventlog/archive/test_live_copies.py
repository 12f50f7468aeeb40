"""Copies of a home that others write: what they show, and what the documentation advises (C3)."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog, pipe
from tests.harness.deadline import DEADLINE_S
from tests.harness.log_checks import lines_in
from tests.harness.loop_disk import LoopDisk
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import signals

PIPES = 4
COPIES = 6
SEGMENT_BYTES = 20_000
MAYBE_A_COPY = "or a copy taken while writing"
# Both exit with 1 where a name was replaced while they copied, as the link signals.log is.
COPYING = {
    "cp": 'cp -r "$1" "$2" || test $? = 1',
    "tar": 'mkdir "$2" && { tar -C "$1" -c . || test $? = 1; } | tar -C "$2" -x',
}


@contextmanager
def four_writers(home: Path) -> Iterator[None]:
    """Four pipes that append as fast as they are answered."""
    stop = threading.Event()

    def write(number: int) -> None:
        with pipe(home, "--segment-bytes", SEGMENT_BYTES) as p:
            start = 1_000_000 * number
            while not stop.is_set():
                start += 20
                with suppress(BrokenPipeError):
                    p.send_items(*signals(20, start=start))
                p.read_answers(20)
                time.sleep(0.002)
            p.close_stdin()
            p.wait()

    with ExitStack() as stack:
        for number in range(1, PIPES + 1):
            thread = threading.Thread(target=write, args=(number,))
            thread.start()
            stack.callback(thread.join, DEADLINE_S)
        stack.callback(stop.set)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("copying", COPYING.values(), ids=COPYING.keys())
def test_a_copy_taken_while_four_pipes_write_is_read_to_a_consistent_point(
    tmp_path: Path, copying: str
) -> None:
    """It verifies; where its watermark is newer than its segment, the finding says what it may be.

    A copy with a segment that was started meanwhile, and without the end of the one before, is
    such a copy too.
    """
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(50))
    copies = [tmp_path / f"copy-{number}" for number in range(COPIES)]
    with four_writers(home):
        for copy in copies:
            time.sleep(0.3)
            subprocess.run(["bash", "-ec", copying, "bash", home, copy], check=True)
    whole = lines_in(home)
    readable = 0
    for copy in copies:
        done = eventlog("verify", "--json", home=copy)
        (report,) = done.answers
        out = eventlog("cat", home=copy).out.splitlines(keepends=True)
        assert out == whole[: len(out)]
        assert len(out) >= 50
        if done.code == 0:
            readable += 1
            assert len(out) == report["last_seq"]
        else:
            texts = " ".join(finding["problem"] for finding in report["findings"])
            assert MAYBE_A_COPY in texts, report
    assert readable >= COPIES // 2, "most of them are readable"


@pytest.mark.parametrize("words", [("verify",), ("cat",)], ids=" ".join)
def test_a_watermark_newer_than_its_segment_is_reported_as_loss_or_such_a_copy(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
        (segment,) = (home / "logs").glob("*.jsonl")
        old = segment.read_bytes()
        log.append_many(signals(3, start=4))
    segment.write_bytes(old)
    (home / "logs/.lock").unlink()
    done = eventlog(*words, home=home)
    assert done.code == (1 if words == ("verify",) else 3)
    assert MAYBE_A_COPY in done.out.decode() + done.err


def test_real_damage_is_not_called_a_copy(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    (segment,) = (home / "logs").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"AAPL"', b'"AAPX"', 1))
    done = eventlog("verify", home=home)
    assert done.code == 1
    assert MAYBE_A_COPY not in done.out.decode() + done.err


# -- the documentation


def code_blocks() -> Iterator[tuple[str, str]]:
    """Name of the page and text of each block of shell commands."""
    for page in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))):
        for block in re.findall(
            r"^```(?:sh|bash|console|shell)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            yield page.name, block


def test_no_documented_recipe_removes_a_segment_before_its_copy_is_synced() -> None:
    for name, block in code_blocks():
        commands = re.split(r"&&|\n|;", block)
        removing = [
            index
            for index, command in enumerate(commands)
            if re.match(r"\s*(\$ )?(rm|mv)\b", command) and ".jsonl" in command
        ]
        for index in removing:
            assert any("sync" in command for command in commands[:index]), f"{name}: {block}"
    text = "".join(page.read_text() for page in (CHECKOUT / "docs").glob("*.md"))
    for sentence in re.findall(r"[^.]*\bby hand\b[^.]*\.", text):
        if "segment" in sentence and "closed" in sentence:
            assert "sync" in sentence, sentence


def test_the_documentation_names_backup_as_the_way_to_copy_a_live_home() -> None:
    text = (CHECKOUT / "docs/service.md").read_text()
    found = [
        part for part in text.split("\n#") if re.search(r"copy\w* .*(live|running|written)", part)
    ]
    assert any("eventlog" in part and "backup" in part and "tar" in part for part in found)


@pytest.mark.slow
def test_a_segment_moved_to_closed_as_documented_survives_a_power_loss(tmp_path: Path) -> None:
    """The documented commands, on a disk that loses its power right after them."""
    (block,) = (block for _, block in code_blocks() if "home/logs/$SEGMENT" in block)
    assert "rm home/logs/$SEGMENT" in block
    with EventLog(tmp_path / "home", segment_bytes=1) as log:
        for signal in signals(3):
            log.append(signal)
    lines = b"".join(lines_in(tmp_path / "home"))
    disk = LoopDisk.make(tmp_path)
    block = block.replace("/archive/closed", '"$disk/archive"')
    done = disk.run(
        f"""
        cp -r "$1" "$disk/home"
        mkdir "$disk/archive"
        ln -s "$disk/archive" "$disk/home/logs/closed"
        sync
        cd "$disk"
        {block}
        touch "$disk/other"
        sync "$disk/other"  # of another program: names become durable, which bytes need not be
        power_fails
        """,
        tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr.decode()
    done = disk.after_power_loss().run('"$eventlog" --home "$disk/home" cat')
    assert (done.returncode, done.stdout) == (0, lines), done.stderr.decode()
