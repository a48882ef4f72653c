"""The conformance suite: the in-memory brokers pass it, and its runner reports every failure."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from gizmopy.pubsub import Driver
from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest.__main__ import main
from pubsubtest.conformance import Check, Harness, Report, checks, run, run_check
from pubsubtest.conformance.checking import (
    ATTRIBUTE_BYTES,
    ATTRIBUTES,
    CAP,
    ONE_QUEUE,
    PUSHES,
    CheckFailed,
    Checks,
    expect,
)
from pubsubtest.conformance.context import UNKNOWN
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.push_broker import PushBroker

ALL = checks()


def memory() -> Harness:
    """Return the harness of ``memory://`` with a short lease."""

    def open_driver() -> MemoryDriver:
        driver = MemoryDriver(lease=0.6, message_bytes=100_000, batch_messages=50)
        driver.capabilities = replace(driver.capabilities, batch_bytes=200_000)
        return driver

    return Harness(open=open_driver)


def capped() -> Harness:
    """Return the harness of a broker with a short cap on leases."""
    return Harness(open=lambda: MemoryDriver(lease=0.6, lease_cap=1.0))


def queue() -> Harness:
    """Return the harness of a broker whose topics have one subscription."""
    return Harness(open=lambda: MemoryDriver(lease=0.6, fan_out=False))


def limited() -> Harness:
    """Return the harness of a broker that limits the attributes of a message."""
    return Harness(open=lambda: MemoryDriver(message_attributes=10, attribute_bytes=100))


def pushed() -> Harness:
    """Return the harness of a broker that pushes."""
    return Harness(open=PushBroker)


def log() -> Harness:
    """Return the harness of a broker with positions, which a test can make unreachable."""
    broker = LogBroker(rebalance_seconds=2.0, can_browse=True)
    broker.missing.add(UNKNOWN)

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        with broker.outage():
            yield

    return Harness(open=lambda: broker, creates_topics=False, outage=outage, quiet=0.2)


BROKERS = (memory, capped, queue, limited, pushed, log)
NEEDED = {
    capped: {CAP},
    queue: {ONE_QUEUE},
    limited: {ATTRIBUTES, ATTRIBUTE_BYTES},
    pushed: {PUSHES},
}
"""The needs of the checks that a broker is for."""


def applicable() -> list[Any]:
    """Return each check with each broker that it applies to."""
    return [
        pytest.param(make, check, id=f"{make.__name__}-{check.name}")
        for make in BROKERS
        for check in ALL
        if not check.missing(make(), make().open().capabilities)
        and (make not in NEEDED or NEEDED[make].intersection(check.needs))
    ]


@pytest.mark.parametrize(("broker", "check"), applicable())
async def test_a_broker_in_memory_passes(broker: Callable[[], Harness], check: Check) -> None:
    """Each check passes on brokers with leases and on one with positions."""
    result = await run_check(check, broker(), timeout=30)
    assert (result.outcome, result.reason) == ("passed", "")


def test_no_check_is_left_out_everywhere() -> None:
    """Each check applies to at least one of the brokers."""
    assert {check.name for _, check in (each.values for each in applicable())} == {
        check.name for check in ALL
    }


def test_each_check_is_documented_and_has_a_unique_name() -> None:
    """Each check has a unique name and one sentence."""
    assert len(ALL) == len({check.name for check in ALL}) >= 40
    assert [check.name for check in ALL if not check.sentence.endswith(".")] == []


def _only(check: Checks) -> Check:
    (only,) = check.all
    return only


def _named(name: str) -> Check:
    (named,) = (check for check in ALL if check.name == name)
    return named


async def test_a_check_that_hangs_fails_and_says_where() -> None:
    """Each check has a time limit, and the failure names the place where it waits."""
    check = Checks()

    @check()
    async def hang(bench: object) -> None:
        """Hang."""
        await asyncio.Event().wait()

    result = await run_check(_only(check), memory(), timeout=0.05)
    assert result.outcome == "failed"
    assert "it took longer than 0.05 s, and waits in " in result.reason
    assert "hang (test_conformance.py:" in result.reason


