"""What the README prints works as printed."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

from tests.integration.daemons import ROOT, StartDaemon

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_opens_with_the_two_commands() -> None:
    """make run and make test are the first things that a reader sees."""
    first = README[: README.index("```python")]

    assert first.index("make run") < first.index("make test")
    assert len(first.splitlines()) < 15


def test_make_run_turns_debug_on() -> None:
    """A newcomer gets the address of /debug in the first minute, unless GIZMO_DEBUG says no."""
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]

    assert "GIZMO_DEBUG=$${GIZMO_DEBUG:-true} exec" in recipe


def test_the_service_of_the_readme_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The service, saved as it is printed, serves, publishes, handles and drains."""
    service = tmp_path / "cats.py"
    service.write_text(BLOCKS[0])
    daemon = start_daemon(str(service))

    assert daemon.request("PUT", "/cats/1", {"name": "Tom"}) == (200, '{"name":"Tom","id":1}')
    status, text = daemon.request("PUT", "/cats/one", {})
    wrong = {(error["in"], error["field"]) for error in json.loads(text)["errors"]}
    assert (status, wrong) == (422, {("path", "id"), ("body", "name")})
    assert daemon.stop() == 0


def test_the_hello_daemon_of_the_readme_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The service with endpoints alone serves as printed."""
    (block,) = [block for block in BLOCKS if "class Hello" in block]
    service = tmp_path / "hello.py"
    service.write_text(block)
    daemon = start_daemon(str(service))

    assert daemon.request("GET", "/hello/world") == (200, '{"hello":"world"}')
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
