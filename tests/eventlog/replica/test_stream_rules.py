"""The rules of a stream: what is created meets them, and each broken one is named."""

from typing import Any

import pytest

from eventlog import EventLogError
from eventlog.plumbing import StreamSettings
from eventlog.replica.stream_rules import broken_rules, replicas_of, stream_config, sync_rule

SETTINGS = StreamSettings(name="main", urls=("nats://user:secret@127.0.0.1:4222",))

BROKEN: list[tuple[dict[str, object], str]] = [
    ({"retention": "workqueue"}, "retention is workqueue and must be limits"),
    ({"storage": "memory"}, "storage is memory and must be file"),
    ({"max_msgs": 1_000_000}, "max_msgs is 1000000 and must be -1"),
    ({"max_bytes": 1 << 40}, "max_bytes is 1099511627776 and must be -1"),
    ({"max_age": 1}, "max_age is 1 and must be 0"),
    ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5 and must be -1"),
    ({"discard": "old"}, "discard is old and must be new"),
    ({"deny_delete": False}, "deny_delete is false and must be true"),
    ({"deny_purge": False}, "deny_purge is false and must be true"),
    ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is true and must be false"),
    ({"allow_msg_ttl": True}, "allow_msg_ttl is true and must be false"),
    ({"compression": "s2"}, "compression is s2 and must be none"),
    ({"allow_atomic": False}, "allow_atomic is false and must be true"),
    ({"subjects": ["eventlog.>"]}, "its subjects must be eventlog.main.line alone"),
    ({"mirror": {"name": "OTHER"}}, "mirror is set"),
    ({"sources": [{"name": "OTHER"}]}, "sources is set"),
    ({"subject_transform": {"src": ">", "dest": "x"}}, "subject_transform is set"),
    ({"max_msg_size": 65_535}, "max_msg_size is 65535 and must be 67584"),
    ({"num_replicas": 1}, "num_replicas is 1 and must be at least 3"),
    ({"num_replicas": 2}, "num_replicas is 2 and must be at least 3"),
]


@pytest.mark.parametrize("replicas", [1, 3, 5])
def test_a_created_stream_meets_the_rules(replicas: int) -> None:
    assert broken_rules(stream_config(SETTINGS, replicas=replicas), SETTINGS) == []


@pytest.mark.parametrize(("change", "named"), BROKEN, ids=[named for _, named in BROKEN])
def test_each_broken_rule_is_named(change: dict[str, object], named: str) -> None:
    (rule,) = broken_rules(stream_config(SETTINGS, replicas=3) | change, SETTINGS)
    assert rule.startswith(named)


@pytest.mark.parametrize("key", ["deny_delete", "deny_purge", "discard", "retention", "max_msgs"])
def test_a_setting_that_the_server_leaves_out_is_not_taken_as_safe(key: str) -> None:
    config = stream_config(SETTINGS, replicas=3)
    del config[key]
    (rule,) = broken_rules(config, SETTINGS)
    assert rule.startswith(key)


def test_a_stream_that_was_created_for_one_server_stays_one_however_many_are_added() -> None:
    raised = {"num_replicas": 3}
    found = [replicas_of(stream_config(SETTINGS, replicas=count)) for count in (1, 2, 3, 5)]
    assert found == [1, 2, 3, 5]
    assert replicas_of(stream_config(SETTINGS, replicas=2) | raised) == 1
    assert broken_rules(stream_config(SETTINGS, replicas=1) | raised, SETTINGS) == []


def test_a_single_server_is_allowed_only_where_the_stream_was_created_so() -> None:
    single = stream_config(SETTINGS, replicas=1)
    assert broken_rules(single, SETTINGS) == []
    assert broken_rules(single | {"metadata": {}}, SETTINGS) != []


@pytest.mark.parametrize(
    "monitored",
    [
        {"jetstream": {"config": {"sync_interval": 120_000_000_000}}},
        {"jetstream": {"config": {"sync_always": False}}},
        {"jetstream": {}},
        {},
    ],
)
def test_a_server_that_does_not_sync_each_message_is_named(monitored: dict[str, Any]) -> None:
    assert sync_rule({"jetstream": {"config": {"sync_always": True}}}) is None
    rule = sync_rule({"server_name": "n2", **monitored})
    assert rule is not None
    assert rule.startswith("sync_interval of server n2 must be always")


@pytest.mark.parametrize("name", ["", "Main", "a.b", "a" * 33, "a b", "ä", "main\n"])
def test_a_name_that_no_subject_may_hold_is_refused(name: str) -> None:
    with pytest.raises(EventLogError, match="EVENTLOG_STREAM"):
        StreamSettings(name=name, urls=("nats://127.0.0.1",))


def test_a_message_shows_no_password_of_a_url() -> None:
    assert SETTINGS.where == "EVENTLOG_main at 127.0.0.1:4222"
