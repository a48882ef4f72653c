"""gizmopy dead-letters with a broker that has positions, whose scheme is of a third party."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gizmopy.cli import main
from gizmopy.pubsub import Message
from tests.cli.dead_letter_support import QUICK, a_broker, bodies, dead_letter
from tests.pubsub.log_broker import LogBroker


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LogBroker:
    """Register logs:// for a broker with one partition per topic, and set GIZMO_PUBSUB_URL."""
    return a_broker(monkeypatch, tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command that ends with ``code``, and return its output."""
    assert main(["dead-letters", *words, *QUICK]) == code
    return capsys.readouterr().out


def test_a_list_has_a_line_for_each(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """The list has ids, ages and failures, no body, and moves nothing."""
    dead_letter(broker, b"hunter2", b"kit", dl_reason="exhausted")

    header, first, second, summary = run(capsys, "list", "dead").splitlines()

    assert header.startswith("id\tage\tgizmo-dl-reason\t")
    assert first.startswith("dead-hunter2\t0s\texhausted\t")
    assert second.startswith("dead-kit\t0s\t")
    assert "hunter2" not in first.replace("dead-hunter2", "")
    assert summary == "2 dead letters"
    assert not broker.committed("dead", "redrive")
    assert bodies(broker, "cats") == []


def test_a_list_as_json_has_one_object_a_line(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names are plain; without show there is neither body nor key nor another attribute."""
    dead_letter(broker, b"secret", dl_reason="\x9b2J", dl_attempts="15", token="hunter2")

    line = run(capsys, "list", "dead", "--json")

    found = json.loads(line)
    assert line.strip().isprintable()
    assert found["id"] == "dead-secret"
    assert found["reason"] == "\x9b2J"
    assert found["attempts"] == "15"
    assert found["source_topic"] == "cats"
    assert found["handler"] is None
    assert found["age_seconds"] >= 0
    assert found.keys().isdisjoint({"body", "key", "attributes"})
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"name": "tom"}', '15 bytes\n  {\n    "name": "tom"\n  }\n'),
        (b"tom\x1b[2J", "7 bytes\n  tom\\x1b[2J\n"),
        ("läuft\nid: 9".encode(), "12 bytes\n  läuft\n  id: 9\n"),
        (b"\xff\x00\x01", "3 bytes of binary data\n  ff 00 01\n"),
        (b"a\x00b", "3 bytes of binary data\n  61 00 62\n"),
        (b"9" * 5000, "5000 bytes\n  999"),
        (b"[" * 5000, "5000 bytes\n  [[["),
        (b"", "0 bytes\n  \n"),
    ],
    ids=["json", "escapes", "lines", "binary", "nul", "a long number", "deep", "empty"],
)
def test_a_body_is_shown_safely(
    body: bytes, shown: str, broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has indents, text its lines, other data is hexadecimal; nothing controls a terminal."""
    broker.append(Message("dead", body, key="k\x9b", attributes={"a": "\x1b"}, id="1"))

    text = run(capsys, "show", "dead")

    assert f"body: {shown}" in text
    assert "key: k\\x9b\n" in text
    assert "a: \\x1b\n" in text
    assert "\x1b" not in text


def test_a_tombstone_is_shown(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """A message without a body says so, as text and as JSON."""
    broker.append(Message("dead", None, id="1"))
    assert "body: none (a tombstone)" in run(capsys, "show", "dead")
    assert json.loads(run(capsys, "show", "dead", "--json"))["body"] is None


def test_a_large_body_is_cut(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """--body-bytes bounds a body, between two bytes of a character, too; JSON tells the size."""
    dead_letter(broker, "äää".encode())

    assert "6 bytes, the first 3 shown" in run(capsys, "show", "dead", "--body-bytes", "3")
    found = json.loads(run(capsys, "show", "dead", "--json", "--body-bytes", "3"))

    assert found["body"] == {"text": "ä", "size": 6, "is_cut": True}


def test_show_shows_ten(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """A look at a channel with many dead letters shows ten bodies, unless --limit says more."""
    dead_letter(broker, *(str(number).encode() for number in range(12)))
    assert "10 dead letters" in run(capsys, "show", "dead")
    assert "12 dead letters" in run(capsys, "show", "dead", "--limit", "100")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--reason", "exhau"], ["tom"]),
        (["--match", "KeyError"], ["kit"]),
        (["--key", "k"], ["kit"]),
        (["--text", "om"], ["tom"]),
        (["--text", "red"], ["kit"]),
        (["--id", "dead-tom"], ["tom"]),
        (["--id", "8", "--id", "dead-tom"], ["tom", "kit"]),
        (["--id", "8", "--reason", "exhausted"], []),
    ],
)
def test_filters(
    flags: list[str], found: list[str], broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each filter says which dead letters are meant; several hold together, ids each alone."""
    dead_letter(broker, b"tom", dl_reason="exhausted")
    attributes = {
        "gizmo-dl-reason": "rejected",
        "gizmo-dl-exception": "KeyError: a",
        "gizmo-dl-message-id": "8",
        "colour": "red",
    }
    broker.append(Message("dead", b"kit", key="k", attributes=attributes, id="dead-kit"))

    lines = run(capsys, "show", "dead", "--json", *flags).splitlines()

    assert [json.loads(line)["body"]["text"] for line in lines] == found


def test_redrive_is_the_short_form(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """dead-letters redrive does the same as redrive."""
    dead_letter(broker, b"tom")
    out = run(capsys, "redrive", "dead", "--from-topic", "cats")
    assert out == "1 redriven, 0 left, 0 failed\n"
    assert bodies(broker, "cats") == [b"tom"]


# Drop


def test_drop_deletes(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """With --yes all are settled, and nothing is published."""
    dead_letter(broker, b"tom", b"kit")
    assert run(capsys, "drop", "dead", "--yes") == "2 dropped, 0 left, 0 failed\n"
    assert broker.is_consumed("dead", "redrive")
    assert bodies(broker, "cats") == []


def test_a_dry_run_deletes_nothing(broker: LogBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """It lists them, without a question."""
    dead_letter(broker, b"tom")
    lines = run(capsys, "drop", "dead", "--dry-run").splitlines()
    assert lines[1].startswith("dead-tom")
    assert lines[-1] == "0 dropped, 1 left, 0 failed"
    assert not broker.committed("dead", "redrive")


def test_nothing_is_dropped_by_mistake(
    broker: LogBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a filter, --yes and a terminal, drop is a usage error before anything happens."""
    dead_letter(broker, b"tom")
    with pytest.raises(SystemExit) as ended:
        run(capsys, "drop", "dead")
    assert ended.value.code == 2
    assert "nothing is deleted" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "dropped"), [("y", True), ("", False)])
def test_drop_asks_at_a_terminal(
    answer: str,
    dropped: bool,
    broker: LogBroker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only a yes deletes all dead letters."""
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ask)
    dead_letter(broker, b"tom")

    if dropped:
        assert "1 dropped" in run(capsys, "drop", "dead")
    else:
        with pytest.raises(SystemExit):
            run(capsys, "drop", "dead")

    assert questions == ["delete all dead letters of 'dead'? [y/N] "]


def test_without_an_action_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the actions."""
    assert main(["dead-letters"]) == 2
    assert "drop" in capsys.readouterr().out


def test_a_size_below_zero_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """--body-bytes takes 0 and more."""
    with pytest.raises(SystemExit):
        run(capsys, "show", "dead", "--body-bytes", "-1")
    assert "--body-bytes -1: is below 0" in capsys.readouterr().err
