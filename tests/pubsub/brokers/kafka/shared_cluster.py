"""Share one Kafka cluster among the processes of a test run.

pytest-xdist runs the tests in several processes. A cluster of its own for each costs seconds of CPU
time and 230 MB. So the first process that needs one starts a keeper, a process that runs the
cluster until no process of the run uses it. Tests have topics and groups of their own.

Users hold a shared lock on a file. The keeper waits for an exclusive lock on it, then stops the
cluster. The kernel releases the lock of a process that dies, so no cluster outlives its run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path

from tests.pubsub.brokers.kafka.cluster import Cluster, kafka_cluster

_ROOT = Path(__file__).parents[4]


@contextmanager
def shared_cluster(folder: Path, *, secure: bool = False) -> Iterator[Cluster]:
    """Use the cluster in ``folder`` while the context lasts; start it if no process uses it.

    Raises RuntimeError with the log of the keeper if the cluster does not start.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "users").open("w") as users:
        with (folder / "starting").open("w") as starting:
            flock(starting, LOCK_EX)  # one process starts the cluster, the others wait
            flock(users, LOCK_SH)  # waits for a keeper that is stopping its cluster
            description = folder / "cluster.json"
            if not description.exists():
                _start_keeper(folder, secure=secure)
        yield Cluster.attached(description.read_text())


def _start_keeper(folder: Path, *, secure: bool) -> None:
    command = [sys.executable, "-m", __name__, str(folder), "secure" if secure else "plain"]
    log = folder / "keeper.log"
    with log.open("ab") as output:
        started = subprocess.run(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    if started.returncode:
        raise RuntimeError(f"the shared Kafka does not start:\n{log.read_text()}")


def _keep(folder: Path, *, secure: bool) -> None:
    """Fork; return in the parent when the cluster serves, and run the cluster in the child."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        is_ready = bool(os.read(reader, 1))  # empty if the child has ended
        os._exit(0 if is_ready else 1)
    os.close(reader)
    os.setsid()  # a Ctrl-C is for the tests: they may still use the cluster
    with (folder / "users").open("w") as users:
        data = Path(tempfile.mkdtemp(dir=folder))
        with kafka_cluster(data, secure=secure) as cluster:
            description = folder / "cluster.json"
            description.write_text(cluster.description())
            os.write(writer, b"1")
            os.close(writer)
            flock(users, LOCK_EX)
            description.unlink()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), secure=sys.argv[2] == "secure")
