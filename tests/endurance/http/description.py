"""The case of the description: the daemon behaves as its /openapi.json says."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from importlib.util import find_spec
from time import monotonic

from tests.endurance.http.clients import ask, request
from tests.endurance.http.daemon import daemon
from tests.endurance.http.finding import Finding

INSTALLED = find_spec("schemathesis") is not None

_CHECKS = ("--checks", "all", "--exclude-checks", "unsupported_method,allow_header_conformance")
"""All but those that take /svc/cats/stats for no PUT: it is one of /svc/cats/{id}, a wrong one."""


async def described(loop: str, *options: str) -> Finding:
    """schemathesis gets no 5xx, and no status or body that the example does not document.

    ``options`` are more of schemathesis' own. Figure: s that it took.
    """
    finding = Finding()
    began = monotonic()
    async with daemon(loop, service="tests.cats:Cats") as cats:
        description = await ask(cats.port, request("GET", "/openapi.json"))
        finding.require(description.status == 200, f"/openapi.json: {description.status}")
        finding.require(b"/svc/cats/" in description.body, "/openapi.json lacks /svc/cats/{id}")
        if not finding.problems:
            url = f"http://127.0.0.1:{cats.port}/openapi.json"
            code, report = await _schemathesis(url, *_CHECKS, *options)
            finding.require(code == 0, f"schemathesis ended with {code}:\n{report}")
        cats.signal()
        ended = await cats.ended()
        finding.require(ended.code == 0, f"exit code {ended.code} afterwards, not 0")
    finding.figure = monotonic() - began
    return finding


async def _schemathesis(url: str, *options: str) -> tuple[int, str]:
    """Run schemathesis, and return its exit code and its output."""
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # schemathesis writes its database to the working directory
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", url, *options),
            cwd=folder,
            env=os.environ | {"NO_COLOR": "1"},
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(120):
                printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode is not None
    return process.returncode, printed.decode(errors="replace")
