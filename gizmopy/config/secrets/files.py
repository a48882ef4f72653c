"""Read files that each hold one secret, as Docker and Kubernetes mount them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gizmopy.config.settings_file import warn_if_insecure

_MAX_BYTES = 1024 * 1024
_MAX_FILES = 1000
_MAX_DEPTH = 4


class SecretFileError(Exception):
    """A file of a secret that cannot be used. The text has the reason, and no part of a value."""


def read_secret_file(path: Path) -> str:
    """Return the text of a file without its last newline. Raises SecretFileError.

    An editor and ``echo`` end a file with a newline that is not a part of the secret. All other
    characters are: a key in PEM has several lines.
    """
    try:
        # O_NONBLOCK, because opening a FIFO would wait for its writer.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in the path
        raise SecretFileError("is not the path of a file") from None
    except OSError as error:
        raise SecretFileError(_reason(path, error)) from None
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        os.close(number)
        raise SecretFileError("is not a regular file")
    with open(number, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    warn_if_insecure(path, status)
    if len(content) > _MAX_BYTES:
        raise SecretFileError(f"is larger than {_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretFileError("is not UTF-8 text") from None
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return "is in a directory that does not exist"
    return f"cannot be read: {error.strerror}"


def list_secret_files(directory: Path) -> dict[str, Path]:
    """Return the files in a directory by the name that each has as a variable.

    A file in a subdirectory has the names of both, ``database/password`` is ``database__password``.
    Hidden files are left out: Kubernetes keeps its older versions in them. Raises SecretFileError.
    """
    files: dict[str, Path] = {}
    try:
        for names, path in _walk(directory, ()):
            files["__".join(names)] = path
            if len(files) > _MAX_FILES:
                raise SecretFileError(f"has more than {_MAX_FILES} files; name one of secrets only")
    except NotADirectoryError:
        raise SecretFileError("is not a directory") from None
    except OSError as error:
        raise SecretFileError(f"cannot be read: {error.strerror}") from None
    return files


def _walk(directory: Path, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Path]]:
    for path in sorted(directory.iterdir()):
        names = (*above, path.name)
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield names, path
        elif len(names) < _MAX_DEPTH and os.access(path, os.R_OK | os.X_OK):
            yield from _walk(path, names)
