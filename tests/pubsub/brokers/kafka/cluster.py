"""A real Apache Kafka for tests and benchmarks: KRaft on loopback, jars from Maven Central."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.pubsub.brokers.kafka import security

_POM = Path(__file__).with_name("pom.xml")
VERSION = re.findall("<kafka.version>(.+)</kafka.version>", _POM.read_text())[0]

_JAVA = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
_START_TIMEOUT = 60.0  # seconds


class Unavailable(Exception):
    """No Kafka can be run on this machine; the message says why, and what to do."""


class AnyCluster(Protocol):
    """What real and mock clusters have in common."""

    bootstrap: str
    url: str

    @property
    def is_real(self) -> bool: ...

    def kill(self, node: int) -> None: ...
    def start(self, node: int) -> None: ...


def jars() -> Path:
    """Return the folder of Kafka's jars, which Maven fills at the first call (about 45 MB).

    Raises ``Unavailable`` without java or mvn, and where Maven cannot download.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gizmopy"
    libraries = cache / f"kafka-{VERSION}"
    _demand("java")
    if not libraries.exists():
        _demand("mvn")
        cache.mkdir(parents=True, exist_ok=True)
        _download(libraries)
    return libraries


def _demand(tool: str) -> None:
    if shutil.which(tool) is None:
        remedy = "apt-get install --yes default-jre-headless maven"
        needed = f"Apache Kafka needs Java 17 and Maven, and {tool} is not on PATH"
        raise Unavailable(f"{needed}; try: {remedy}")