async def test_a_check_that_ignores_its_cancellation_is_left_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run goes on without the check."""
    monkeypatch.setattr("pubsubtest.conformance.runner._GRACE", 0.05)
    check = Checks()
    let_go = asyncio.Event()

    @check()
    async def stay(bench: object) -> None:
        """Stay."""
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    before = asyncio.all_tasks()
    result = await run_check(_only(check), memory(), timeout=0.05)
    (left,) = asyncio.all_tasks() - before
    let_go.set()
    await asyncio.wait((left,))
    assert result.outcome == "failed"


async def test_a_run_that_is_cancelled_ends_its_check_and_removes_its_topics() -> None:
    """A cancelled run leaves nothing on the broker."""
    events: list[str] = []
    at_work = asyncio.Event()
    check = Checks()

    @check()
    async def hang(bench: object) -> None:
        """Hang."""
        at_work.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(run_check(_only(check), _noting(events)))
    await at_work.wait()
    running.cancel()
    await asyncio.wait((running,))
    assert running.cancelled()
    assert events == ["made", "closed", "removed"]


def _noting(events: list[str]) -> Harness:
    """Return a harness that records in ``events`` when topics are created and removed."""

    class Noting(MemoryDriver):
        async def aclose(self) -> None:
            events.append("closed")
            await super().aclose()

    @asynccontextmanager
    async def provision(topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
        suffix = topic.rpartition("-")[2] if topic.count("-") > 1 else ""
        events.append(f"made {suffix}".strip())
        try:
            yield
        finally:
            events.append(f"removed {suffix}".strip())

    return Harness(open=Noting, provision=provision)


async def test_a_check_makes_the_topics_that_it_uses() -> None:
    """Most checks use one topic; topics are removed in reverse order, after the driver closed."""
    events: list[str] = []
    await run_check(_named("topics_do_not_mix"), _noting(events))
    assert events == ["made", "made other", "closed", "removed other", "removed"]


async def test_a_check_that_does_not_apply_creates_no_topics() -> None:
    """One driver is opened to read its capabilities, and closed."""
    events: list[str] = []
    result = await run_check(_named("an_ack_stands_for_all_before_it"), _noting(events))
    assert (result.outcome, events) == ("not applicable", ["closed"])


async def test_a_driver_that_cannot_be_opened_fails_each_check() -> None:
    """A run never raises because of a driver."""

    def refuse() -> Driver:
        raise OSError("no such file")

    result = await run_check(_named("any_bytes_travel"), Harness(open=refuse))
    assert result.outcome == "failed"
    assert result.reason.startswith("OSError('no such file'), raised in refuse (test_conformance")


async def test_whatever_a_check_raises_is_its_result() -> None:
    """A bug of a driver is a failed check, with the error and its place."""
    check = Checks()

    @check()
    async def explode(bench: object) -> None:
        """Explode."""
        raise KeyError("offset")

    result = await run_check(_only(check), memory())
    assert result.outcome == "failed"
    assert result.reason.startswith("KeyError('offset'), raised in explode (test_conformance.py:")


async def test_a_close_that_fails_does_not_hide_why_the_check_failed() -> None:
    """The result has both failures."""

    class Failing(MemoryDriver):
        async def aclose(self) -> None:
            raise OSError("still busy")

    check = Checks()

    @check()
    async def fail(bench: object) -> None:
        """Fail."""
        raise CheckFailed("the key became None")

    result = await run_check(_only(check), Harness(open=Failing))
    first, second = result.reason.splitlines()
    assert first == "the key became None"
    assert second.startswith("OSError('still busy')")


async def test_a_driver_that_cancels_fails_the_check() -> None:
    """A CancelledError without a cancellation is a failed check."""
    check = Checks()

    @check()
    async def cancel(bench: object) -> None:
        """Cancel."""
        raise asyncio.CancelledError

    result = await run_check(_only(check), memory())
    assert (result.outcome, result.reason) == ("failed", "it was cancelled by the driver")


async def test_a_task_that_is_left_running_is_a_failure() -> None:
    """A driver must end the tasks that it starts."""
    check = Checks()
    left: list[asyncio.Task[bool]] = []

    @check()
    async def leave(bench: object) -> None:
        """Leave a task."""
        left.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

    result = await run_check(_only(check), memory())
    left[0].cancel()
    assert result.outcome == "failed"
    assert result.reason == "tasks are left running after all was closed: forgotten"


def test_expect_says_what_is_wrong() -> None:
    """It raises its own exception: ``python -O`` removes asserts."""
    expect(True, "fine")
    with pytest.raises(CheckFailed, match="the key became None"):
        expect(None, "the key became None")


async def test_a_report_counts_and_says_why_a_check_does_not_apply() -> None:
    """The report has the reason for each check that does not apply."""
    told: list[str] = []
    report = await run(
        memory(),
        only=["a_nacked_message_comes_again", "an_ack_stands_for_all_before_it"],
        tell=lambda result: told.append(result.check.name),
    )
    assert str(report) == "1 passed, 0 failed, 1 not applicable"
    assert told == [result.check.name for result in report.results]
    assert report.results[1].reason == "needs a broker that keeps positions"


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Restore the log level that the command changes."""
    logger = logging.getLogger("gizmopy")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("as_it_was")
