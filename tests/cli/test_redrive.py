"""gizmopy redrive, against a broker that keeps positions, opened by a third party's scheme."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from gizmopy.cli import main
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.driver import Results
from tests.pubsub.log_broker import LogBroker, LogSender

QUICK = ("--wait", "0.1")


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LogBroker:
    """Register logs:// for a broker with one partition a topic, and name it by the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIZMO_CONFIG", "GIZMO_TOPIC_CATS", "GIZMO_SUBSCRIPTION_DEAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "logs://host")
    module = ModuleType("thirdparty_logs")
    broker = LogBroker(partitions=1)
    module.open_driver = lambda url: broker  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "thirdparty_logs", module)
    point = EntryPoint("logs", "thirdparty_logs:open_driver", drivers.GROUP)
    monkeypatch.setattr(drivers, "entry_points", lambda *, group: [point])
    return broker


def bury(broker: LogBroker, *bodies: bytes, topic: str = "dead", **attributes: str) -> None:
    """Publish dead letters."""
    named = {"dl-source-topic": "cats", "dl-message-id": "7"}
    named |= {name.replace("_", "-"): text for name, text in attributes.items()}
    for body in bodies:
        broker.append(Message(topic, body, attributes=named, id=f"dead-{body.decode()}"))


def bodies(broker: LogBroker, topic: str) -> list[bytes | None]:
    """Return what a topic holds."""
    return [message.body for message in broker.logs(topic)[0].messages]


