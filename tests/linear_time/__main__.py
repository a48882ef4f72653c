"""Print the times: ``python -m tests.linear_time``."""

from __future__ import annotations

from tests.linear_time.measurements import times_of_parser, times_of_pattern
from tests.linear_time.parsers import PARSERS
from tests.linear_time.patterns import PATTERNS


def main() -> None:
    """Print the times of each pattern and each parser, in microseconds of CPU."""
    print(f"{'16 KB':>9} {'ratio':>6}  name")  # noqa: T201 -- asked for
    for names, times_of in ((PATTERNS, times_of_pattern), (PARSERS, times_of_parser)):
        for name in names:
            times = times_of(name)
            print(f"{times.long * 1e6:7.0f}µs {times.ratio:6.1f}  {name}  {times.hostile}")  # noqa: T201


if __name__ == "__main__":
    main()
