"""Cases of abuse: some clients are slow, idle, too large or do not read; others are served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from time import monotonic
from typing import Any

from tests.endurance.http.clients import (
    LOST,
    QUICK,
    Load,
    ask,
    connected,
    has_ended,
    open_websocket,
    read_answer,
    read_chunks,
    request,
)
from tests.endurance.http.daemon import Daemon, daemon, open_files
from tests.endurance.http.finding import Finding
from tests.endurance.http.service import LARGE

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_TIMEOUT = 1.0
"""The read and write timeouts, in seconds, of the daemons that are attacked."""
_SLACK = 1.0
"""Seconds that a connection may be closed late, because the machine may be busy."""
_LONG = 2.5
"""Duration of slow but legal requests, in seconds."""
_PACE = 0.1
"""Seconds between two bytes of a slow client; less than the timeout, so that bytes keep coming."""
_MEMORY = 32 * MIB
"""Memory that an attack may cost, in bytes."""
_PIECE = bytes(64 * KIB)


@asynccontextmanager
async def _attacked(loop: str, finding: Finding, **environment: str) -> AsyncIterator[Daemon]:
    """Start a daemon that must serve another client during the attack, and then stop cleanly."""
    async with daemon(loop, **environment) as life:
        async with Load(life.port, clients=1, pauses=(0.05,)) as other:
            yield life
            await asyncio.sleep(0.2)
        finding.require(other.counts["200"] > 2, "no other client was served")
        finding.problems += [f"another client: {problem}" for problem in other.problems]
        life.signal()
        ended = await life.ended()
        finding.require(ended.code == 0, f"exit code {ended.code} afterwards, not 0")
        finding.require(ended.seconds < 3, f"{ended.seconds:.2f} s to exit afterwards")


async def slow_headers(loop: str) -> Finding:
    """Headers sent byte by byte are refused at the read timeout, also on a kept-alive connection.

    Figure: s until closed, of a timeout of 1 s.
    """
    finding = Finding()
    head = b"GET /quick HTTP/1.1\r\nHost: x\r\nX-Slow: "
    async with _attacked(loop, finding, GIZMO_READ_TIMEOUT=f"{_TIMEOUT}s") as life:
        async with asyncio.TaskGroup() as clients:
            clients.create_task(_trickle(life, "headers", head, (408, None), finding))
            kept = _trickle(life, "headers on a kept connection", head, (408, None), finding, QUICK)
            clients.create_task(kept)
    return finding


async def slow_body(loop: str) -> Finding:
    """A body sent byte by byte is 408 at the read timeout, if gizmopy or the handler reads it.

    Figure: s until closed, of a timeout of 1 s.
    """
    finding = Finding()
    headers = (
        b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    async with _attacked(loop, finding, GIZMO_READ_TIMEOUT=f"{_TIMEOUT}s") as life:
        async with asyncio.TaskGroup() as clients:
            for line in (b"PUT /things/7", b"POST /read"):
                clients.create_task(
                    _trickle(life, f"the body of {line.decode()}", line + headers, (408,), finding)
                )
    return finding


async def _trickle(
    life: Daemon,
    what: str,
    begin: bytes,
    statuses: tuple[int | None, ...],
    finding: Finding,
    before: bytes = b"",
) -> None:
    """Send ``begin``, then a byte at a time, until the server answers or closes the connection.

    ``before`` is a whole request that is sent first on the same connection.
    """
    async with connected(life.port) as (reader, writer):
        if before:
            writer.write(before)
            await read_answer(reader)
        began = monotonic()
        writer.write(begin)
        dripping = asyncio.create_task(_drip(writer))
        try:
            async with asyncio.timeout(_TIMEOUT + _SLACK):
                status: int | None = (await read_answer(reader)).status
        except LOST:
            status = None
        except TimeoutError:
            finding.problems.append(f"{what}: not closed within {_TIMEOUT + _SLACK} s")
            return
        finally:
            seconds = monotonic() - began
            finding.figure = max(finding.figure, seconds)
        finding.require(status in statuses, f"{what}: {status}, not one of {statuses}")
        finding.require(seconds > _TIMEOUT / 2, f"{what}: closed after only {seconds:.2f} s")
        finding.require(await has_ended(reader, 2), f"{what}: open for 2 s after the answer")
        dripping.cancel()


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"a")
        await asyncio.sleep(_PACE)


async def idle_connections(loop: str, number: int = 10_000) -> Finding:
    """Ten thousand idle connections cost a bounded memory; figure: KiB for each.

    Half of them have sent a request before. They are still open when the daemon stops.
    """
    finding = Finding()
    spare = 200  # other open files, here and in the daemon
    with open_files(number + spare) as allowed, ExitStack() as idle:
        if allowed < number + spare:
            print(f"  ulimit -n allows {allowed} open files: fewer than {number} connections")
        number = min(number, allowed - spare)
        async with _attacked(loop, finding) as life:
            before = life.memory()
            for each in range(number):
                await _connect(idle.enter_context(socket.socket()), life, speak=each % 2 == 0)
            each_one = (life.memory() - before) / number / KIB
        finding.figure = each_one
        finding.require(each_one < 32, f"{each_one:.1f} KiB for an idle connection, not < 32")
    return finding


async def _connect(client: socket.socket, life: Daemon, *, speak: bool) -> None:
    """Connect; with ``speak``, send a request and read the answer."""
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    async with asyncio.timeout(10):
        await loop.sock_connect(client, ("127.0.0.1", life.port))
        if speak:
            await loop.sock_sendall(client, QUICK)
            await loop.sock_recv(client, 4096)


async def huge_body(loop: str) -> Finding:
    """A body of 1 GiB is 413 long before it is sent, at bounded memory; figure: MiB of memory."""
    finding = Finding()
    sized = f"Content-Type: application/json\r\nContent-Length: {GIB}\r\n\r\n"
    chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)
    async with _attacked(loop, finding) as life:
        before = life.memory()
        for line in ("PUT /things/7", "POST /read"):
            for headers, piece in ((sized, _PIECE), (chunked, chunk)):
                head = f"{line} HTTP/1.1\r\nHost: x\r\n{headers}".encode()
                what = f"{line}, {headers.split()[2]}"
                await _pour(life, what, head, piece, (413,), finding)
        _require_memory(life, before, finding)
    return finding


async def huge_header(loop: str) -> Finding:
    """Headers of 1 MiB are refused with their status, at bounded memory; figure: MiB of memory."""
    finding = Finding()
    line = b"GET /quick HTTP/1.1\r\nHost: x\r\n"
    field = b"X-Many: " + bytes(90).replace(b"\0", b"a") + b"\r\n"
    async with _attacked(loop, finding) as life:
        before = life.memory()
        piece = b"a" * len(_PIECE)
        await _pour(life, "one field", line + b"X-Long: ", piece, (431,), finding, MIB)
        await _pour(life, "many fields", line, field * 100, (431,), finding, MIB)
        await _pour(life, "request line", b"GET /", piece, (414, 431), finding, MIB)
        _require_memory(life, before, finding)
    return finding


async def _pour(
    life: Daemon,
    what: str,
    head: bytes,
    piece: bytes,
    statuses: tuple[int, ...],
    finding: Finding,
    size: int = GIB,
) -> None:
    """Send ``head``, then ``piece`` after piece, ``size`` bytes in all, until it is answered."""
    async with connected(life.port) as (reader, writer):
        reading = asyncio.create_task(read_answer(reader))
        writer.write(head)
        sent = 0
        try:
            async with asyncio.timeout(20):
                while sent < size and not reading.done():
                    writer.write(piece)
                    sent += len(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                status = (await reading).status
        except TimeoutError:
            finding.problems.append(f"{what}: no answer within 20 s, {sent / MIB:.1f} MiB sent")
        except LOST as error:
            reason = type(error).__name__
            finding.problems.append(f"{what}: no answer ({reason}), {sent / MIB:.1f} MiB sent")
        else:
            finding.require(status in statuses, f"{what}: {status}, not one of {statuses}")
            finding.require(sent < size or size < GIB, f"{what}: all of it was taken")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _require_memory(life: Daemon, before: int, finding: Finding) -> None:
    grown = life.memory("VmHWM") - before
    finding.figure = grown / MIB
    finding.require(grown < _MEMORY, f"{grown / MIB:.1f} MiB of memory, not < {_MEMORY / MIB:g}")


async def unread_answer(loop: str) -> Finding:
    """A client that does not read a large answer is disconnected at the write timeout.

    Figure: s until closed, of a timeout of 1 s.
    """
    finding = Finding()
    async with _attacked(loop, finding, GIZMO_WRITE_TIMEOUT=f"{_TIMEOUT}s") as life:
        async with asyncio.TaskGroup() as clients:
            for path in ("/stream", "/large"):
                clients.create_task(_read_nothing(life, path, finding))
            began = monotonic()
            try:
                await life.logged("stream ended", within=_TIMEOUT + _SLACK)
            except TimeoutError:
                finding.problems.append("/stream: its handler still runs")
            finding.figure = monotonic() - began
    return finding


async def _read_nothing(life: Daemon, path: str, finding: Finding) -> None:
    """Request a large answer, read nothing for longer than allowed, then read the rest."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", life.port))
        await loop.sock_sendall(client, request("GET", path))
        await asyncio.sleep(_TIMEOUT + _SLACK)
        try:
            read = await _read_all(client)
        except ConnectionError:
            return
        finding.require(read < LARGE, f"{path}: not closed")


