"""The log writer: its thread, its queue, and lines that are lost."""

import io
import os
import select
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import IO

import pytest

from gizmopy.observe.log_writer import Writer, open_writer


class Pipe:
    """Standard output as a pipe, whose reader is the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        reader, writer = os.pipe()
        self.output: IO[bytes] = os.fdopen(reader, "rb")
        self.stdout: IO[str] = os.fdopen(writer, "w")

    def open_writer(
        self, on_error: Callable[[Exception], None], queue_bytes: int = 1024 * 1024
    ) -> Writer:
        """Return a writer to this standard output, which pytest replaces before each test."""
        self._monkeypatch.setattr("sys.stdout", self.stdout)
        return open_writer("stdout", on_error, queue_bytes=queue_bytes)

    def fill(self, writer: Writer) -> int:
        """Write lines of 100 bytes until the pipe and the queue are full; return their number."""
        taken = 0
        poll = select.poll()
        poll.register(self.stdout, select.POLLOUT)
        full = False
        while not full:
            has_room = poll.poll(0)
            accepted = writer.write(b"x" * 99 + b"\n")
            taken += accepted
            full = not has_room and not accepted
        return taken

    def close(self) -> None:
        """Close the reader's end, which ends a blocked write, then the other end."""
        self.output.close()
        for thread in threading.enumerate():
            if thread.name == "gizmopy-log":
                thread.join()
        self.stdout.close()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """A pipe in place of standard output."""
    pipe = Pipe(monkeypatch)
    yield pipe
    pipe.close()


def _no_error(error: Exception) -> None:
    raise AssertionError(error)


def _ignore(error: Exception) -> None:
    pass


def test_a_write_that_does_not_block_needs_no_thread(tmp_path: Path, pipe: Pipe) -> None:
    """A file and a pipe with room need no thread; a full pipe needs one."""
    before = threading.active_count()
    writer = open_writer(str(tmp_path / "log"), _no_error)
    writer.write(b"hello\n")
    assert (tmp_path / "log").read_bytes() == b"hello\n"
    assert writer.close()
    writer = pipe.open_writer(_no_error)
    writer.write(b"hello\n")
    assert threading.active_count() == before
    writer.write(b"more\n" * 20_000)
    assert threading.active_count() == before + 1
    assert pipe.output.read(6 + 5 * 20_000) == b"hello\n" + b"more\n" * 20_000
    assert writer.close()


def test_a_line_that_may_not_fit_is_queued(pipe: Pipe) -> None:
    """A pipe with room for a page may have no room for a longer line: the thread writes it."""
    writer = pipe.open_writer(_no_error)
    filling = os.write(pipe.stdout.fileno(), b"x" * 60_000)  # of 65,536
    assert writer.write(b"y" * 9_000 + b"\n")  # returns, although there is no reader
    assert not writer.flush(timeout=0)
    assert pipe.output.read(filling + 9_001).endswith(b"y\n")
    assert writer.close()


