"""The result of a case."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.endurance.http.daemon import Ended


@dataclass
class Finding:
    """The problems that a case found (none if it passed), and the figure that it measured."""

    problems: list[str] = field(default_factory=list)
    figure: float = 0.0

    def require(self, held: bool, otherwise: str) -> None:
        """Note ``otherwise`` as a problem unless ``held``."""
        if not held:
            self.problems.append(otherwise)

    def require_end(self, ended: Ended, code: int, within: float) -> None:
        """Add a problem if the process did not end with ``code`` ``within`` seconds."""
        self.figure = max(self.figure, ended.seconds)
        self.require(ended.code == code, f"exit code {ended.code}, not {code}")
        self.require(
            ended.seconds < within, f"{ended.seconds:.2f} s to exit, not less than {within:g}"
        )
