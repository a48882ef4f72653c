"""The listening socket, and why it cannot be had."""

import socket

import pytest

from gizmopy.errors import StartError
from gizmopy.server.listening import bind


def test_port_0_takes_a_free_one() -> None:
    """A port of 0 gives a socket on some free port of the address asked for, and no other."""
    with bind("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()

    assert host == "127.0.0.1"
    assert port > 0


def test_a_taken_port_is_named() -> None:
    """The error says which setting, which address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError) as raised:
            bind("127.0.0.1", port)

    assert str(raised.value) == (
        f"HTTP_PORT={port}: 127.0.0.1:{port} is taken by another process; stop it, or choose "
        "another port (0 takes a free one)"
    )


def test_a_foreign_address_is_named() -> None:
    """An address of another machine cannot be listened on."""
    with pytest.raises(StartError, match=r"192\.0\.2\.1 is no address of this machine"):
        bind("192.0.2.1", 0)


def test_an_address_that_is_none_is_named() -> None:
    """A typo in HTTP_ADDR is an error of HTTP_ADDR."""
    with pytest.raises(StartError, match=r"^HTTP_ADDR=no such host: "):
        bind("no such host", 0)
