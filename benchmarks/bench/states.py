"""The states that are kept: text of the standard library's source files, as the demo's agent reads them.

The same in every process of one Python, and the same for all contestants.
"""

import json
import os
import random
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

MESSAGE = 1500
"""Characters of text in a message."""

SMALL = 4000
"""Characters of text in a small state: with what is around it 4 KB of JSON."""

_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}


def chunks(size: int, seed: int = 0) -> Iterator[str]:
    """Pieces of so many characters, without end: when the library is used up, it begins again a little further on.

    Read file by file, so that no more of it is in memory than what is kept.
    """
    files = _source_files()
    random.Random(seed).shuffle(files)  # noqa: S311 - to be repeated, not to be secret
    for lap in count():
        rest = ""
        for number, file in enumerate(files):
            rest += file.read_text(errors="ignore")[lap if number == 0 else 0 :]
            whole = len(rest) // size * size
            yield from (rest[at : at + size] for at in range(0, whole, size))
            rest = rest[whole:]


def _source_files() -> list[Path]:
    library = sysconfig.get_path("stdlib")
    files: list[Path] = []
    for directory, below, names in os.walk(library):
        below[:] = sorted(set(below) - _LEFT_OUT)
        files += [Path(directory, name) for name in sorted(names) if name.endswith(".py")]
    return files


class Growing:
    """An agent's state that grows by two messages a turn; its `budget` changes each turn, and stands where it is asked.

    Attributes:
        state: changed in place, as an agent's loop does.
        changed: the JSON of what the last turn has changed.
    """

    def __init__(self, *, budget_first: bool = False) -> None:
        budget = {"turns": 0, "tokens": 0, "dollars": 0.0}
        self._messages: list[dict[str, str]] = []
        self._budget: dict[str, float] = budget
        self.state: dict[str, Any] = (
            {"budget": budget, "messages": self._messages}
            if budget_first
            else {"messages": self._messages, "budget": budget}
        )
        self.changed = b""
        self._text = chunks(MESSAGE)

    def turn(self) -> None:
        """One more turn."""
        new = [{"role": role, "content": next(self._text)} for role in ("user", "assistant")]
        self._messages += new
        self._budget["turns"] += 1
        self._budget["tokens"] += 800 + len(self._messages)
        self._budget["dollars"] = round(self._budget["tokens"] * 3e-6, 6)
        self.changed = json.dumps([new, self._budget]).encode()


class Small:
    """A state of 4 KB that has other text in it each turn.

    Attributes:
        state: the newest.
        changed: its JSON: nothing of it stays as it was.
    """

    def __init__(self, seed: int = 0) -> None:
        self.state: dict[str, Any] = {}
        self.changed = b""
        self._turns = 0
        self._text = chunks(SMALL, seed)

    def turn(self) -> None:
        """Another state."""
        self._turns += 1
        self.state = {"turn": self._turns, "notes": next(self._text)}
        self.changed = json.dumps(self.state).encode()