def test_the_command_prints_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line has the counts; the exit code is 0 if none failed."""
    names = ["json_is_not_mangled", "an_ack_stands_for_all_before_it"]
    code = main(["memory://?lease=1", *(f"--only={name}" for name in names)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0].startswith("ok    json_is_not_mangled: A JSON body")
    assert lines[1].startswith("n/a   an_ack_stands_for_all_before_it: After an ack")
    assert lines[2] == "      needs a broker that keeps positions"
    assert lines[3] == "1 passed, 0 failed, 1 not applicable"


@pytest.mark.usefixtures("as_it_was")
def test_the_command_fails_if_a_check_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, and the line has FAIL and the reason."""

    async def failing(*arguments: object, **options: object) -> Report:
        tell = options["tell"]
        check = Checks()

        @check()
        async def fail(bench: object) -> None:
            """Fail."""
            raise CheckFailed("the key became None")

        result = await run_check(_only(check), memory())
        tell(result)  # type: ignore[operator]  # it is a callable
        return Report((result,))

    monkeypatch.setattr("pubsubtest.__main__.run", failing)
    assert main(["memory://"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  fail: Fail.",
        "      the key became None",
        "0 passed, 1 failed, 0 not applicable",
    ]


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("url", ["nowhere://", "memory://?leese=1", "memory://[", "kafka"])
def test_the_command_rejects_an_invalid_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2, and one line has the reason."""
    assert main([url]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--only=any_byte", "there is no check 'any_byte'; similar names: any_bytes_travel"),
        ("--only=%", "there is no check '%'; docs/conformance.md lists them"),
        ("--timeout=0", "'0' is not a number of seconds above 0"),
        ("--timeout=soon", "'soon' is not a number of seconds above 0"),
        ("--timeout=inf", "'inf' is not a number of seconds above 0"),
    ],
)
def test_the_command_rejects_an_invalid_flag(
    flag: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and a line lists similar names."""
    with pytest.raises(SystemExit) as ended:
        main(["memory://", flag])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


IMMORTAL = """
import asyncio, sys
from gizmopy.pubsub.brokers.memory import MemoryReceiver
from pubsubtest.__main__ import main
from pubsubtest.conformance import runner

async def receive(self, limit, wait):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

MemoryReceiver.receive = receive
runner._GRACE = 0.1
sys.exit(main(["memory://", "--only=any_bytes_travel", "--timeout=0.1"]))
"""


def test_the_command_ends_even_if_a_driver_does_not() -> None:
    """A call that ignores its cancellation is a failed check, and the report is printed."""
    ended = subprocess.run(
        [sys.executable, "-c", IMMORTAL], capture_output=True, text=True, timeout=40, check=False
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert lines[0].startswith("FAIL  any_bytes_travel")
    assert lines[-1] == "0 passed, 1 failed, 0 not applicable"
