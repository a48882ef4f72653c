"""The brokers in memory pass every check that they can be put to, and the suite says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from gizmopy.pubsub.memory import MemoryDriver
from pubsubtest.__main__ import main
from pubsubtest.conformance import Check, Harness, Report, checks, run, run_check
from pubsubtest.conformance.checking import CheckFailed, Checks, expect
from tests.pubsub.log_broker import LogBroker

ALL = checks()


def memory() -> Harness:
    """Return the harness of ``memory://``, with a lease short enough to be waited for."""
    return Harness(open=lambda: MemoryDriver(lease=0.6, message_bytes=100_000))


def log() -> Harness:
    """Return the harness of a broker that keeps positions, and fails when it is told to."""
    broker = LogBroker(rebalance_seconds=2.0)
    broker.missing.add("conformance-does-not-exist")

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        with broker.outage():
            yield

    return Harness(open=lambda: broker, creates_topics=False, outage=outage)


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.name)
@pytest.mark.parametrize("harness", [memory, log], ids=["memory", "log"])
async def test_a_broker_in_memory_passes(check: Check, harness: Callable[[], Harness]) -> None:
    """What each check says is true of a broker with leases and of one with positions."""
    result = await run_check(check, harness(), timeout=30)
    assert result.outcome != "failed", result.reason


def test_no_check_is_left_out_everywhere() -> None:
    """Between the two brokers, each check is applicable to one at least."""
    left_out = [
        check.name
        for check in ALL
        if all(check.missing(h, h.open().capabilities) for h in (memory(), log()))
    ]
    assert left_out == []


def test_each_check_is_documented_and_has_a_name_of_its_own() -> None:
    """There are many of them, each says what is true in one sentence."""
    assert len(ALL) == len({check.name for check in ALL}) >= 40
    assert [check.name for check in ALL if not check.sentence.endswith(".")] == []


def _only(check: Checks) -> Check:
    (only,) = check.all
    return only


async def test_a_check_that_hangs_fails_by_its_name_and_the_run_goes_on() -> None:
    """Each check is bounded, even one that does not heed its cancellation for a while."""
    check = Checks()

    @check()
    async def hang(bench: object) -> None:
        """Hang."""
        await asyncio.Event().wait()

    result = await run_check(_only(check), memory(), timeout=0.05)
    assert (result.outcome, result.reason) == ("failed", "it took longer than 0.05 s")


async def test_whatever_a_check_raises_is_its_result() -> None:
    """A driver's bug is a failed check, with what it raised."""
    check = Checks()

    @check()
    async def explode(bench: object) -> None:
        """Explode."""
        raise KeyError("offset")

    result = await run_check(_only(check), memory())
    assert (result.outcome, result.reason) == ("failed", "it raised KeyError('offset')")


async def test_a_task_that_is_left_running_is_a_failure() -> None:
    """What a driver starts it ends."""
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
    """It is an exception of its own, not an assert that an optimised Python leaves out."""
    expect(True, "fine")
    with pytest.raises(CheckFailed, match="the key became None"):
        expect(None, "the key became None")


async def test_a_report_counts_and_says_why_a_check_does_not_apply() -> None:
    """What the driver cannot do is in the report, with the reason."""
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
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the log level that the command changes."""
    logger = logging.getLogger("gizmopy")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    """Then what was counted; the exit code is 0 where nothing failed."""
    names = ["json_is_not_mangled", "an_ack_stands_for_all_before_it"]
    code = main(["memory://?lease=1", *(f"--only={name}" for name in names)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0].startswith("ok    json_is_not_mangled: A body that is JSON")
    assert lines[1].startswith("n/a   an_ack_stands_for_all_before_it: A partition's last message")
    assert lines[2] == "      needs a broker that keeps positions"
    assert lines[3] == "1 passed, 0 failed, 1 not applicable"


@pytest.mark.usefixtures("quick")
def test_the_command_fails_where_a_check_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit code is 1, and the line says FAIL and why."""

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


@pytest.mark.usefixtures("quick")
def test_the_command_refuses_a_broker_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2, and one line says which there are."""
    assert main(["nowhere://"]) == 2
    assert "memory://" in capsys.readouterr().err
