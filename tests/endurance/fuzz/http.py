"""Send hostile inputs to the HTTP port of a real daemon, and check that it serves on.

    python -m tests.endurance.fuzz.http [INPUTS] [SEED]

Each input has a connection of its own. A finding is an answer of 5xx, an answer that is no HTTP, a
connection that the daemon does not end within half a second after the client has sent its last
byte and EOF, and a traceback or an error in the daemon's log. The exit code is 1 if there is one.
``python -m tests.endurance.fuzz.http show NUMBER [SEED]`` prints one input.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.endurance.fuzz.http_inputs import http_input

_HANG_SECONDS = 0.5
_QUIET_SECONDS = 0.01
"""The time without a byte after which the client sends EOF."""
_CLIENTS = 8
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [^\r\n]*\r\n")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n")


@dataclass
class Findings:
    """The results of a run."""

    statuses: Counter[str] = field(default_factory=Counter)
    hangs: list[int] = field(default_factory=list)
    """The numbers of inputs whose connection did not end in time."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """The numbers of inputs that were answered 5xx, or not as HTTP, and the answers' beginnings."""
    errors: list[str] = field(default_factory=list)
    """The messages of errors and tracebacks in the daemon's log."""
    memory: tuple[int, int] = (0, 0)
    """The daemon's resident memory after a tenth of the inputs and after the last, in KiB."""
    slowest_probe: float = 0.0
    """The longest that /livez took meanwhile, in seconds."""

    @property
    def is_clean(self) -> bool:
        """Whether there is no finding."""
        return not (self.hangs or self.failures or self.errors)


def send(port: int, seed: int, number: int) -> tuple[bytes, float]:
    """Send one input; return the answers, and how many seconds the end took after EOF."""
    segments, at_once = http_input(seed, number)
    received = bytearray()
    # Another address of loopback for each: 28,000 ports of one are used up within a minute.
    source = (f"127.{number >> 16 & 127}.{number >> 8 & 255}.{number & 255 or 1}", 0)
    with socket.create_connection(("127.0.0.1", port), 5, source) as client:
        try:
            for segment in segments:
                client.sendall(segment)
                if not at_once:
                    _receive(client, received, _QUIET_SECONDS / 10)
            while not at_once and _receive(client, received, _QUIET_SECONDS):
                pass
            client.shutdown(socket.SHUT_WR)
        except OSError:  # the daemon has closed already
            pass
        began = time.monotonic()
        try:
            while part := client.recv(65536):
                received += part
        except TimeoutError:
            return bytes(received), 5.0
        except OSError:
            pass
        return bytes(received), time.monotonic() - began


def _receive(client: socket.socket, received: bytearray, seconds: float) -> bool:
    """Add bytes that come within ``seconds``; return whether some did."""
    if not select.select([client], [], [], seconds)[0]:
        return False
    part = client.recv(65536)
    received += part
    return bool(part)


def statuses(received: bytes) -> list[str]:
    """Return the status of each answer in ``received``; an entry ``?`` stands for no HTTP."""
    found: list[str] = []
    rest = received
    while rest:
        status = _STATUS.match(rest)
        end = rest.find(b"\r\n\r\n")
        if status is None or end < 0:
            return [*found, "?"]
        found.append(status[1].decode())
        head, rest = rest[: end + 2], rest[end + 4 :]
        if found[-1] == "101" or b"\r\nTransfer-Encoding: chunked\r\n" in head:
            return found  # frames and chunks follow, which are not looked at
        length = _LENGTH.search(head)
        if length is None and head.startswith(b"HTTP/1.0"):
            return found  # the end of the connection is the end of the body
        if length is not None and not rest.startswith(b"HTTP/1."):  # as after HEAD
            rest = rest[int(length[1]) :]
    return found


def _attack(port: int, seed: int, numbers: range, results: multiprocessing.Queue[Findings]) -> None:
    findings = Findings()
    for number in numbers:
        received, seconds = send(port, seed, number)
        answers = statuses(received)
        findings.statuses.update(answers or ["none"])
        if seconds > _HANG_SECONDS:
            findings.hangs.append(number)
        if any(answer == "?" or answer.startswith("5") for answer in answers):
            findings.failures.append((number, repr(received[:300])))
    results.put(findings)