async def _read_all(client: socket.socket, pause: float = 0.0, until: float = 0.0) -> int:
    """Count the bytes until the server closes; pause between reads until the time ``until``."""
    loop = asyncio.get_running_loop()
    count = 0
    while data := await loop.sock_recv(client, MIB):
        count += len(data)
        if count >= LARGE:
            break
        if pause and loop.time() < until:
            await asyncio.sleep(pause)
    return count


async def slow_but_right(loop: str) -> Finding:
    """Slow but legal requests are not closed, even if they take longer than every timeout.

    They are a handler that runs, a client that reads slowly, an SSE stream and a silent WebSocket.
    Figure: s that they took.
    """
    finding = Finding()
    short = dict.fromkeys(
        ("GIZMO_READ_TIMEOUT", "GIZMO_WRITE_TIMEOUT", "GIZMO_IDLE_TIMEOUT"), f"{_TIMEOUT}s"
    )
    began = monotonic()
    async with _attacked(loop, finding, **short) as life, asyncio.TaskGroup() as clients:
        for name, client in (
            ("a handler at work", _wait_for_handler(life)),
            ("a slow reader of /stream", _read_slowly(life, "/stream")),
            ("a slow reader of /large", _read_slowly(life, "/large")),
            ("an SSE stream", _listen(life)),
            ("a silent WebSocket", _keep_silent(life)),
        ):
            clients.create_task(_stays_open(name, client, finding))
    finding.figure = monotonic() - began
    return finding


