"""`durable-store demo`: an agent is killed again and again, and ends where it would have ended."""

import hashlib
import platform
import random
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from durable_store.cli.agents import Aim, Durations, Job, Life, aim, run_agent
from durable_store.cli.output import Failure, console, on_terminal, printable, to_json
from durable_store.errors import InvalidArgument, InvalidURL
from durable_store.record import random_tag
from durable_store.store import Store, open_store

Track = Callable[[str, int], Callable[[int], None]]
"""Starts a bar of so many turns under a name, and returns what moves it."""

_ROW = "{:>4}  {:>8}  {:>12}  {:<24}  {:>7}  {:>6}"
_TITLES = _ROW.format("KILL", "PROCESS", "ACKNOWLEDGED", "HIT WHILE", "RESUMED", "REDONE")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what the process after it found."""

    number: int
    victim: Life
    successor: Life

    @property
    def redone(self) -> int:
        """Turns that were begun and had to be begun again."""
        return self.victim.begun - self.successor.resumed

    @property
    def lost(self) -> int:
        """Turns that were acknowledged and are gone."""
        return max(0, self.victim.acknowledged - self.successor.resumed)

    def __str__(self) -> str:
        return _ROW.format(
            self.number,
            self.victim.pid,
            f"step {self.victim.acknowledged}",
            self.victim.phase,
            f"step {self.successor.resumed}",
            self.redone,
        )


def demo(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="The store; by default SQLite in a new directory below this one."),
    ] = None,
    *,
    kills: Annotated[int, typer.Option(min=1, metavar="N", help="How often the agent is killed.")] = 5,
    turns: Annotated[int, typer.Option(min=1, metavar="N", help="How many files it reviews, one a turn.")] = 60,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Decides which files, and when it is killed; by default random."),
    ] = None,
) -> None:
    """Kill an agent again and again: it resumes and ends right.

    The agent reviews the source files of Python's own standard library. It runs in processes of its own, which are
    killed with SIGKILL; each next one goes on from the last committed step. Then it runs once more, uninterrupted. Exit
    status 0 only if both end with the same state, no acknowledged turn was lost, and at most one was redone for a kill.
    """
    if turns < 2 * kills + 1:
        raise InvalidArgument(f"{kills} kills need at least {2 * kills + 1} turns, not {turns}: see --turns")
    if url is None:
        url = _new_directory()
    elif url.lower().startswith("memory:"):
        raise InvalidURL("no other process can open a memory:// store, so nothing in it survives a kill")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    job = Job(url, f"demo-{random_tag(3)}", turns, seed)
    screen = console()
    with open_store(url) as store:  # before anything is started: a URL that cannot be used is told here
        python = platform.python_version()
        _say(screen, f"An agent reviews {turns} files of Python {python}'s standard library, one a turn.")
        _say(screen, f"On its way it is killed {kills} time{'s' * (kills > 1)}. Its checkpoints are in")
        _say(screen, printable(url))
        with _progress_bar(screen) as track:
            trial = Trial(job, kills, screen, random.Random(seed))  # noqa: S311 - to be repeated, not to be secret
            finished = trial.run(track("killed and resumed", turns))
            witness = run_agent(job, Durations(), track("uninterrupted", turns), lambda _: (None, turns))
        failures = [*broken_promises(trial), *differences(store, finished, witness)]
        if not failures:
            _tell_success(screen, store, trial.kills, finished)
        _tell_how_to_look(screen, url, finished)
        _say(screen, f"The same again: --kills {kills} --turns {turns} --seed {seed}")
    if failures:
        raise Failure(f"the demo failed: {'; '.join(failures)}")


@dataclass(slots=True)
class Trial:
    """An agent's way through its job and its kills; each kill is told as soon as the next process has resumed."""

    job: Job
    ordered: int
    screen: Console
    chance: random.Random
    kills: list[Kill] = field(default_factory=list["Kill"])
    victim: Life | None = None

    def run(self, progress: Callable[[int], None]) -> Life:
        """Starts agent after agent until one has finished, and returns its life."""
        durations = Durations()
        while True:
            life = run_agent(self.job, durations, progress, self._plan)
            if not life.killed:
                return life
            self.victim = life

    def _plan(self, life: Life) -> tuple[Aim | None, int]:
        """The kills that are left share the turns that are left, but for one.

        With leave for its share alone, an agent cannot take turns from later kills, however late its own kill comes.
        """
        if self.victim:
            self.kills.append(Kill(len(self.kills) + 1, self.victim, life))
            if len(self.kills) == 1:
                _say(self.screen, f"\n{_TITLES}", style="bold")
            _say(self.screen, str(self.kills[-1]))
        left = self.ordered - len(self.kills)
        if not left:
            return None, self.job.turns
        done = life.resumed + 1
        share = (self.job.turns - 1 - done) // left
        return aim(self.chance, done, share), share