def fuzz(inputs: int, seed: int, clients: int = _CLIENTS) -> Findings:
    """Start a daemon, send it ``inputs`` from ``clients`` processes, and return the findings."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"HTTP_PORT": "0", "HTTP_ACCESS_LOG": "off"}
        environment |= {"APP_LOG": str(log), "APP_LOG_JSON_FMT": "true"}
        if seed % 2:  # half of the seeds meet the settings that a daemon behind a proxy has
            environment |= {"GIZMO_CORS_ORIGINS": "https://*.example", "GIZMO_HSTS": "max-age=9"}
            environment |= {"GIZMO_TRUSTED_PROXIES": "127.0.0.0/8", "GIZMO_LOOP": "asyncio"}
        command = (sys.executable, "-m", "tests.endurance.fuzz.service")
        daemon = subprocess.Popen(command, env=environment)
        try:
            findings = _run(daemon.pid, _port(log), inputs, seed, clients)
        finally:
            daemon.terminate()
            code = daemon.wait(40)
        for line in log.read_text().splitlines():
            record = json.loads(line)
            if record["level"] in ("ERROR", "CRITICAL") or "stack" in record:
                findings.errors.append(f"{record['message']} {record.get('stack', '')[-500:]}")
        if code:
            findings.errors.append(f"exit code {code}")
        return findings


def _port(log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines() if log.exists() else ():
            if url := json.loads(line).get("url"):
                return int(url.rpartition(":")[2])
        time.sleep(0.05)
    raise TimeoutError("the daemon did not listen within 30 s")


def _run(daemon: int, port: int, inputs: int, seed: int, clients: int) -> Findings:
    findings = Findings()
    done = threading.Event()
    prober = threading.Thread(target=_probe, args=(port, findings, done))
    prober.start()
    try:
        before = 0
        for numbers in (range(inputs // 10), range(inputs // 10, inputs)):
            _attack_together(port, seed, numbers, findings, clients)
            before = before or _memory(daemon)
        findings.memory = (before, _memory(daemon))
    finally:
        done.set()
        prober.join()
    # The machine may have been busy: only an input that is slow by itself, too, is a finding.
    findings.hangs = [
        number
        for number in findings.hangs
        if min(send(port, seed, number)[1] for _ in range(3)) > _HANG_SECONDS
    ]
    return findings


def _attack_together(
    port: int, seed: int, numbers: range, findings: Findings, clients: int
) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Findings] = context.Queue()
    processes = [
        context.Process(target=_attack, args=(port, seed, numbers[each::clients], results))
        for each in range(clients)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        part = results.get()
        findings.statuses.update(part.statuses)
        findings.hangs += part.hangs
        findings.failures += part.failures
    for process in processes:
        process.join()


def _probe(port: int, findings: Findings, done: threading.Event) -> None:
    while not done.wait(0.05):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass
        findings.slowest_probe = max(findings.slowest_probe, time.monotonic() - began)


def _memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def main() -> int:
    """Fuzz, or show an input, as the command line says."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["show"]:
        segments, at_once = http_input(int(arguments[2]) if arguments[2:] else 1, int(arguments[1]))
        print(*map(repr, segments), "then EOF at once" if at_once else "", sep="\n")
        return 0
    inputs = int(arguments[0]) if arguments else 1_000_000
    seed = int(arguments[1]) if arguments[1:] else 1
    began = time.monotonic()
    findings = fuzz(inputs, seed)
    print(f"{inputs} inputs of seed {seed} in {time.monotonic() - began:.0f} s")
    print(
        "answers by status:", *(f"{status}: {n}" for status, n in sorted(findings.statuses.items()))
    )
    before, after = findings.memory
    print(f"memory: {before / 1024:.1f} MiB after a tenth, {after / 1024:.1f} MiB after all")
    print(f"slowest probe: {findings.slowest_probe:.2f} s")
    print(f"hangs over {_HANG_SECONDS} s: {len(findings.hangs)}", *findings.hangs[:20])
    print(f"5xx, or no HTTP: {len(findings.failures)}")
    for number, text in findings.failures[:20]:
        print(f"  {number}: {text}")
    print(f"errors in the log: {len(findings.errors)}")
    for text in findings.errors[:10]:
        print(f"  {text}")
    return 0 if findings.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