def test_lines_of_several_threads_are_whole_and_in_order(pipe: Pipe) -> None:
    """The lines of each thread are in its order."""
    writer = pipe.open_writer(_no_error)

    def write(name: str) -> None:
        for number in range(200):
            writer.write(f"{name} {number}\n".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(5)
    pipe.stdout.close()

    lines = pipe.output.read().decode().splitlines()
    for name in "ab":
        assert [li for li in lines if li[0] == name] == [f"{name} {n}" for n in range(200)]


def test_a_full_queue_drops_whole_lines_and_counts_them(pipe: Pipe) -> None:
    """Accepted lines are written when the reader reads; the queue never exceeds its limit."""
    writer = pipe.open_writer(_no_error, queue_bytes=100_000)
    taken = pipe.fill(writer)
    dropped = writer.dropped
    assert taken <= (100_000 + 65_536) // 100
    assert not writer.write((b"y" * 99 + b"\n") * 100)
    assert writer.dropped == dropped + 100
    assert not writer.flush(0)

    assert pipe.output.read(100 * taken) == (b"x" * 99 + b"\n") * taken
    assert writer.write(b"z\n")
    assert writer.close(5)
    assert pipe.output.readline() == b"z\n"


def test_a_stalled_reader_does_not_delay_the_end(pipe: Pipe) -> None:
    """Closing stops at its timeout, and later lines are dropped."""
    writer = pipe.open_writer(_ignore)
    pipe.fill(writer)
    dropped = writer.dropped

    assert not writer.close(0.01)
    assert not writer.close(60)
    assert not writer.flush(60)
    assert not writer.write(b"late\n")
    assert writer.dropped == dropped + 1


def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    """The writer waits for the reader all the same."""
    os.set_blocking(pipe.stdout.fileno(), False)
    writer = pipe.open_writer(_no_error)
    taken = pipe.fill(writer)

    assert pipe.output.read(100 * taken) == (b"x" * 99 + b"\n") * taken
    assert writer.close(5)


def test_a_line_longer_than_pipe_buf_is_written_in_one_call(pipe: Pipe) -> None:
    """Another writer may split it, which cannot be prevented."""
    writer = pipe.open_writer(_no_error)
    lines = b"a\n" + b"b" * 10_000 + b"\n" + b"c\n"
    writer.write(lines)
    assert writer.close(5)
    pipe.stdout.close()

    assert pipe.output.read() == lines


def test_the_first_error_is_reported_and_later_ones_are_counted(pipe: Pipe) -> None:
    """A reader that closed the pipe loses the lines, with one report."""
    errors: list[Exception] = []
    writer = pipe.open_writer(errors.append)
    pipe.output.close()
    for _ in range(3):
        writer.write(b"hello\nTom\n")
        writer.flush(5)
    writer.close(5)

    assert [type(error) for error in errors] == [BrokenPipeError]
    assert writer.dropped == 6


def test_after_close_standard_output_is_still_written_to(pipe: Pipe) -> None:
    """Lines at the end of the interpreter are written without a thread."""
    writer = pipe.open_writer(_no_error)
    writer.write(b"one\n")
    assert writer.close(5)
    assert writer.close(5)
    assert writer.write(b"two\n")

    assert pipe.output.readline() + pipe.output.readline() == b"one\ntwo\n"


@pytest.mark.parametrize("lines", [b"", b"hello\n"])
def test_after_close_a_file_is_not_written_to(tmp_path: Path, lines: bytes) -> None:
    """Its descriptor may belong to another file by then."""
    errors: list[Exception] = []
    writer = open_writer(str(tmp_path / "log"), errors.append)
    if lines:
        writer.write(lines)
    assert writer.close(5)

    assert not writer.write(b"late\n")
    assert writer.close(5)
    assert (tmp_path / "log").read_bytes() == lines
    assert [type(error) for error in errors] == [OSError]


def test_if_no_thread_can_start_the_caller_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is lost at the interpreter's end, or at the system's limit on threads."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = open_writer(str(tmp_path / "log"), _no_error)
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", start)
        assert writer.write(b"one\n")
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert writer.write(b"two\n")
    assert writer.close(5)

    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def _write_in_child(writer: Writer) -> None:
    writer.write(b"child\n")
    writer.flush(60)
    writer.close(60)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_its_own_lines_and_no_others(pipe: Pipe) -> None:
    """A child has no thread, writes in the caller's thread, and not the lines of its parent."""
    writer = pipe.open_writer(_ignore)
    taken = pipe.fill(writer)
    child = get_context("fork").Process(target=_write_in_child, args=(writer,))
    child.start()
    received = pipe.output.read(100 * taken + len(b"child\n"))
    child.join(10)
    assert writer.close(5)

    assert child.exitcode == 0
    assert sorted(received.splitlines()) == [b"child", *[b"x" * 99] * taken]


def test_a_process_without_standard_error_writes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets the stream to None if the descriptor was closed at the start."""
    monkeypatch.setattr("sys.stderr", None)
    writer = open_writer("", _no_error)

    assert writer.write(b"hello\n")
    assert writer.close(5)


def test_a_closed_stream_loses_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stream without a descriptor raises no error."""
    errors: list[Exception] = []
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    writer = open_writer("stderr", errors.append)
    stream.close()

    assert not writer.write(b"one\n")
    assert not writer.write(b"two\n")
    writer.close()
    assert writer.dropped == 2
    assert [type(error) for error in errors] == [ValueError]
