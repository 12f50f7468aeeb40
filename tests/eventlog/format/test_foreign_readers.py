"""Readers that are not ours: shell, jq, sha256sum, sqlite3; and a log of the first format.

With the files and the page that describes them, every line can be checked for ever.
"""

import hashlib
import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog
from tests.harness.log_checks import (
    assert_valid_log,
    entries_in,
    lines_in,
    segments_in,
    tree_contents,
)
from tests.harness.requirements import CHECKOUT, needs_tool
from tests.harness.signals import a_signal, closed, signals

GOLDEN = CHECKOUT / "tests/data/golden/v1"
GOLDEN_SHA256 = {  # the files are never fixed: each byte stays as it was written
    1: "09ccd20bf7434485b4434f95cc65abb1a12aa1d3b0a1c43470e5dc1082cc20ba",
    6: "98e7ce359d853d27754d50233555d4162c334c3b1d54d3663498546ab97b443d",
    13: "f49bbef6a619a2cd9ba91a16559a87275a86b2f17a1be180836f0aefb2c2a921",
}
GOLDEN_HEAD = "60342183d93fe273849eb614c795a817295ab843170c216ebb4c875edf49fe3d"

SHELL_READER = r"""
cd "$1/logs" || exit 2
prev=$(printf '%064d' 0)
seq=0
for segment in *.jsonl; do
    [ "$segment" = "$(printf '%020d' $((seq + 1))).jsonl" ] || exit 3
    while IFS= read -r line; do
        seq=$((seq + 1))
        [ "$(printf '%s' "$line" | jq .seq)" = "$seq" ] || exit 4
        body=${line%,\"chain\":*}
        chain=$(printf '%s' "$line" | jq -r .chain)
        computed=$(printf '%s' "$prev$body" | sha256sum | cut -d ' ' -f 1)
        [ "$chain" = "$computed" ] || { echo "entry $seq does not match its chain"; exit 1; }
        prev=$chain
    done <"$segment"
done
echo "$seq $prev"
"""

SQL_READER = """
.mode list
CREATE TABLE lines (line TEXT);
.mode ascii
.separator "\\037" "\\n"
.import {file} lines
.mode list
SELECT count(*),
    sum(json_extract(line, '$.seq') = rowid),
    sum(json_extract(line, '$.batch') <= rowid),
    sum(json_extract(line, '$.v') = 1),
    count(DISTINCT json_extract(line, '$.chain')),
    sum(json_extract(line, '$.event') = 'signal'),
    group_concat(json_extract(line, '$.entry_price'))
FROM lines;
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A log with several segments, batches and kinds of entries."""
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=2000) as log:
        for number in range(1, 8):
            log.append(a_signal(number, strategy='Trägheit "✓" \\ 漢字', note="two\nlines\t\u007f"))
        log.append_many([closed(1), *signals(3, start=8), {"event": "tick", "at": [1, {"a": "b"}]}])
        log.append(closed(2, outcome="loss"))
    assert len(segments_in(home)) >= 3
    return home


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the golden log: reading must not need more than the files."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden", symlinks=True))


