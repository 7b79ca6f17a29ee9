"""What both demos show and need: where the store is, the bars, the promises, and how to look into it."""

import random
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from durable_store.cli.output import on_terminal
from durable_store.errors import InvalidArgument, InvalidURL
from durable_store.key import CheckpointKey

Track = Callable[[str, int], Callable[[int], None]]
"""Starts a bar of so many turns under a name, and returns what moves it."""


def check_kills(kills: int, turns: int, *, what: str = "turns") -> None:
    """Raises InvalidArgument if so many kills cannot come: each has a turn of its own, and one that is acknowledged."""
    if turns < 2 * kills + 1:
        raise InvalidArgument(f"{kills} kills need at least {2 * kills + 1} {what}, not {turns}: see --turns")


def place(url: str | None) -> str:
    """The URL of the store; without one, of a database in a directory that was not there before."""
    if url is None:
        return _new_directory()
    if url.lower().startswith("memory:"):
        raise InvalidURL("no other process can open a memory:// store, so nothing in it survives a kill")
    return url


def chosen(seed: int | None) -> tuple[int, random.Random]:
    """The seed, or a random one, and the chance that it gives."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    return seed, random.Random(seed)  # noqa: S311 - to be repeated, not to be secret


@contextmanager
def progress_bar(screen: Console) -> Generator[Track]:
    """A bar for each part of the demo; nothing in a pipe, nothing left when it is done."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not on_terminal()) as bars:

        def track(name: str, turns: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=turns)
            return lambda done: bars.update(task, completed=done)

        yield track


def say(screen: Console, line: str, style: str = "") -> None:
    """One line, however long."""
    screen.print(Text(line, style=style), soft_wrap=True)


def say_kept(screen: Console, promise: str) -> None:
    """A promise that was kept."""
    screen.print(Text.assemble(("  ok  ", "green"), promise), soft_wrap=True)


def say_broken(screen: Console, failures: list[str]) -> None:
    """A promise that was not: the first failure, and how many more there are."""
    screen.print(Text.assemble(("FAIL  ", "red"), first_of(failures)), soft_wrap=True)


def first_of(failures: list[str]) -> str:
    """In one line."""
    return failures[0] if len(failures) == 1 else f"{failures[0]} (and {len(failures) - 1} more)"


def tell_how_to_look(screen: Console, url: str, key: CheckpointKey | None) -> None:
    """The commands that show what was left in the store."""
    say(screen, "\nLook into it:")
    for line in (("ls", url), ("history", url, str(key)), ("show", url, str(key))):
        say(screen, f"  {shlex.join((*_command(), *line))}", style="cyan")


def _command() -> list[str]:
    """How to call this program, from where it was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return [sys.executable, "-m", "durable_store.cli"]
    # Not on the PATH: it is in a virtual environment that is not activated.
    return [called.name if shutil.which(called.name) else sys.argv[0]]


def _new_directory() -> str:
    for number in count(1):
        directory = Path(f"durable-store-demo-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return f"sqlite:///{directory}/runs.db"
    raise AssertionError("there are always more numbers")
