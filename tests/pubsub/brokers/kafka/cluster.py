"""A real Apache Kafka for tests and benchmarks: KRaft on loopback, jars from Maven Central.

``kafka_cluster`` starts one. ``shared_cluster.py`` shares one among the processes of a test run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Protocol

from tests.pubsub.brokers.kafka import security

_POM = Path(__file__).with_name("pom.xml")
VERSION = re.findall("<kafka.version>(.+)</kafka.version>", _POM.read_text())[0]

_JAVA = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
_START_TIMEOUT = 60.0  # seconds
_SESSION_SECONDS = 4.0
"""How long the controller waits for a broker's heartbeat. A node that was killed and started again
serves only after that, but a shorter one takes a busy machine for a dead node."""


class Unavailable(Exception):
    """This machine cannot run Kafka. The message has the reason and a remedy."""


class AnyCluster(Protocol):
    """A real or a mock cluster."""

    bootstrap: str
    url: str

    @property
    def is_real(self) -> bool: ...

    def kill(self, node: int) -> None: ...
    def start(self, node: int) -> None: ...


def jars() -> Path:
    """Return the folder of Kafka's jars; Maven fills it at the first call (about 45 MB).

    Raises ``Unavailable`` without java or mvn, or if Maven cannot download.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gizmopy"
    libraries = cache / f"kafka-{VERSION}"
    _require("java")
    if not libraries.exists():
        _require("mvn")
        cache.mkdir(parents=True, exist_ok=True)
        _download(libraries)
    return libraries


def _class_archive(libraries: Path) -> Path:
    """Return a file of Kafka's classes that java maps into memory; make it at the first call.

    With it a node starts with 1.2 s of CPU time, in place of 2.1 s.
    """
    archive = libraries.with_name(f"{libraries.name}.jsa")
    with libraries.with_name(f"{libraries.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # one process makes it, the others wait
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=libraries.parent) as folder:
                made = Path(folder, "classes.jsa")
                options = [f"-XX:ArchiveClassesAtExit={made}"]
                with _cluster(Path(folder), libraries, java_options=options) as cluster:
                    cluster.stop(1)
                made.rename(archive)
    return archive


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        remedy = "apt-get install --yes default-jre-headless maven"
        needed = f"Apache Kafka needs Java 17 and Maven, and {tool} is not on PATH"
        raise Unavailable(f"{needed}; try: {remedy}")


def _download(libraries: Path) -> None:
    """Fill a temporary folder and rename it, because another run may do the same meanwhile."""
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
            if not libraries.exists():  # otherwise another run was faster
                raise


@dataclass
class _Node:
    id: int
    ports: Mapping[str, int]
    """By listener. CONTROLLER is for the other nodes."""
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


