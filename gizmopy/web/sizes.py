"""Read a number of bytes that a declaration gives as a text."""

from __future__ import annotations

from pydantic import ByteSize, TypeAdapter

_SIZES = TypeAdapter(ByteSize)


def size_of(size: int | str) -> int:
    """Return the bytes of a size: ``10MB`` are 10,000,000, ``10MiB`` are 10,485,760.

    Raises ValueError for any other value, and for a negative number.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise ValueError("a size is a number of bytes, or a text")
    number = int(_SIZES.validate_python(size))
    if number < 0:
        raise ValueError("a size is not negative")
    return number
