"""How log files are opened, and which paths are refused."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gizmopy.observe import logs
from gizmopy.observe.access import AccessLog
from gizmopy.observe.log_writer import open_writer

ROOT = Path(__file__).parents[2]


def _no_error(error: Exception) -> None:
    raise AssertionError(error)


def _refusal(path: object) -> str:
    with pytest.raises(OSError, match="; ") as refused:
        open_writer(str(path), _no_error)
    return str(refused.value)


@pytest.fixture
def umask() -> Iterator[None]:
    """A umask that removes no permission."""
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_others_cannot_read_a_new_log(tmp_path: Path, umask: None) -> None:
    """A new file has mode 0640, also after a rotation."""
    path = tmp_path / "log"
    writer = open_writer(str(path), _no_error)
    assert writer.write(b"one\n")
    path.rename(tmp_path / "log.1")
    assert writer.write(b"two\n")
    assert writer.close()

    assert _mode(tmp_path / "log.1") == _mode(path) == 0o640


def test_a_file_that_exists_keeps_its_mode(tmp_path: Path, umask: None) -> None:
    """A file that logrotate or an operator has created is appended to, with its mode."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    path.chmod(0o604)
    writer = open_writer(str(path), _no_error)
    assert writer.write(b"two\n")
    assert writer.close()

    assert path.read_bytes() == b"one\ntwo\n"
    assert _mode(path) == 0o604


@pytest.mark.parametrize("target", ["there", "not-there"])
def test_a_link_is_refused(tmp_path: Path, target: str) -> None:
    """A symbolic link is not followed, and its target is neither created nor written."""
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "log").symlink_to(target)

    text = _refusal(tmp_path / "log")
    assert text.endswith("log is a symbolic link; use the path of its target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "there"]


def test_a_folder_may_be_a_link(tmp_path: Path) -> None:
    """Only the last part of the path is checked: /var/log may be a link."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    writer = open_writer(str(tmp_path / "link" / "log"), _no_error)
    assert writer.write(b"one\n")
    assert writer.close()

    assert (tmp_path / "folder" / "log").read_bytes() == b"one\n"


@pytest.mark.parametrize("target", ["victim", "log.1"])
def test_a_link_that_appears_later_is_refused(tmp_path: Path, target: str) -> None:
    """A link in place of a moved log loses the lines and causes one report."""
    path, errors = tmp_path / "log", list[Exception]()
    writer = open_writer(str(path), errors.append)
    assert writer.write(b"one\n")
    path.rename(tmp_path / "log.1")
    path.symlink_to(target)
    for _ in range(3):
        writer.write(b"two\n")
    assert writer.dropped == 3
    path.unlink()
    assert writer.write(b"three\n")
    assert writer.close()

    assert ["is a symbolic link" in str(error) for error in errors] == [True]
    assert not (tmp_path / "victim").exists()
    assert (tmp_path / "log.1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"three\n"


def test_a_fifo_without_a_reader_is_refused_at_once(tmp_path: Path) -> None:
    """The start does not wait for a reader."""
    os.mkfifo(tmp_path / "log")

    assert _refusal(tmp_path / "log").endswith(
        "log is a FIFO that no process reads; start its reader first, or use a file"
    )


def test_a_fifo_with_a_reader_gets_the_lines(tmp_path: Path) -> None:
    """It gets all lines, also those that wait for room, and a later reader gets later lines."""
    path, errors = tmp_path / "log", list[Exception]()
    os.mkfifo(path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        writer = open_writer(str(path), errors.append)
        for number in range(20):
            assert writer.write(f"{number}".encode().ljust(9_999) + b"\n")
        os.set_blocking(reader.fileno(), True)
        lines = [reader.readline() for _ in range(20)]
        assert writer.flush(5)
    assert [int(line) for line in lines] == list(range(20))
    assert errors == []
    writer.write(b"lost\n")
    assert writer.flush(5)
    assert [type(error) for error in errors] == [BrokenPipeError]
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert writer.write(b"found\n")
        assert writer.close(5)
        assert reader.read() == b"found\n"


def test_a_fifo_in_place_of_a_log_blocks_nothing(tmp_path: Path) -> None:
    """It is refused as at the start, and the lines are counted."""
    path, errors = tmp_path / "log", list[Exception]()
    writer = open_writer(str(path), errors.append)
    path.unlink()
    os.mkfifo(path)
    writer.write(b"lost\n")
    assert writer.flush(5)
    assert writer.close(5)

    assert writer.dropped == 1
    assert "is a FIFO that no process reads" in str(errors[0])


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    """A folder, a socket and a file in a missing folder are refused, with the remedy."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert _refusal(tmp_path / "socket").endswith(
            "is a socket; use a file, or a FIFO with a reader"
        )
    assert _refusal(tmp_path).endswith("is a directory; use a file in it")
    assert _refusal(tmp_path / "no" / "log").endswith(
        "cannot be written: No such file or directory; use a file that can be written"
    )


