"""`durable-store demo`: an agent is killed again and again, and ends where it would have ended."""

import hashlib
import platform
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Annotated

import typer
from rich.console import Console

from durable_store.cli.agents import Aim, Durations, Job, Life, aim, run_agent
from durable_store.cli.output import Failure, console, printable, to_json
from durable_store.cli.stage import check_kills, chosen, place, progress_bar, say, say_kept, tell_how_to_look
from durable_store.record import random_tag
from durable_store.store import Store, open_store

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
    turns: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many files it reviews, one a turn; 60, or 12 for each child."),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(min=1, max=99, metavar="N", help="A best-of-N instead: each attempt is a swarm of children."),
    ] = None,
    children: Annotated[
        int | None, typer.Option(min=1, max=9, metavar="N", help="How many children an attempt has.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Decides which files, and when it is killed; by default random."),
    ] = None,
) -> None:
    """Kill an agent again and again: it resumes and ends right.

    The agent reviews the source files of Python's own standard library. It runs in processes of its own, which are
    killed with SIGKILL; each next one goes on from the last committed step. Then it runs once more, uninterrupted. Exit
    status 0 only if both end with the same state, no acknowledged turn was lost, and at most one was redone for a kill.

    With --attempts or --children (1 each if only the other is given) it is a best-of-N of swarms, whose children review
    the files and send a mail for each. Exit status 0 only if both have the same winner, results and scores, no
    acknowledged turn was lost, every mail was sent exactly once, and each finished child was run once.
    """
    if attempts or children:
        from durable_store.cli.swarm import swarm_demo  # noqa: PLC0415 - asyncio, which no other command needs

        swarm_demo(url, kills, attempts or 1, children or 1, turns or 12, seed)
        return
    turns = turns or 60
    check_kills(kills, turns)
    url = place(url)
    seed, chance = chosen(seed)
    job = Job(url, f"demo-{random_tag(3)}", turns, seed)
    screen = console()
    with open_store(url) as store:  # before anything is started: a URL that cannot be used is told here
        python = platform.python_version()
        say(screen, f"An agent reviews {turns} files of Python {python}'s standard library, one a turn.")
        say(screen, f"On its way it is killed {kills} time{'s' * (kills > 1)}. Its checkpoints are in")
        say(screen, printable(url))
        with progress_bar(screen) as track:
            trial = Trial(job, kills, screen, chance)
            finished = trial.run(track("killed and resumed", turns))
            witness = run_agent(job, Durations(), track("uninterrupted", turns), lambda _: (None, turns))
        failures = [*broken_promises(trial), *differences(store, finished, witness)]
        if not failures:
            _tell_success(screen, store, trial.kills, finished)
        tell_how_to_look(screen, url, finished.key)
        say(screen, f"The same again: --kills {kills} --turns {turns} --seed {seed}")
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
                say(self.screen, f"\n{_TITLES}", style="bold")
            say(self.screen, str(self.kills[-1]))
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
    say(screen, "\nThen the same agent ran uninterrupted, and:")
    for promise in (
        f"the final state is equal: {len(final.state['messages'])} messages, {final.size} bytes, sha256 {digest}…",
        f"no acknowledged turn was lost in {len(kills)} kills",
        f"at most one turn was redone for a kill, {redone} in all",
    ):
        say_kept(screen, promise)
