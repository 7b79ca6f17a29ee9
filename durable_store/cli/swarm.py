"""`durable-store demo --attempts N --children N`: swarms are killed again and again, and end where they would have."""

import hashlib
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from durable_store.cli.agents import AHEAD, AgentProcess, started
from durable_store.cli.output import Failure, console, printable, to_json
from durable_store.cli.stage import (
    check_kills,
    chosen,
    first_of,
    place,
    progress_bar,
    say,
    say_broken,
    say_kept,
    tell_how_to_look,
)
from durable_store.cli.swarm_agents import ROOT_ID, Task
from durable_store.cli.swarm_audit import Audit, differences, wrongly_sent
from durable_store.key import CheckpointKey
from durable_store.record import random_tag
from durable_store.store import open_store

_MODULE = "durable_store.cli.swarm_agents"

Promise = tuple[str, list[str]]
"""What holds, with its figures, and what speaks against it."""


def swarm_demo(url: str | None, kills: int, attempts: int, children: int, files: int, seed: int | None) -> None:
    """Kills swarms at random moments, and compares what they come to with swarms that nobody kills."""
    turns = sum(Task("", "", attempts, children, files, 0, "").turns.values())
    check_kills(kills, turns, what="turns of all agents")
    url = place(url)
    seed, chance = chosen(seed)
    goal = f"demo-{random_tag(3)}"
    screen = console()
    with open_store(url), tempfile.TemporaryDirectory() as directory:  # a URL that cannot be used is told here
        task = Task(url, goal, attempts, children, files, seed, f"{directory}/mails")
        unkilled = replace(task, goal=f"{goal}-uninterrupted", mails=f"{directory}/mails-uninterrupted")
        _introduce(screen, task, kills)
        with progress_bar(screen) as track:
            trial = Trial(task, kills, screen, chance, track("killed and resumed", turns))
            trial.run()
            witness = Trial(unkilled, 0, screen, chance, track("uninterrupted", turns))
            witness.run()
        promises = compare(trial, witness)
    say(screen, "\nThen the same swarms ran uninterrupted, and:")
    for promise, failures in promises:
        if failures:
            say_broken(screen, failures)
        else:
            say_kept(screen, promise)
    tell_how_to_look(screen, url, CheckpointKey(goal, trial.outcome["episode"], ROOT_ID))
    options = f"--attempts {attempts} --children {children} --kills {kills} --turns {files} --seed {seed}"
    say(screen, f"The same again: {options}")
    if broken := [first_of(failures) for _, failures in promises if failures]:
        raise Failure(f"the demo failed: {'; '.join(broken)}")


def compare(trial: "Trial", witness: "Trial") -> list[Promise]:
    """The four promises."""
    audit, outcome, mails = trial.audit, trial.outcome, trial.mails()
    kills, kept = len(trial.kills), sum(kill.kept for kill in trial.kills)
    digest = hashlib.sha256(to_json(outcome["attempts"]).encode()).hexdigest()[:12]
    score = outcome["attempts"][outcome["winner"]]["score"]
    same = f"the winner is the same, attempt {outcome['winner']} with a score of {score}, and so are all results"
    once = f"each of {len(mails)} mails was sent exactly once; {len(audit.uncertain)} were uncertain after a kill"
    children = sum("/" in who for who in audit.turns)
    missed = [f"of {trial.ordered} kills only {kills} came"] if kills < trial.ordered else []
    return [
        (f"{same}: sha256 {digest}…", differences(outcome, witness.outcome)),
        (
            f"no acknowledged turn was lost in {kills} kills: {sum(audit.begun.values())} turns, {audit.redone} redone",
            [*missed, *audit.lost, *witness.audit.lost],
        ),
        (
            f"{once} and looked up: {sum(audit.uncertain.values())} had been sent",
            wrongly_sent(mails, witness.mails(), trial.task.mails_to_send),
        ),
        (
            f"each of {children} finished children was run once: {kept} times one was not run again after a kill",
            [*audit.run_again, *witness.audit.run_again],
        ),
    ]


@dataclass(slots=True)
class Kill:
    """One kill: what was known of the attempt that it hit, and what the next process made of it."""

    number: int
    attempt: int
    acknowledged: str
    doing: str
    redone_before: int
    resumed: str = ""
    redone: int = 0
    kept: int = 0

    def survived(self, audit: Audit) -> None:
        """Takes down what the next process came to."""
        self.resumed = audit.resumed(self.attempt)
        self.redone = audit.redone - self.redone_before
        self.kept = audit.kept


