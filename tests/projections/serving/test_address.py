"""Addresses to listen on, and the Host headers that are answered there."""

import socket

import pytest

from projections.serving.address import (
    Address,
    host_names,
    is_allowed_host,
    is_host_name,
    parse_address,
)

NAMES = host_names(Address("127.0.0.1", 9464), ["Metrics.example.com."])


def test_an_address_is_a_host_and_a_port() -> None:
    assert parse_address("127.0.0.1:9464") == Address("127.0.0.1", 9464)
    assert parse_address("localhost:0") == Address("localhost", 0)
    assert parse_address("[::1]:9464") == Address("::1", 9464)
    assert str(parse_address("[::1]:9464")) == "[::1]:9464"


@pytest.mark.parametrize(
    "text",
    [
        *("", "9464", ":9464", "host:", "host:x", "host:-1", "host:65536", "host:1e3", "::1:9464"),
        *("[::1:1", "[x]:1", "http://x:1", "a b:1", "a\x1bb:1", "host:\uff19"),
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    "header",
    [
        *("localhost", "LOCALHOST:9464", "localhost.:9464", "127.0.0.1:9464", "192.0.2.7"),
        *("[::1]:9464", "[2001:db8::1]", "metrics.example.com:9464", "metrics.example.com."),
        socket.gethostname(),
    ],
)
def test_a_known_name_or_an_ip_address_is_allowed(header: str) -> None:
    assert is_allowed_host(header, NAMES)


@pytest.mark.parametrize(
    "header",
    [
        *("", ":9464", "evil.example.com", "localhost.evil.example.com", "example.com"),
        *("127.0.0.1.evil.example.com", "127.0.0.1:9464x", "127.0.0.1:9464:9464", "[::1"),
        *("[::1]x", "[evil]", "metrics.example.com@evil", "localhost:\uff19", "local host"),
    ],
)
def test_any_other_host_header_is_refused(header: str) -> None:
    assert not is_allowed_host(header, NAMES)


@pytest.mark.parametrize(
    "name", ["localhost", "log.example.com", "a_b.", "192.0.2.1", "2001:db8::1"]
)
def test_names_and_addresses_are_host_names(name: str) -> None:
    assert is_host_name(name)