async def _stays_open(name: str, client: Coroutine[Any, Any, None], finding: Finding) -> None:
    try:
        async with asyncio.timeout(20):
            await client
    except (*LOST, TimeoutError) as error:
        finding.problems.append(f"{name} was closed ({type(error).__name__})")


async def _wait_for_handler(life: Daemon) -> None:
    await ask(life.port, request("GET", f"/sleep/{_LONG}"))


async def _read_slowly(life: Daemon, path: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", life.port))
        await loop.sock_sendall(client, request("GET", path))
        read = await _read_all(client, pause=0.1, until=loop.time() + _LONG)
    if read < LARGE:
        raise ConnectionError


async def _listen(life: Daemon) -> None:
    async with connected(life.port) as (reader, writer):
        writer.write(request("GET", "/events"))
        await reader.readuntil(b"\r\n\r\n")
        began = monotonic()
        async for _ in read_chunks(reader):
            if monotonic() - began > _LONG:
                return


async def _keep_silent(life: Daemon) -> None:
    async with connected(life.port) as (reader, writer):
        await open_websocket(reader, writer, "/echo")
        await asyncio.sleep(_LONG)
        writer.write(b"\x81\x82\0\0\0\0hi")
        if await reader.readexactly(4) != b"\x81\x02hi":
            raise ConnectionError