@dataclass(slots=True)
class Trial:
    """The swarms' way through their task and their kills; each kill is told when the next process has ended."""

    task: Task
    ordered: int
    screen: Console
    chance: random.Random
    progress: Callable[[int], None]
    outcome: dict[str, Any] = field(default_factory=dict[str, Any])
    kills: list[Kill] = field(default_factory=list[Kill])
    audit: Audit = field(init=False)
    _lasted: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.audit = Audit(self.task.turns)

    def run(self) -> None:
        """Starts process after process until one has come to the outcome."""
        audit, killed = self.audit, True
        while killed:
            audit.next_process()
            with started(_MODULE, self.task.arguments) as agents:
                self._follow(agents)
                killed = agents.ended_by_kill()
            if self.kills:
                self.kills[-1].survived(audit)
                self._tell(self.kills[-1])
            if killed:
                attempt = audit.attempt
                known = audit.known(attempt)
                self.kills.append(Kill(len(self.kills) + 1, attempt, known, audit.doing, audit.redone))
        audit.end()
        if not self.outcome:
            raise Failure("the agents' process ended without an outcome")

    def mails(self) -> list[str]:
        """All that were sent."""
        return Path(self.task.mails).read_text(encoding="utf-8").splitlines()

    def _follow(self, agents: AgentProcess) -> None:
        """Hears a process to its end, and kills it on the way, if there are kills left.

        These share the turns that are left, but for one: with leave for its share alone, a process cannot take turns
        from later kills. A turn that was begun may be committed, so it counts as done; to begin it again costs nothing.
        """
        left, audit = self.ordered - len(self.kills), self.audit
        done, turns = sum(audit.begun.values()), sum(self.task.turns.values())
        share = (turns - done - 1) // left if left else turns
        target = self.chance.randint(1, share + done - sum(audit.acknowledged.values())) if left else 0
        begins, given = 0, agents.give_leave(min(share, AHEAD))
        since: dict[str, float] = {}
        for event, words in agents.reports():
            if event in ("error", "outcome"):
                self._hear_last(event, " ".join(words))
                continue
            who, turn = words[0], int(words[1]) if len(words) > 1 else 0
            audit.hear(event, who, turn, *words[2:])
            self.progress(sum(audit.acknowledged.values()))
            if who in since and not agents.killed and event in ("reached", "finished"):
                self._lasted.append(time.perf_counter() - since.pop(who))
            if event == "begin":
                begins += 1
                new = sum(audit.begun.values()) - done
                given += agents.give_leave(min(share + begins - new, begins + AHEAD) - given)
                if "/" in who:
                    since[who] = time.perf_counter()
                if left and not agents.killed and (begins == target or new == share):
                    time.sleep(self.chance.random() * median(self._lasted or [0.0]))
                    agents.kill()

    def _hear_last(self, event: str, text: str) -> None:
        if event == "error":
            raise Failure(f"the agents failed: {text}")
        self.outcome = json.loads(text)

    def _tell(self, kill: Kill) -> None:
        widest = len(" ".join(str(turns) for turns in list(self.task.turns.values())[: self.task.children + 1]))
        row = f"{{:>4}}  {{:>7}}  {{:<{max(widest, 12)}}}  {{:<18}}  {{:<{max(widest, 7)}}}  {{:>6}}  {{:>4}}"
        if kill.number == 1:
            titles = ("KILL", "ATTEMPT", "ACKNOWLEDGED", "HIT WHILE", "RESUMED", "REDONE", "KEPT")
            say(self.screen, f"\n{row.format(*titles)}", style="bold")
        shown = (kill.number, kill.attempt, kill.acknowledged, kill.doing, kill.resumed, kill.redone, kill.kept)
        say(self.screen, row.format(*shown))


def _introduce(screen: Console, task: Task, kills: int) -> None:
    python, files = platform.python_version(), task.attempts * task.children * task.files
    say(screen, f"{task.attempts} attempt{'s' * (task.attempts > 1)} at one goal, each by a swarm of {task.children}.")
    say(screen, f"They review {files} files of Python {python}'s standard library, one a turn, and send a mail about")
    say(screen, "each: a line in a file. Whoever finds the most definitions without a docstring wins.")
    say(screen, f"On its way the process is killed {kills} time{'s' * (kills > 1)}. Its checkpoints are in")
    say(screen, printable(task.url))
    say(screen, "\nAcknowledged and resumed: the turns of the attempt's root and of its children, in their order.")
    say(screen, "Kept: the children that had finished and were not run again.")
