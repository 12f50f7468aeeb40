"""Names for authors of projections, plug-in commands and tools.

Verified bulk reading, log status, work in threads and processes, plug-ins, progress bars and
printable text. Each name is imported when it is first used (PEP 562).

Invariant: other packages import from `eventlog` and from this module only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.append.batch import ALL, EACH
    from eventlog.archive.restore import read_backup_end
    from eventlog.cli.command import (
        EXIT_COULD_NOT_RUN,
        EXIT_PROBLEM,
        JSON_OPTION,
        SECONDS,
        CommandContext,
        WrongUsage,
        unquote,
    )
    from eventlog.cli.pipe import append_each_line
    from eventlog.cli.progress import progress_bar
    from eventlog.cli.stream_environment import stream_settings
    from eventlog.cli.streams import (
        bad_news,
        print_line,
        print_lines,
        print_message,
        print_note,
        print_problem,
    )
    from eventlog.errors import printable, printable_value
    from eventlog.figures import (
        bytes_text,
        count_text,
        decimal_text,
        duration_text,
        figure_text,
        price_text,
        time_text,
    )
    from eventlog.format.line import BadLine, decode
    from eventlog.plugins import COMMANDS, PROJECTIONS, import_plugin, load_plugin, plugin_names
    from eventlog.processes import can_fork, end_process, fork_process
    from eventlog.read.bulk import VerifiedChunk, log_bytes, read_verified
    from eventlog.read.columns import SignalColumns
    from eventlog.read.inspect import (
        fence_state,
        log_status,
        raw_lines,
        read_entries,
        replica_state,
        require_home,
        segment_starts,
    )
    from eventlog.read.watch import LogWatch
    from eventlog.replica.append_wire import (
        POLICIES,
        POLICY_HEADER,
        QUEUE,
        REQUEST_ITEMS_MAX,
        Reply,
        append_subject,
        encode_reply,
    )
    from eventlog.replica.engine import (
        StreamEnd,
        StreamEngine,
        StreamForeign,
        StreamLine,
        StreamShort,
        StreamUnavailable,
        StreamUnfit,
        WrongLastSequence,
    )
    from eventlog.replica.follower import Follower
    from eventlog.replica.fork import (
        Fork,
        end_fence,
        fence_home,
        find_fork,
        own_chain,
        state_of_log,
    )
    from eventlog.replica.mirror_record import (
        ACKED_NAME,
        FENCED,
        MIRROR,
        MIRROR_STATES,
        MIRRORING,
        RECORD_NAME,
        SHORT,
        UNFIT,
        WAITING,
        MirrorRecord,
        read_mirror_record,
    )
    from eventlog.replica.monitors import read_monitors
    from eventlog.replica.nats_connection import Message, NatsConnection, Subscription
    from eventlog.replica.opening import (
        create_stream,
        open_append_connection,
        open_stream,
        require_client,
    )
    from eventlog.replica.promote import Overtaken, Promoted, promote
    from eventlog.replica.rejoin import aside_paths, cut_log
    from eventlog.replica.replica_log import ReplicaLog
    from eventlog.replica.replicated import is_replicated, replication_obstacles
    from eventlog.replica.stream_rules import REPLICAS_MAX, REPLICAS_MIN, StreamSettings, sync_rule
    from eventlog.schema.fields import FIELD_LIMITS
    from eventlog.schema.json_input import parse_json_line
    from eventlog.storage.atomic import free_name, rename_durably
    from eventlog.storage.directory import Directory
    from eventlog.storage.disk import Disk, write_all
    from eventlog.storage.fence_file import FenceState
    from eventlog.storage.filesystem import filesystem_type, is_network_filesystem
    from eventlog.storage.home import database_uri
    from eventlog.storage.locks import FileLock, PollInterval
    from eventlog.storage.output import output_file, refuse_in_home
    from eventlog.storage.ownership import adopt_owner, make_private_dir
    from eventlog.storage.record import read_record, write_record
    from eventlog.storage.replica_file import ReplicaState
    from eventlog.threads import is_shortage, run_in_thread, starting_thread, uncancelled
    from eventlog.verify.verify_record import last_verify

_MODULES = {
    "ACKED_NAME": "replica.mirror_record",
    "FENCED": "replica.mirror_record",
    "MIRROR": "replica.mirror_record",
    "MIRRORING": "replica.mirror_record",
    "RECORD_NAME": "replica.mirror_record",
    "SECONDS": "cli.command",
    "SHORT": "replica.mirror_record",
    "MIRROR_STATES": "replica.mirror_record",
    "UNFIT": "replica.mirror_record",
    "WAITING": "replica.mirror_record",
    "MirrorRecord": "replica.mirror_record",
    "read_mirror_record": "replica.mirror_record",
    "is_replicated": "replica.replicated",
    "replication_obstacles": "replica.replicated",
    "BadLine": "format.line",
    "COMMANDS": "plugins",
    "CommandContext": "cli.command",
    "Directory": "storage.directory",
    "Disk": "storage.disk",
    "EXIT_COULD_NOT_RUN": "cli.command",
    "EXIT_PROBLEM": "cli.command",
    "JSON_OPTION": "cli.command",
    "FenceState": "storage.fence_file",
    "FIELD_LIMITS": "schema.fields",
    "FileLock": "storage.locks",
    "Follower": "replica.follower",
    "Fork": "replica.fork",
    "LogWatch": "read.watch",
    "Overtaken": "replica.promote",
    "PollInterval": "storage.locks",
    "PROJECTIONS": "plugins",
    "Promoted": "replica.promote",
    "REPLICAS_MAX": "replica.stream_rules",
    "REPLICAS_MIN": "replica.stream_rules",
    "ReplicaLog": "replica.replica_log",
    "ReplicaState": "storage.replica_file",
    "SignalColumns": "read.columns",
    "StreamEnd": "replica.engine",
    "StreamEngine": "replica.engine",
    "StreamForeign": "replica.engine",
    "StreamLine": "replica.engine",
    "StreamShort": "replica.engine",
    "StreamUnavailable": "replica.engine",
    "StreamUnfit": "replica.engine",
    "StreamSettings": "replica.stream_rules",
    "VerifiedChunk": "read.bulk",
    "WrongLastSequence": "replica.engine",
    "WrongUsage": "cli.command",
    "adopt_owner": "storage.ownership",
    "aside_paths": "replica.rejoin",
    "bad_news": "cli.streams",
    "bytes_text": "figures",
    "can_fork": "processes",
    "count_text": "figures",
    "create_stream": "replica.opening",
    "decimal_text": "figures",
    "duration_text": "figures",
    "end_fence": "replica.fork",
    "end_process": "processes",
    "find_fork": "replica.fork",
    "fork_process": "processes",
    "free_name": "storage.atomic",
    "rename_durably": "storage.atomic",
    "cut_log": "replica.rejoin",
    "database_uri": "storage.home",
    "decode": "format.line",
    "fence_home": "replica.fork",
    "fence_state": "read.inspect",
    "figure_text": "figures",
    "filesystem_type": "storage.filesystem",
    "import_plugin": "plugins",
    "is_network_filesystem": "storage.filesystem",
    "is_shortage": "threads",
    "last_verify": "verify.verify_record",
    "load_plugin": "plugins",
    "log_bytes": "read.bulk",
    "log_status": "read.inspect",
    "make_private_dir": "storage.ownership",
    "open_stream": "replica.opening",
    "output_file": "storage.output",
    "own_chain": "replica.fork",
    "plugin_names": "plugins",
    "price_text": "figures",
    "print_line": "cli.streams",
    "print_lines": "cli.streams",
    "print_message": "cli.streams",
    "print_note": "cli.streams",
    "print_problem": "cli.streams",
    "printable": "errors",
    "printable_value": "errors",
    "progress_bar": "cli.progress",
    "promote": "replica.promote",
    "raw_lines": "read.inspect",
    "read_backup_end": "archive.restore",
    "read_entries": "read.inspect",
    "read_record": "storage.record",
    "read_verified": "read.bulk",
    "refuse_in_home": "storage.output",
    "replica_state": "read.inspect",
    "require_client": "replica.opening",
    "require_home": "read.inspect",
    "run_in_thread": "threads",
    "segment_starts": "read.inspect",
    "starting_thread": "threads",
    "state_of_log": "replica.fork",
    "time_text": "figures",
    "uncancelled": "threads",
    "unquote": "cli.command",
    "write_all": "storage.disk",
    "write_record": "storage.record",
    "POLICIES": "replica.append_wire",
    "POLICY_HEADER": "replica.append_wire",
    "QUEUE": "replica.append_wire",
    "REQUEST_ITEMS_MAX": "replica.append_wire",
    "Reply": "replica.append_wire",
    "append_subject": "replica.append_wire",
    "encode_reply": "replica.append_wire",
    "append_each_line": "cli.pipe",
    "stream_settings": "cli.stream_environment",
    "Message": "replica.nats_connection",
    "NatsConnection": "replica.nats_connection",
    "open_append_connection": "replica.opening",
    "parse_json_line": "schema.json_input",
    "ALL": "append.batch",
    "EACH": "append.batch",
    "Subscription": "replica.nats_connection",
    "read_monitors": "replica.monitors",
    "sync_rule": "replica.stream_rules",
}

__all__ = [
    "ACKED_NAME",
    "ALL",
    "COMMANDS",
    "EACH",
    "EXIT_COULD_NOT_RUN",
    "EXIT_PROBLEM",
    "FENCED",
    "FIELD_LIMITS",
    "JSON_OPTION",
    "MIRROR",
    "MIRRORING",
    "MIRROR_STATES",
    "POLICIES",
    "POLICY_HEADER",
    "PROJECTIONS",
    "QUEUE",
    "RECORD_NAME",
    "REPLICAS_MAX",
    "REPLICAS_MIN",
    "REQUEST_ITEMS_MAX",
    "SECONDS",
    "SHORT",
    "UNFIT",
    "WAITING",
    "BadLine",
    "CommandContext",
    "Directory",
    "Disk",
    "FenceState",
    "FileLock",
    "Follower",
    "Fork",
    "LogWatch",
    "Message",
    "MirrorRecord",
    "NatsConnection",
    "Overtaken",
    "PollInterval",
    "Promoted",
    "ReplicaLog",
    "ReplicaState",
    "Reply",
    "SignalColumns",
    "StreamEnd",
    "StreamEngine",
    "StreamForeign",
    "StreamLine",
    "StreamSettings",
    "StreamShort",
    "StreamUnavailable",
    "StreamUnfit",
    "Subscription",
    "VerifiedChunk",
    "WrongLastSequence",
    "WrongUsage",
    "adopt_owner",
    "append_each_line",
    "append_subject",
    "aside_paths",
    "bad_news",
    "bytes_text",
    "can_fork",
    "count_text",
    "create_stream",
    "cut_log",
    "database_uri",
    "decimal_text",
    "decode",
    "duration_text",
    "encode_reply",
    "end_fence",
    "end_process",
    "fence_home",
    "fence_state",
    "figure_text",
    "filesystem_type",
    "find_fork",
    "fork_process",
    "free_name",
    "import_plugin",
    "is_network_filesystem",
    "is_replicated",
    "is_shortage",
    "last_verify",
    "load_plugin",
    "log_bytes",
    "log_status",
    "make_private_dir",
    "open_append_connection",
    "open_stream",
    "output_file",
    "own_chain",
    "parse_json_line",
    "plugin_names",
    "price_text",
    "print_line",
    "print_lines",
    "print_message",
    "print_note",
    "print_problem",
    "printable",
    "printable_value",
    "progress_bar",
    "promote",
    "raw_lines",
    "read_backup_end",
    "read_entries",
    "read_mirror_record",
    "read_monitors",
    "read_record",
    "read_verified",
    "refuse_in_home",
    "rename_durably",
    "replica_state",
    "replication_obstacles",
    "require_client",
    "require_home",
    "run_in_thread",
    "segment_starts",
    "starting_thread",
    "state_of_log",
    "stream_settings",
    "sync_rule",
    "time_text",
    "uncancelled",
    "unquote",
    "write_all",
    "write_record",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"eventlog.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
