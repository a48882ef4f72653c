"""The README and the tutorial work as printed, in a process of their own."""

import inspect
import json
import re
import time
from pathlib import Path
from typing import Any

from tests.integration.daemons import ROOT, StartDaemon

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TUTORIAL = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)


def test_the_readme_opens_with_the_two_commands() -> None:
    """`make run` and `make test` are the first commands."""
    first = README[: README.index("```python")]

    assert first.index("make run") < first.index("make test")
    assert len(first.splitlines()) < 15


def test_make_run_turns_debug_on() -> None:
    """The log has the URL of /debug, unless GIZMO_DEBUG is false."""
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]

    assert "GIZMO_DEBUG=$${GIZMO_DEBUG:-true} exec" in recipe


def test_the_service_of_the_readme_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Saved as printed, the service serves, publishes, handles and drains."""
    service = tmp_path / "cats.py"
    service.write_text(BLOCKS[0])
    daemon = start_daemon(str(service))

    assert daemon.request("PUT", "/cats/1", {"name": "Tom"}) == (200, '{"name":"Tom","id":1}')
    status, text = daemon.request("PUT", "/cats/one", {})
    wrong = {(error["in"], error["field"]) for error in json.loads(text)["errors"]}
    assert (status, wrong) == (422, {("path", "id"), ("body", "name")})
    assert daemon.stop() == 0


def test_the_first_daemon_of_the_tutorial_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The service with endpoints alone serves as printed."""
    service = tmp_path / "hello.py"
    service.write_text(TUTORIAL[0])
    daemon = start_daemon(str(service))

    assert daemon.request("GET", "/hello/world") == (200, '{"hello":"world"}')
    assert daemon.request("GET", "/hello/world?times=2") == (200, '{"hello":"world world"}')
    assert daemon.request("GET", "/hello/world?times=two")[0] == 422
    assert daemon.stop() == 0


def test_the_second_daemon_of_the_tutorial_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The service with a message handler answers, and counts the message, as printed."""
    service = tmp_path / "cats.py"
    service.write_text(TUTORIAL[1])
    daemon = start_daemon(str(service))

    assert daemon.request("PUT", "/cats/1", {"name": "Tom"}) == (200, '{"name":"Tom","id":1}')
    assert daemon.request("GET", "/cats/1") == (200, '{"name":"Tom","id":1}')
    status, text = daemon.request("GET", "/cats/2")
    assert (status, json.loads(text)["detail"]) == (404, "There is no cat 2.")
    line = 'gizmo_pubsub_settled_total{outcome="ack",subscription="cats",topic="cats"} 1.0'
    deadline = time.monotonic() + 10
    while line not in daemon.request("GET", "/metrics")[1] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert line in daemon.request("GET", "/metrics")[1]
    assert daemon.stop() == 0


async def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    """The test that the README shows passes against the service that it shows."""
    scope: dict[str, Any] = {"__name__": "cats"}
    exec(compile(BLOCKS[0], "README.md", "exec"), scope)
    (block,) = [block for block in BLOCKS if "pubsubtest.serve" in block]
    exec(compile(block, "README.md", "exec"), scope)
    (test,) = [value for name, value in scope.items() if name.startswith("test_")]

    assert inspect.iscoroutinefunction(test)
    await test()