def test_a_device_is_written_to() -> None:
    """/dev/null accepts the lines."""
    writer = open_writer(os.devnull, _no_error)
    assert writer.write(b"hello\n")
    assert writer.close()


_WRITE = """
import sys
from gizmopy.observe.log_writer import open_writer
for path in sys.argv[1:]:
    writer = open_writer(path, print)
    writer.write(f"{path}\\n".encode())
    writer.close()
"""
_STDOUT = (
    "/dev/stdout",
    "/dev/fd/1",
    "/proc/self/fd/1",
    "/proc/thread-self/fd/1",
    "/dev/./stdout",
    "stdout",
)


def test_the_paths_of_standard_output_are_standard_output(tmp_path: Path) -> None:
    """A socket cannot be opened by its path, and a file must not be truncated."""
    command = [sys.executable, "-c", _WRITE, *_STDOUT]
    expected = "".join(f"{path}\n" for path in _STDOUT).encode()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            subprocess.run(command, stdout=theirs.fileno(), check=True, cwd=ROOT)
        assert ours.recv(1000, socket.MSG_WAITALL) == expected
    with (tmp_path / "out").open("wb") as out:
        out.write(b"first\n")
        out.flush()
        subprocess.run(command, stdout=out, check=True, cwd=ROOT)
    assert (tmp_path / "out").read_bytes() == b"first\n" + expected


def test_an_inherited_descriptor_is_written_to() -> None:
    """/dev/fd/N is a descriptor that the parent has opened, and /dev/stderr is number 2."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as output:
        with os.fdopen(writer) as inherited:
            path = f"/dev/fd/{inherited.fileno()}"
            ended = subprocess.run(
                [sys.executable, "-c", _WRITE, path, "/dev/stderr"],
                pass_fds=(inherited.fileno(),),
                stderr=subprocess.PIPE,
                check=True,
                cwd=ROOT,
            )
        assert output.read() == f"{path}\n"
    assert ended.stderr == b"/dev/stderr\n"


def test_a_descriptor_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """One that is not open, and one that is open for reading, with the remedy."""
    with (tmp_path / "read").open("w+") as file, (tmp_path / "read").open() as reading:
        assert _refusal(f"/dev/fd/{reading.fileno()}").endswith("for reading only; use a file")
        closed = f"/dev/fd/{file.fileno()}"
    assert _refusal(closed) == f"{closed} is not open in this process; use a file"
    assert "not open" in _refusal("/dev/fd/999999999")
    assert _refusal("/tmp/\0") == r"'/tmp/\x00' is not a valid path; use a file"


async def test_both_logs_follow_these_rules(tmp_path: Path) -> None:
    """The log and the access log open their files in the same way."""
    (tmp_path / "log").symlink_to("there")
    with pytest.raises(OSError, match="is a symbolic link"):
        async with AccessLog(str(tmp_path / "log")):
            pass
    with (
        pytest.raises(OSError, match="is a symbolic link"),
        logs.configured(destination=str(tmp_path / "log")),
    ):
        pass


@pytest.mark.parametrize("setting", ["APP_LOG", "HTTP_ACCESS_LOG"])
def test_a_daemon_does_not_start_with_a_fifo_without_a_reader(tmp_path: Path, setting: str) -> None:
    """It ends with exit code 1 and the remedy."""
    path = tmp_path / "log"
    os.mkfifo(path)
    ended = subprocess.run(
        [sys.executable, "-m", "gizmopy", "run", "tests.cats:Cats", "--http-port=0"],
        env=os.environ | {setting: str(path), "HTTP_ADDR": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=ROOT,
    )

    assert ended.returncode == 1
    assert (
        f"{setting}: {path} is a FIFO that no process reads; start its reader first" in ended.stderr
    )
