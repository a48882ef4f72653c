"""gizmopy redrive with a broker that has positions, whose scheme is of a third party."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gizmopy.cli import main
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import Results
from tests.cli.dead_letter_support import QUICK, a_broker, bodies, dead_letter
from tests.pubsub.log_broker import LogBroker, LogSender


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LogBroker:
    """Register logs:// for a broker with one partition per topic, and set GIZMO_PUBSUB_URL."""
    return a_broker(monkeypatch, tmp_path)


def test_dead_letters_go_back(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """All are published to their source topics, and the exit code is 0."""
    dead_letter(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", *QUICK]) == 0

    assert capsys.readouterr().out == "2 redriven, 0 left, 0 failed\n"
    assert bodies(broker, "cats") == [b"tom", b"kit"]
    assert broker.is_consumed("dead", "redrive")


def test_settings_decide_the_topics_of_channels(
    broker: LogBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--url, --to, --subscription and the variables of channels are used."""
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "memory://")
    monkeypatch.setenv("GIZMO_SUBSCRIPTION_DEAD", "logs://host/graveyard")
    monkeypatch.setenv("GIZMO_TOPIC_CATS", "logs://host/cats-v2")
    dead_letter(broker, b"tom", topic="graveyard")
    flags = ["--url", "logs://host", "--to", "cats", "--subscription", "mine"]

    assert main(["redrive", "dead", *flags, *QUICK]) == 0

    assert bodies(broker, "cats-v2") == [b"tom"]
    assert broker.is_consumed("graveyard", "mine")


def test_a_failure_is_printed_and_the_exit_code_is_1(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message that failed is printed with the reason; later messages are left."""
    broker.missing.add("cats")
    dead_letter(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", *QUICK]) == 1

    said = capsys.readouterr()
    assert said.out == "0 redriven, 1 left, 1 failed\n"
    assert "message 7: it was not published to 'cats': topic 'cats' does not exist" in said.err


def test_a_failure_does_not_control_a_terminal(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of a dead letter in an error is escaped and cut."""
    topic = "\x1b[2J\r" + "x" * 200
    broker.missing.add(topic)
    dead_letter(broker, b"tom", dl_source_topic=topic, dl_message_id="\x9b2J\n" + "7" * 10**5)

    assert main(["redrive", "dead", "--from-topic", topic, *QUICK]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"message \x9b2J\n777")
    assert line.isprintable()
    assert len(line) < 2200


# The topics that dead letters may be published to


def test_topics_that_are_not_allowed_are_listed_and_nothing_moves(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead letter may name any topic, so it is published only to a topic that is allowed."""
    dead_letter(broker, b"tom", b"kit")
    dead_letter(broker, b"forged", dl_source_topic="pass\x1b[2Jwords")

    assert main(["redrive", "dead", *QUICK]) == 1

    said = capsys.readouterr()
    assert said.out == "0 redriven, 3 left, 0 failed\n"
    first, second, remedy = said.err.splitlines()
    assert first == "2 not moved, from topic 'cats'"
    assert second == r"1 not moved, from topic 'pass\x1b[2Jwords'"
    assert "--from-topic NAME" in remedy
    assert bodies(broker, "cats") == []


@pytest.mark.parametrize("name", ["GIZMO_TOPIC_CATS", "GIZMO_SUBSCRIPTION_CATS"])
def test_a_topic_that_the_environment_names_is_allowed(
    name: str, broker: LogBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic that GIZMO_TOPIC_* names is allowed for dead letters."""
    monkeypatch.setenv(name, "logs://host/cats")
    dead_letter(broker, b"tom")

    assert main(["redrive", "dead", *QUICK]) == 0

    assert bodies(broker, "cats") == [b"tom"]


@pytest.mark.parametrize("target", ["litter:Litter", "litter:Mounting"])
def test_the_channels_of_a_service_are_allowed(
    target: str, broker: LogBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With module:Service after the channel, its channels are allowed, mounted ones included."""
    (tmp_path / "litter.py").write_text(
        "from gizmopy import Endpoints, Service, subscribe\n"
        "class Cats(Endpoints):\n"
        "    @subscribe('cats', dead_letter='dead')\n"
        "    async def on_cat(self, cat: str) -> None: ...\n"
        "class Litter(Cats, Service): ...\n"
        "class Mounting(Service):\n"
        "    def mounts(self): return [Cats()]\n"
    )
    dead_letter(broker, b"tom")
    dead_letter(broker, b"forged", dl_source_topic="passwords")

    assert main(["redrive", "dead", target, *QUICK]) == 1

    assert bodies(broker, "cats") == [b"tom"]
    assert bodies(broker, "passwords") == []
    assert "1 not moved, from topic 'passwords'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "moved", "code"), [(["y"], 2, 0), (["n"], 0, 1), ([""], 0, 1), ([], 0, 1)]
)
def test_the_user_at_a_terminal_is_asked(
    answers: list[str],
    moved: int,
    code: int,
    broker: LogBroker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command asks for each topic; only after a yes it moves the dead letters."""
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        if not answers:
            raise EOFError
        return answers.pop()

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    dead_letter(broker, b"tom", b"kit")

    assert main(["redrive", "dead", *QUICK]) == code

    assert questions == ["2 from topic 'cats': publish them there? [y/N] "]
    assert len(bodies(broker, "cats")) == moved
    assert ("2 not moved, from topic 'cats'" in capsys.readouterr().err) is (moved == 0)


def test_a_dry_run_lists_a_line_each(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """Tabs separate columns, and the text of a dead letter is escaped."""
    dead_letter(
        broker,
        b"tom",
        dl_reason="exhausted",
        dl_exception="ValueError: no\n\x1b[2J\x9b\u202e\udc80\tage",
        dl_attempts="15",
        dl_first_failed_at="2024-05-01T00:00:00+00:00",
    )

    assert main(["redrive", "dead", "--dry-run", *QUICK]) == 0

    header, row, summary = capsys.readouterr().out.splitlines()
    assert dict(zip(header.split("\t"), row.split("\t"), strict=True)) == {
        "id": "dead-tom",
        "age": "0s",
        "gizmo-dl-message-id": "7",
        "gizmo-dl-reason": "exhausted",
        "gizmo-dl-exception": r"ValueError: no\n\x1b[2J\x9b\u202e\udc80\tage",
        "gizmo-dl-attempts": "15",
        "gizmo-dl-source-topic": "cats",
        "gizmo-dl-first-failed-at": "2024-05-01T00:00:00+00:00",
        "gizmo-dl-redriven": "-",
    }
    assert summary == "0 redriven, 1 left, 0 failed"
    assert bodies(broker, "cats") == []


def test_a_limit_is_printed(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that stops at the limit prints that more dead letters may be left."""
    dead_letter(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", "--limit", "1"]) == 0

    said = capsys.readouterr()
    assert said.out.startswith("1 redriven, ")
    assert said.err == "the limit of 1 is reached; more dead letters may be left\n"


def test_a_broker_within_a_process_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process has its own memory:// broker, so another process cannot read its messages."""
    monkeypatch.delenv("GIZMO_PUBSUB_URL")
    assert main(["redrive", "dead", *QUICK]) == 1
    assert "keeps its messages in the memory of the daemon's process" in capsys.readouterr().err


def test_an_unsupported_filter_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A filter on a broker with positions is an error, with exit code 1."""
    assert main(["redrive", "dead", "--match", "KeyError", *QUICK]) == 1
    assert "keeps positions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--wait", "0"], "--wait 0: is not above 0"),
        (["--wait", "nan"], "--wait nan: is not above 0"),
        (["--limit", "0"], "--limit 0: is below 1"),
    ],
)
def test_invalid_numbers_are_usage_errors(
    flags: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--wait and --limit outside their ranges are usage errors."""
    with pytest.raises(SystemExit) as ended:
        main(["redrive", "dead", *flags])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_flag_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is neither of the command nor a setting is not ignored."""
    assert main(["redrive", "dead", "--dry-rum"]) == 2
    assert "--dry-rum" in capsys.readouterr().err


class InterruptingBroker(LogBroker):
    """A broker whose sender is interrupted by Ctrl-C during a publication."""

    def sender(self, topic: str) -> LogSender:
        return InterruptedSender(self, topic)


class InterruptedSender(LogSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        return []


def test_an_interrupt_ends_the_command_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C leaves unconfirmed messages, prints the summary, and exits with 130."""
    broker = InterruptingBroker(partitions=1)
    monkeypatch.setattr(sys.modules["thirdparty_logs"], "open_driver", lambda url: broker)
    dead_letter(broker, b"tom")

    # A daemon that another test ran in this process may have left another handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["redrive", "dead", "--from-topic", "cats"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)

    assert capsys.readouterr().out == "0 redriven, 1 left, 0 failed\n"
    assert not broker.is_consumed("dead", "redrive")
