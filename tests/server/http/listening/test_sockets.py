"""The listening socket, and the errors of binding it."""

import asyncio
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import uvloop
from aiohttp import ClientSession, UnixConnector, web

from gizmopy.errors import StartError
from gizmopy.server.http.listening import sockets
from gizmopy.server.http.listening.sockets import bind, bind_all, is_loopback, url_of


def test_port_0_takes_a_free_one() -> None:
    """It binds a free port of the given address only."""
    with bind("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()

    assert host == "127.0.0.1"
    assert port > 0


def test_a_taken_port_is_named() -> None:
    """The error has the setting, the address, and a remedy."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError) as raised:
            bind("127.0.0.1", port)

    assert str(raised.value) == (
        f"HTTP_PORT={port}: 127.0.0.1:{port} is taken by another process; stop it, or choose "
        "another port (0 takes a free one)"
    )


def test_a_foreign_address_is_named() -> None:
    """It is an error to bind the address of another machine."""
    with pytest.raises(StartError, match=r"192\.0\.2\.1 is not an address of this machine"):
        bind("192.0.2.1", 0)


def test_a_malformed_address_is_named() -> None:
    """A typo in HTTP_ADDR is an error of HTTP_ADDR."""
    with pytest.raises(StartError, match=r"^HTTP_ADDR=no such host: "):
        bind("no such host", 0)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:8080", "has a port; write the address alone, and the port in HTTP_PORT"),
        ("[::1]:8080", "has a port; write the address alone, and the port in HTTP_PORT"),
        (":8080", "has a port; write the address alone, and the port in HTTP_PORT"),
        ("http://0.0.0.0", "is a URL; write the address alone, such as 0.0.0.0"),
        ("/run/cats.sock", "is a path; write it as unix:/run/cats.sock"),
        ("a..b", "is not the name of a host; set it to an address of this machine"),
    ],
)
def test_a_mistake_in_an_address_has_its_remedy(address: str, reason: str) -> None:
    """The error names the setting and how to write it."""
    with pytest.raises(StartError) as raised:
        bind(address, 0)
    assert str(raised.value).startswith(f"HTTP_ADDR={address}: {reason}")


def test_an_empty_address_is_not_every_address() -> None:
    """A flag without a value must not open the port to the network."""
    with pytest.raises(StartError, match=r"^HTTP_ADDR is empty; write 0\.0\.0\.0 for every"):
        bind("", 0)


def test_localhost_binds_one_port_at_every_loopback_address() -> None:
    """If the port is taken at one address, nothing stays bound."""
    listeners = bind_all("localhost", 0)
    ports = {listener.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.close()
    assert len(listeners) == 2
    (port,) = ports
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        with pytest.raises(StartError, match=rf"^HTTP_PORT={port}: ::1:{port} is taken"):
            bind_all("localhost", port)
        bind("127.0.0.1", port).close()


def test_localhost_needs_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many containers have none: then the address of IPv4 is bound alone."""
    monkeypatch.setattr(sockets, "_has_address", lambda address: ":" not in address)
    (listener,) = bind_all("localhost", 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_the_settings_of_another_listener_are_named() -> None:
    """An error names the settings that the address is from."""
    with pytest.raises(StartError, match=r"^GIZMO_ADMIN_PORT=0: .* set GIZMO_ADMIN_ADDR to one"):
        bind("192.0.2.1", 0, prefix="GIZMO_ADMIN")


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket, short enough for every system."""
    with TemporaryDirectory(prefix="gizmopy-") as directory:
        yield Path(directory) / "socket"


def test_the_user_and_the_group_can_connect_to_a_unix_socket(path: Path) -> None:
    """Others cannot. Its path is removed when it is closed."""
    with bind(f"unix:{path}", 8080) as listener:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert not listener.getblocking()

    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """A killed process has left its path."""
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()

    with bind(f"unix:{path}", 0) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.listen()
        client.connect(str(path))


@pytest.mark.parametrize("backlog", [8, 0])
def test_a_live_socket_is_left_alone(path: Path, backlog: int) -> None:
    """A path on which a process listens is refused, also if its queue is full."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(backlog)
        client.connect(str(path))
        with pytest.raises(StartError, match=rf"^HTTP_ADDR=unix:{path}: is taken by another"):
            bind(f"unix:{path}", 0)

        assert path.exists()


def test_a_file_is_not_a_stale_socket(path: Path) -> None:
    """A path of another file is refused and kept, and so is the target of a link."""
    target = path.with_name("precious")
    target.write_text("precious")
    path.symlink_to(target)

    for taken in (path, target):
        with pytest.raises(StartError, match="by a file that is not a socket"):
            bind(f"unix:{taken}", 0)

    assert path.read_text() == "precious"


def test_a_path_that_another_socket_has_taken_is_kept(path: Path) -> None:
    """Closing removes the socket's own path only, and only once."""
    first = bind(f"unix:{path}", 0)
    path.unlink()
    second = bind(f"unix:{path}", 0)
    first.close()
    assert path.exists()

    second.close()
    path.touch()
    second.close()
    assert path.exists()


def test_a_path_may_be_gone_when_its_socket_is_closed(path: Path) -> None:
    """A path that was removed before is not an error."""
    with bind(f"unix:{path}", 0):
        path.unlink()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the name of the socket is missing; write unix:/path"),
        ("@", "the name of the socket is missing; write unix:/path"),
        ("/nowhere/at/all", "its directory does not exist; create it, or choose another path"),
        ("/dev/null/socket", "its directory does not exist; create it, or choose another path"),
        ("/long" * 100, "cannot listen on it: AF_UNIX path too long"),
    ],
)
def test_a_path_that_cannot_be_bound_is_named(name: str, reason: str) -> None:
    """The error has the setting, the address, and a remedy."""
    with pytest.raises(StartError) as raised:
        bind(f"unix:{name}", 0)

    assert str(raised.value).startswith(f"HTTP_ADDR=unix:{name}: {reason}")


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_has_no_path(path: Path) -> None:
    """An abstract name is in use while its socket is open."""
    name = f"unix:@{path}"
    with bind(name, 0) as listener:
        assert url_of(listener, "http") == name
        with pytest.raises(StartError, match="is taken by another process"):
            bind(name, 0)

    bind(name, 0).close()
    assert not path.exists()