def _download(libraries: Path) -> None:
    """Let the folder appear whole: another run may look for it, or fill its own, meanwhile."""
    with tempfile.TemporaryDirectory(dir=libraries.parent) as folder:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}/jars"]
        maven = subprocess.run(
            ["mvn", "-q", "-B", "-f", _POM, *goal, "-DincludeScope=runtime"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if maven.returncode:
            raise Unavailable(f"mvn could not download Apache Kafka {VERSION}:\n{maven.stdout}")
        try:
            Path(folder, "jars").rename(libraries)
        except OSError:
            if not libraries.exists():  # else another run was faster
                raise


@dataclass
class _Node:
    id: int
    ports: Mapping[str, int]  # by protocol; CONTROLLER is the quorum's
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


class Cluster:
    """Nodes numbered from 1, each a process of its own that is broker and controller.

    Only a secure one has certificates: ``ca_file``, ``client_cert``, ``client_key``, all PEM.
    """

    is_real = True

    def __init__(self, nodes: list[_Node], libraries: Path, group: int, certificates: Path) -> None:
        self._nodes = {node.id: node for node in nodes}
        self._libraries = libraries
        self._group = group
        self.ca_file = certificates / "ca.pem"
        self.client_cert = certificates / "client.pem"
        self.client_key = certificates / "client.key"
        self.bootstrap = self.listener("PLAINTEXT")
        self.url = f"kafka://{self.bootstrap}"

    def listener(self, protocol: str) -> str:
        """Return the bootstrap servers that speak a protocol.

        That is ``"PLAINTEXT"`` and, of a secure cluster, ``"SASL_PLAINTEXT"``, ``"SSL"`` and
        ``"SASL_SSL"``.
        """
        return ",".join(f"127.0.0.1:{node.ports[protocol]}" for node in self._nodes.values())

    def kill(self, node: int) -> None:
        """End a node with SIGKILL, and wait for its end; its data and its ports are kept."""
        process = self._running(node)
        process.kill()
        process.wait()
        self._nodes[node].process = None

    def pause(self, node: int) -> None:
        """Stop a node with SIGSTOP: its connections stay open, and nothing answers."""
        self._running(node).send_signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """Let a paused node go on."""
        self._running(node).send_signal(signal.SIGCONT)

    def start(self, node: int) -> None:
        """Start a node that was killed, and wait until it serves, 4 s or so.

        A coroutine that has more to do meanwhile runs it in an executor that it shuts down.
        """
        self._launch(self._nodes[node])
        self._wait_until_known(self._nodes[node], {node})

    def _running(self, node: int) -> subprocess.Popen[bytes]:
        process = self._nodes[node].process
        assert process is not None, f"node {node} was killed, and not started again"
        return process

    def _start_all(self) -> None:
        nodes = self._nodes.values()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._format, nodes))
        for node in nodes:
            self._launch(node)
        for node in nodes:
            self._wait_until_known(node, self._nodes.keys())

    def _format(self, node: _Node) -> None:
        format_ = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(node.properties)]
        users = security.scram_options() if "SASL_SSL" in node.ports else []
        if self._java(node, "kafka.tools.StorageTool", *format_, *users).wait():
            raise RuntimeError(f"Kafka's storage was not formatted: {_end(node.log)}")

    def _launch(self, node: _Node) -> None:
        assert node.process is None, f"node {node.id} runs"
        node.process = self._java(node, "kafka.Kafka", node.properties)

    def _java(self, node: _Node, main: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        options = [f"-Djava.io.tmpdir={node.folder}", "-Dlog4j2.level=WARN"]
        classes = ["-cp", f"{self._libraries}/*"]
        with node.log.open("ab") as log:
            return subprocess.Popen(
                [*_JAVA, *options, *classes, main, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=self._group,
            )  # fmt: skip

    def _wait_until_known(self, node: _Node, expected: Set[int]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not expected <= _alive(node.ports["PLAINTEXT"]):
            if self._running(node.id).poll() is not None:
                raise RuntimeError(f"Kafka's node {node.id} has ended: {_end(node.log)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kafka's node {node.id} does not serve: {_end(node.log)}")
            time.sleep(0.05)

    def _reap(self) -> None:
        for node in self._nodes.values():
            if node.process is not None:
                node.process.wait()


@contextmanager
def kafka_cluster(folder: Path, nodes: int = 1, *, secure: bool = False) -> Iterator[Cluster]:
    """Run a cluster while the context lasts; ``folder`` takes the data and logs of its nodes.

    A topic is not created by its use. A secure cluster listens with SASL and TLS, too, for the
    user and with the mechanisms of `tests.pubsub.brokers.kafka.security`. Raises ``Unavailable``
    where there is no Kafka to run, and ``RuntimeError`` with the end of the log where it does not
    start.
    """
    libraries = jars()
    certificates = folder / "certificates"
    protocols = ["PLAINTEXT", "CONTROLLER", *(security.PROTOCOLS if secure else [])]
    more = security.properties(certificates) if secure else {}
    with ExitStack() as stack:
        members = [
            _Node(number, _ports(stack, protocols), folder / f"node-{number}")
            for number in range(1, nodes + 1)
        ]
        for member in members:
            _write_properties(member, members, more)
        if secure:
            security.write_certificates(certificates)
        with _processes() as group:
            cluster = Cluster(members, libraries, group, certificates)
            stack.callback(cluster._reap)
            cluster._start_all()
            yield cluster


@contextmanager
def _processes() -> Iterator[int]:
    """Give the id of a process group; all that is in it dies with the context, or with us.

    Its leader kills the group once its input ends, which the kernel sees to if we cannot. Then
    the kernel may send it a HUP, too: that is what an orphaned group with a paused process gets.
    """
    command = ["sh", "-c", "trap '' HUP; read _; kill -s KILL 0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as leader:
        yield leader.pid


def _ports(stack: ExitStack, protocols: list[str]) -> dict[str, int]:
    """Choose free ports, and keep each while the cluster lasts, also while its node is down.

    A socket that is bound and does not listen lets the node listen, and keeps the kernel from
    giving the port to somebody who asks for any, or to a client that connects to it in vain.
    """
    ports = {}
    for protocol in protocols:
        holder = stack.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        ports[protocol] = holder.getsockname()[1]
    return ports


def _write_properties(node: _Node, members: list[_Node], more: Mapping[str, str]) -> None:
    node.folder.mkdir(parents=True)
    replicas = min(len(members), 3)
    in_sync = min(replicas, 2)
    listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in node.ports.items()}
    advertised = [url for name, url in listeners.items() if name != "CONTROLLER"]
    voters = [f"{member.id}@127.0.0.1:{member.ports['CONTROLLER']}" for member in members]
    properties = {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": ",".join(advertised),
        "log.dirs": node.folder / "data",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 4,
        # A node that was killed comes back only once its session is over.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,  # a test of a dead member should not take 6 seconds
        "log.cleaner.dedupe.buffer.size": 8 * 1024**2,  # by default a third of the heap
        **more,
    }
    node.properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


def _alive(port: int) -> set[int]:
    """Ask a node which brokers it knows to be alive: itself among them once it serves."""
    # Metadata, version 1: no client id, no topics. The brokers come first in its answer, each
    # with its id, its host (9 characters, always 127.0.0.1), its port and no rack.
    request = struct.pack(">hhihi", 3, 1, 0, -1, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                answer = stream.read(int.from_bytes(stream.read(4)))
    except OSError:
        return set()
    count = int.from_bytes(answer[4:8])
    return {broker for (broker,) in struct.iter_unpack(">i2x9x4x2x", answer[8 : 8 + 21 * count])}


def _end(log: Path) -> str:
    return "\n".join([str(log), *log.read_text(errors="replace").splitlines()[-25:]])