def test_dead_letters_go_back(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """All are published to where they came from; the summary says so, and the exit code is 0."""
    bury(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", *QUICK]) == 0

    assert capsys.readouterr().out == "2 redriven, 0 left, 0 failed\n"
    assert bodies(broker, "cats") == [b"tom", b"kit"]
    assert broker.is_consumed("dead", "redrive")


def test_channels_lead_where_settings_say(
    broker: LogBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--url, --to, --subscription and the variables of channels are honoured."""
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "memory://")
    monkeypatch.setenv("GIZMO_SUBSCRIPTION_DEAD", "logs://host/graveyard")
    monkeypatch.setenv("GIZMO_TOPIC_CATS", "logs://host/cats-v2")
    bury(broker, b"tom", topic="graveyard")
    flags = ["--url", "logs://host", "--to", "cats", "--subscription", "mine"]

    assert main(["redrive", "dead", *flags, *QUICK]) == 0

    assert bodies(broker, "cats-v2") == [b"tom"]
    assert broker.is_consumed("graveyard", "mine")


def test_a_failure_is_told_and_the_exit_code_is_1(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not published is named with the reason; what stands behind it is left."""
    broker.missing.add("cats")
    bury(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", *QUICK]) == 1

    said = capsys.readouterr()
    assert said.out == "0 redriven, 1 left, 1 failed\n"
    assert "message 7: it was not published to 'cats': topic 'cats' does not exist" in said.err


def test_a_failure_does_not_steer_a_terminal(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quotes from a dead letter in a failure are escaped and cut."""
    topic = "\x1b[2J\r" + "x" * 200
    broker.missing.add(topic)
    bury(broker, b"tom", dl_source_topic=topic, dl_message_id="\x9b2J\n" + "7" * 10**5)

    assert main(["redrive", "dead", "--from-topic", topic, *QUICK]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"message \x9b2J\n777")
    assert line.isprintable()
    assert len(line) < 2200


# Which topics dead letters may go back to


def test_topics_that_nothing_names_are_listed_and_nothing_moves(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead letter may name any topic: without a word of ours it goes nowhere."""
    bury(broker, b"tom", b"kit")
    bury(broker, b"forged", dl_source_topic="pass\x1b[2Jwords")

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
    """The place of a channel is where its dead letters may go."""
    monkeypatch.setenv(name, "logs://host/cats")
    bury(broker, b"tom")

    assert main(["redrive", "dead", *QUICK]) == 0

    assert bodies(broker, "cats") == [b"tom"]


def test_the_channels_of_a_service_are_allowed(
    broker: LogBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With module:Service behind the channel, the channels of the service are destinations."""
    (tmp_path / "litter.py").write_text(
        "from gizmopy import Service, subscribe\n"
        "class Litter(Service):\n"
        "    @subscribe('cats', dead_letter='dead')\n"
        "    async def on_cat(self, cat: str) -> None: ...\n"
    )
    bury(broker, b"tom")
    bury(broker, b"forged", dl_source_topic="passwords")

    assert main(["redrive", "dead", "litter:Litter", *QUICK]) == 1

    assert bodies(broker, "cats") == [b"tom"]
    assert bodies(broker, "passwords") == []
    assert "1 not moved, from topic 'passwords'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "moved", "code"), [(["y"], 2, 0), (["n"], 0, 1), ([""], 0, 1), ([], 0, 1)]
)
def test_a_terminal_asks(
    answers: list[str],
    moved: int,
    code: int,
    broker: LogBroker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At a terminal the person is asked for each topic; only a yes moves its dead letters."""
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        if not answers:
            raise EOFError
        return answers.pop()

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    bury(broker, b"tom", b"kit")

    assert main(["redrive", "dead", *QUICK]) == code

    assert questions == ["2 from topic 'cats': publish them there? [y/N] "]
    assert len(bodies(broker, "cats")) == moved
    assert ("2 not moved, from topic 'cats'" in capsys.readouterr().err) is (moved == 0)


def test_a_dry_run_lists_a_line_each(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are parted by tabs; what comes from outside neither breaks lines nor steers."""
    bury(
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
        "dl-message-id": "7",
        "dl-reason": "exhausted",
        "dl-exception": r"ValueError: no\n\x1b[2J\x9b\u202e\udc80\tage",
        "dl-attempts": "15",
        "dl-source-topic": "cats",
        "dl-first-failed-at": "2024-05-01T00:00:00+00:00",
        "dl-redriven": "-",
    }
    assert summary == "0 redriven, 1 left, 0 failed"
    assert bodies(broker, "cats") == []


def test_a_limit_is_told(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that stops early says that more dead letters may be left."""
    bury(broker, b"tom", b"kit")

    assert main(["redrive", "dead", "--from-topic", "cats", "--limit", "1"]) == 0

    said = capsys.readouterr()
    assert said.out.startswith("1 redriven, ")
    assert said.err == "the limit of 1 is reached; more dead letters may be left\n"


def test_a_broker_within_a_process_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """memory:// is another broker in each process: there is nothing to find in it from here."""
    monkeypatch.delenv("GIZMO_PUBSUB_URL")
    assert main(["redrive", "dead", *QUICK]) == 1
    assert "keeps its messages in the memory of the daemon's process" in capsys.readouterr().err


def test_what_a_log_cannot_do_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A filter on a broker that keeps positions is refused, with exit code 1."""
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
def test_numbers_that_cannot_be_are_refused(
    flags: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are usage errors."""
    with pytest.raises(SystemExit) as ended:
        main(["redrive", "dead", *flags])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_flag_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no flag of the command has to be a setting, and is never ignored."""
    assert main(["redrive", "dead", "--dry-rum"]) == 2
    assert "--dry-rum" in capsys.readouterr().err


class Interrupting(LogBroker):
    """A broker under which somebody presses Ctrl-C while a message is being published."""

    def sender(self, topic: str) -> LogSender:
        return InterruptedSender(self, topic)


class InterruptedSender(LogSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        return []


def test_an_interrupt_ends_it_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C leaves what is not confirmed, prints the summary, and exits with 130."""
    broker = Interrupting(partitions=1)
    monkeypatch.setattr(sys.modules["thirdparty_logs"], "open_driver", lambda url: broker)
    bury(broker, b"tom")

    assert main(["redrive", "dead", "--from-topic", "cats"]) == 130

    assert capsys.readouterr().out == "0 redriven, 1 left, 0 failed\n"
    assert not broker.is_consumed("dead", "redrive")