class Cluster:
    """Nodes numbered from 1. Each is a process that is both broker and controller.

    A secure cluster has certificates in PEM: ``ca_file``, ``client_cert`` and ``client_key``. The
    nodes of an ``attached`` cluster belong to another process: it can neither kill nor pause them.
    """

    is_real = True

    def __init__(
        self, nodes: list[_Node], certificates: Path, libraries: Path = Path(), group: int = 0
    ) -> None:
        self._nodes = {node.id: node for node in nodes}
        self._libraries = libraries
        self._group = group
        """The process group of the nodes."""
        self._java_options: Sequence[str] = ()
        self.ca_file = certificates / "ca.pem"
        self.client_cert = certificates / "client.pem"
        self.client_key = certificates / "client.key"
        self.bootstrap = self.listener("PLAINTEXT")
        self.url = f"kafka://{self.bootstrap}"

    def description(self) -> str:
        """Return a text from which ``attached`` makes this cluster in another process."""
        nodes = [(node.id, dict(node.ports), str(node.folder)) for node in self._nodes.values()]
        return json.dumps([nodes, str(self.ca_file.parent)])

    @classmethod
    def attached(cls, description: str) -> Cluster:
        """Return a cluster that another process runs."""
        nodes, certificates = json.loads(description)
        return cls([_Node(id_, ports, Path(at)) for id_, ports, at in nodes], Path(certificates))

    def listener(self, name: str) -> str:
        """Return the bootstrap servers of a listener.

        ``PLAINTEXT``, or in a secure cluster one of ``security.PROTOCOLS``.
        """
        return ",".join(f"127.0.0.1:{node.ports[name]}" for node in self._nodes.values())

    def data_of(self, topic: str, partition: int) -> Path:
        """Return the folder of a partition on the first node."""
        return self._nodes[1].folder / "data" / f"{topic}-{partition}"

    def kill(self, node: int) -> None:
        """End a node with SIGKILL, and wait for its end. Its data and its ports stay."""
        process = self._running(node)
        process.kill()
        process.wait()
        self._nodes[node].process = None

    def stop(self, node: int) -> None:
        """End a node with SIGTERM, and wait for its end. Its data and its ports stay."""
        process = self._running(node)
        process.terminate()
        process.wait()
        self._nodes[node].process = None

    def pause(self, node: int) -> None:
        """Stop a node with SIGSTOP: its connections stay open, and it does not answer."""
        process = self._running(node)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # the signal is delivered later

    def resume(self, node: int) -> None:
        """Continue a paused node."""
        self._running(node).send_signal(signal.SIGCONT)

    def start(self, node: int) -> None:
        """Start a node that was killed, and wait until it serves.

        It blocks for seconds: a coroutine calls it in an executor.
        """
        self._launch(self._nodes[node])
        self._wait_until_known(self._nodes[node], {node})

    def _running(self, node: int) -> subprocess.Popen[bytes]:
        process = self._nodes[node].process
        assert process is not None, f"node {node} does not run, or another process runs it"
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
        assert node.process is None, f"node {node.id} is running"
        node.process = self._java(node, "kafka.Kafka", node.properties)

    def _java(self, node: _Node, main: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        options = [*self._java_options, f"-Djava.io.tmpdir={node.folder}", "-Dlog4j2.level=WARN"]
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
def kafka_cluster(
    folder: Path,
    nodes: int = 1,
    *,
    secure: bool = False,
    session_seconds: float = _SESSION_SECONDS,
) -> Iterator[Cluster]:
    """Run a cluster while the context lasts; ``folder`` takes the data and logs of its nodes.

    Using a topic does not create it. A secure cluster also listens with SASL and TLS, for the users
    and with the mechanisms in ``security``. A killed node serves again ``session_seconds`` after
    its start. Raises ``Unavailable`` if this machine cannot run Kafka, and ``RuntimeError`` with
    the end of the log if a node does not start.
    """
    libraries = jars()
    options = [f"-XX:SharedArchiveFile={_class_archive(libraries)}"]
    with _cluster(
        folder,
        libraries,
        nodes,
        java_options=options,
        secure=secure,
        session_seconds=session_seconds,
    ) as cluster:
        yield cluster


@contextmanager
def _cluster(
    folder: Path,
    libraries: Path,
    nodes: int = 1,
    *,
    java_options: Sequence[str],
    secure: bool = False,
    session_seconds: float = _SESSION_SECONDS,
) -> Iterator[Cluster]:
    certificates = folder / "certificates"
    protocols = ["PLAINTEXT", "CONTROLLER", *(security.PROTOCOLS if secure else [])]
    more = {"broker.session.timeout.ms": str(round(1000 * session_seconds))}
    if secure:
        more |= security.properties(certificates)
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
            cluster = Cluster(members, certificates, libraries, group)
            cluster._java_options = java_options
            stack.callback(cluster._reap)
            cluster._start_all()
            yield cluster


@contextmanager
def _processes() -> Iterator[int]:
    """Yield the id of a process group that is killed with the context, or with this process.

    The group's leader kills the group when its input ends, and the kernel closes that input if this
    process dies. The kernel then also sends SIGHUP to an orphaned group with a paused process.
    """
    command = ["sh", "-c", "trap '' HUP; read _; kill -s KILL 0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as leader:
        yield leader.pid


def _ports(stack: ExitStack, protocols: list[str]) -> dict[str, int]:
    """Choose free ports, and reserve each while the cluster lasts, also while its node is down.

    A bound socket that does not listen lets the node listen. The kernel does not give its port to
    a process that asks for any free port, or to the local end of a client's connection.
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
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,  # a test of a dead member would take 6 s otherwise
        "log.cleaner.dedupe.buffer.size": 8 * 1024**2,  # by default a third of the heap
        **more,
    }
    node.properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


def _alive(port: int) -> set[int]:
    """Ask a node for the live brokers of its cluster. It is one of them as in_time as it serves."""
    # A metadata request, version 1: no client id, no topics. The response begins with the brokers,
    # each with its id, its host (9 characters, always 127.0.0.1), its port and no rack.
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