def broken_promises(trial: Trial) -> list[str]:
    """What the kills came to that they must not; empty if all is well."""
    failures: list[str] = []
    for kill in trial.kills:
        if kill.lost:
            failures.append(
                f"kill {kill.number} lost {kill.lost} turns: step {kill.victim.acknowledged} was acknowledged,"
                f" step {kill.successor.resumed} resumed"
            )
        if kill.redone > 1:
            failures.append(f"after kill {kill.number} {kill.redone} turns were redone")
    if len(trial.kills) < trial.ordered:
        failures.append(f"of {trial.ordered} kills only {len(trial.kills)} came before the agent had finished")
    return failures


def differences(store: Store, finished: Life, witness: Life) -> list[str]:
    """Where the killed agent ended elsewhere than the uninterrupted one; empty if nowhere."""
    if witness.resumed >= 0:
        return ["the uninterrupted agent did not start afresh, so there is nothing to compare with"]
    killed, uninterrupted = (life.key and store.latest(life.key) for life in (finished, witness))
    if not killed or not uninterrupted:
        return ["an agent has finished, and its checkpoints are not there"]
    if killed.state == uninterrupted.state:
        return []
    pairs = zip_longest(killed.state["messages"], uninterrupted.state["messages"])
    first = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
    return [f"the final states differ, first at $.messages[{first}]"]


def _tell_success(screen: Console, store: Store, kills: list[Kill], finished: Life) -> None:
    final = finished.key and store.latest(finished.key)
    if not final:
        return
    digest = hashlib.sha256(to_json(final.state).encode()).hexdigest()[:12]
    redone = sum(kill.redone for kill in kills)
    _say(screen, "\nThen the same agent ran uninterrupted, and:")
    for promise in (
        f"the final state is equal: {len(final.state['messages'])} messages, {final.size} bytes, sha256 {digest}…",
        f"no acknowledged turn was lost in {len(kills)} kills",
        f"at most one turn was redone for a kill, {redone} in all",
    ):
        screen.print(Text.assemble(("  ok  ", "green"), promise), soft_wrap=True)


def _tell_how_to_look(screen: Console, url: str, finished: Life) -> None:
    _say(screen, "\nLook into it:")
    for line in (("ls", url), ("history", url, str(finished.key)), ("show", url, str(finished.key))):
        _say(screen, f"  {shlex.join((*_command(), *line))}", style="cyan")


def _command() -> list[str]:
    """How to call this program, from where it was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return [sys.executable, "-m", "durable_store.cli"]
    # Not on the PATH: it is in a virtual environment that is not activated.
    return [called.name if shutil.which(called.name) else sys.argv[0]]


def _new_directory() -> str:
    """The URL of a database in a directory that was not there before."""
    for number in count(1):
        directory = Path(f"durable-store-demo-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return f"sqlite:///{directory}/runs.db"
    raise AssertionError("there are always more numbers")


@contextmanager
def _progress_bar(screen: Console) -> Generator[Track]:
    """A bar for each part of the demo; nothing in a pipe, nothing left when it is done."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not on_terminal()) as bars:

        def track(name: str, turns: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=turns)
            return lambda done: bars.update(task, completed=done)

        yield track


def _say(screen: Console, line: str, style: str = "") -> None:
    screen.print(Text(line, style=style), soft_wrap=True)