def read_by_shell(home: Path) -> subprocess.CompletedProcess[str]:
    needs_tool("jq", apt="jq")
    words = ["sh", "-c", SHELL_READER, "sh", str(home)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_a_reader_of_a_few_lines_of_shell_checks_the_whole_chain(home: Path) -> None:
    done = read_by_shell(home)
    last = entries_in(home)[-1]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{last['seq']} {last['chain']}\n"


def test_that_reader_finds_a_changed_digit(home: Path) -> None:
    segment = segments_in(home)[1]
    segment.write_bytes(segment.read_bytes().replace(b"85.5", b"95.5", 1))
    done = read_by_shell(home)
    assert done.returncode == 1
    assert f"entry {int(segment.stem)} does not match" in done.stdout


def test_the_sqlite3_shell_reads_every_line_as_json(home: Path, tmp_path: Path) -> None:
    sqlite3 = needs_tool("sqlite3", apt="sqlite3")
    lines = tmp_path / "all.jsonl"
    lines.write_bytes(b"".join(lines_in(home)))
    script = SQL_READER.format(file=lines)
    done = subprocess.run([sqlite3], input=script, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    *counts, prices = done.stdout.strip().split("|")
    entries = entries_in(home)
    assert [int(count) for count in counts] == [len(entries)] * 5 + [10]
    assert prices == ",".join(f"{150.0 + n}" for n in range(1, 11))


def test_jq_finds_each_field_at_the_path_of_the_contract(home: Path) -> None:
    jq = needs_tool("jq", apt="jq")
    words = [jq, "-r", 'select(.event == "signal") | .symbol', *map(str, segments_in(home))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == 10 * ["AAPL"]
    link = subprocess.run(
        [jq, ".seq", str(home / "logs/signals.log")], capture_output=True, text=True, check=True
    )
    first_active = int(segments_in(home)[-1].stem)
    assert link.stdout.split() == [str(n) for n in range(first_active, len(entries_in(home)) + 1)]


# -- the first format


def given() -> list[dict[str, Any]]:
    """What the golden log was made of."""
    return [json.loads(line) for line in (GOLDEN / "given.jsonl").read_text().splitlines()]


def test_the_golden_log_is_as_it_was_written() -> None:
    found = {
        int(path.stem): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in segments_in(GOLDEN)
    }
    assert found == GOLDEN_SHA256
    assert assert_valid_log(GOLDEN)[-1]["chain"] == GOLDEN_HEAD


def test_a_log_of_the_first_format_stays_readable(golden: Path) -> None:
    before = tree_contents(golden)
    with EventLog(golden) as log:
        entries = list(log.read())
        assert log.last_seq == len(entries) == 13
    for entry, line in zip(entries, lines_in(GOLDEN), strict=True):
        fields = json.loads(line)
        assert fields.pop("v") == 1
        keys = ("seq", "batch", "recorded_at", "event", "chain")
        assert [*list(entry)[:4], entry.chain] == [fields.pop(key) for key in keys]
        assert entry.payload == fields
    assert eventlog("cat", home=golden).out == b"".join(lines_in(GOLDEN))
    assert len(eventlog("tail", "-n", "99", home=golden).out.splitlines()) == 13
    assert tree_contents(golden) == before


def test_a_log_of_the_first_format_stays_verifiable(golden: Path) -> None:
    done = eventlog("verify", "--json", home=golden)
    assert done.code == 0
    report = done.answers[0]
    assert (report["ok"], report["entries"], report["segments"]) == (True, 13, 3)
    assert report["chain"] == GOLDEN_HEAD
    assert read_by_shell(golden).stdout == f"13 {GOLDEN_HEAD}\n"


def test_a_log_of_the_first_format_accepts_appends(golden: Path) -> None:
    before = lines_in(golden)
    with EventLog(golden) as log:
        again = [log.append(item) for item in given() if "signal_id" in item]
        assert log.append(a_signal(1)).seq == 14
    stored = [json.loads(line) for line in before]
    stored = [entry for entry in stored if "signal_id" in entry]
    assert all(receipt.duplicate for receipt in again)
    assert [(r.seq, r.chain, r.sha256) for r in again] == [
        (entry["seq"], entry["chain"], entry.get("sha256")) for entry in stored
    ]
    assert lines_in(golden)[:13] == before
    assert_valid_log(golden)


def test_the_golden_log_needs_no_lock_of_another_machine(golden: Path) -> None:
    names = {path.name for path in (GOLDEN / "logs").iterdir() if path.suffix != ".jsonl"}
    assert names == {".durable", "signals.log"}
    for path in (golden / "logs").rglob("*"):
        if not path.is_symlink():
            path.chmod(stat.S_IRUSR)
    assert eventlog("verify", home=golden).code == 0