def test_a_listeners_url_can_be_called(path: Path) -> None:
    """It has the chosen port, brackets around IPv6, and no scheme for a path."""
    with bind("127.0.0.1", 0) as four, bind("::1", 0) as six, bind(f"unix:{path}", 0) as local:
        assert url_of(four, "http") == f"http://127.0.0.1:{four.getsockname()[1]}"
        assert url_of(six, "https") == f"https://[::1]:{six.getsockname()[1]}"
        assert url_of(local, "https") == f"unix:{path}"


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_removes_the_path_with_its_server(
    factory: Callable[[], asyncio.AbstractEventLoop], path: Path
) -> None:
    """aiohttp serves a unix socket on both loops, and closing it removes the path."""

    async def scenario() -> str:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text="ok")

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.SockSite(runner, bind(f"unix:{path}", 0)).start()
        try:
            async with ClientSession(connector=UnixConnector(str(path))) as client:
                async with client.get("http://localhost/") as response:
                    return await response.text()
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(scenario()) == "ok"

    assert not path.exists()


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("[::1]", True),
        ("[::]", False),
        ("unix:/run/socket", True),
        ("unix:@socket", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
    ],
)
def test_loopback_addresses_are_those_that_only_this_machine_reaches(
    address: str, loopback: bool
) -> None:
    """An address that others can reach, or an unknown name, is not one."""
    assert is_loopback(address) is loopback


def _resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let the name cats.test have these addresses."""
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **options: Any) -> list[Any]:
        names = addresses if host == "cats.test" else (host,)
        return [found for name in names for found in real(name, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_binds_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One port is bound at all of them, also a free one; a repeated address counts once."""
    _resolving(monkeypatch, "127.0.0.2", "127.0.0.1", "::1", "127.0.0.2")
    listeners = bind_all("cats.test", 0)
    names = [listener.getsockname() for listener in listeners]
    for listener in listeners:
        listener.close()
    assert [name[0] for name in names] == ["127.0.0.2", "127.0.0.1", "::1"]
    assert len({name[1] for name in names}) == 1


def test_an_address_of_a_name_that_the_machine_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is left out if another one is there; without any, the start ends."""
    _resolving(monkeypatch, "203.0.113.1", "127.0.0.1")
    (listener,) = bind_all("cats.test", 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    _resolving(monkeypatch, "203.0.113.1", "203.0.113.2")
    with pytest.raises(StartError, match="is not an address of this machine"):
        bind_all("cats.test", 0)
