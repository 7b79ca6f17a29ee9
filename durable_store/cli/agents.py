"""The demo's side of its agents: starts one in a fresh process, follows its reports, kills it at a random moment."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from signal import SIGKILL, Signals
from statistics import median
from typing import IO

from durable_store.cli.output import Failure
from durable_store.cli.reviewer import CHECKPOINT_ID
from durable_store.key import CheckpointKey

AHEAD = 64
"""Turns of leave given at once: more than an agent does while its demo is busy, less than a pipe holds."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an agent works on: the arguments of its process."""

    url: str
    goal: str
    turns: int
    seed: int


@dataclass(slots=True)
class Life:
    """What one process of the agent reported before it ended; turns and steps are the same numbers."""

    pid: int
    key: CheckpointKey | None = None
    resumed: int = -1
    begun: int = -1
    acknowledged: int = -1
    last: str = ""
    killed: bool = False

    @property
    def phase(self) -> str:
        """Where the kill hit."""
        if self.last == "begin":
            return f"reviewing for step {self.begun}"
        return f"committing step {self.begun}" if self.last == "commit" else f"idle after step {self.begun}"

    def hear(self, event: str, words: list[str], goal: str) -> None:
        """Takes down a report. Raises Failure when it is the agent's own error."""
        self.last = event
        if event == "resumed":
            self.resumed = self.begun = self.acknowledged = int(words[0])
            self.key = CheckpointKey(goal, int(words[1]), CHECKPOINT_ID)
        elif event == "begin":
            self.begun = int(words[0])
        elif event == "committed":
            self.acknowledged = int(words[0])
        elif event == "error":
            raise Failure(f"the agent failed: {' '.join(words)}")


@dataclass(slots=True)
class Durations:
    """How long the parts of a turn took so far: a random moment of a later turn is chosen from there."""

    seen: dict[str, list[float]] = field(default_factory=lambda: {"begin": [], "commit": []})
    since: float = 0.0

    def ended(self, part: str) -> None:
        """Takes down that a part is over, and that the next one begins."""
        now = time.perf_counter()
        if part in self.seen:
            self.seen[part].append(now - self.since)
        self.since = now

    def of(self, part: str) -> float:
        """Seconds that the part usually takes."""
        return median(self.seen[part])


@dataclass(frozen=True, slots=True)
class Aim:
    """A moment to kill at: a fraction of the usual duration of a part (`begin`: reviewing, `commit`) of a turn."""

    turn: int
    part: str
    fraction: float


Plan = Callable[[Life], tuple[Aim | None, int]]
"""Told of an agent that has resumed: where to kill it, if at all, and for how many turns to give it leave."""

Progress = Callable[[int], None]
"""Told how many turns are committed."""


def aim(chance: random.Random, done: int, share: int) -> Aim:
    """A random moment in the `share` turns after those done, behind the first of them: that one is acknowledged."""
    turn = done + chance.randint(1, share - 1)
    return Aim(turn, chance.choice(("begin", "commit")), chance.random())


def run_agent(job: Job, durations: Durations, progress: Progress, plan: Plan) -> Life:
    """Runs the agent in a fresh process until it has finished, or is killed where `plan` says.

    Raises:
        Failure: it ended otherwise; the message is its own error.
    """
    arguments = (job.url, job.goal, str(job.turns), str(job.seed))
    with started("durable_store.cli.reviewer", arguments) as agent:
        life = Life(agent.pid)
        target, leave = None, 0
        for event, words in agent.reports():
            if not life.killed:  # what was in the pipe then was reported earlier
                durations.ended(life.last)
            life.hear(event, words, job.goal)
            if event == "resumed":
                target, leave = plan(life)
                leave -= agent.give_leave(min(leave, AHEAD))
            elif event == "committed":
                leave -= agent.give_leave(min(leave, 1))
                progress(life.acknowledged + 1)
            elif target and not life.killed and (life.begun, event) == (target.turn, target.part):
                time.sleep(target.fraction * durations.of(event))
                agent.kill()
                life.killed = True
        life.killed = agent.ended_by_kill()
        return life


@dataclass(slots=True)
class AgentProcess:
    """A process that reports a line for each event, and begins a turn only with leave."""

    process: subprocess.Popen[str]
    complaints: IO[str]
    killed: bool = False

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def reports(self) -> Iterator[tuple[str, list[str]]]:
        """Each event and its words, as they come, to the process's end."""
        return _reports(self.process)

    def give_leave(self, turns: int) -> int:
        """Lets the agent begin so many turns more, and returns how many."""
        if self.process.stdin:
            with suppress(BrokenPipeError):  # it is dead, and the end of its reports will tell
                os.write(self.process.stdin.fileno(), b"\n" * turns)
        return turns

    def kill(self) -> None:
        """Kills it; its reports up to there can still be read."""
        self.process.kill()
        self.killed = True

    def ended_by_kill(self) -> bool:
        """Waits for its end, and tells whether that was our kill. Raises Failure if it was neither that nor success."""
        status = self.process.wait()
        killed = self.killed and status == -SIGKILL
        if status != 0 and not killed:
            ended = Signals(-status).name if status < 0 else f"exit status {status}"
            self.complaints.seek(0)
            told = self.complaints.read().splitlines()[-1:]
            raise Failure(": ".join((f"the agent's process ended with {ended}", *told)))
        return killed


@contextmanager
def started(module: str, arguments: Iterable[str]) -> Generator[AgentProcess]:
    """A fresh interpreter that runs a module of ours; whatever happens, it does not outlive this."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
            [
                sys.executable,
                "-P",  # a json.py in the current directory is none of ours
                *("-m", module, *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints.fileno(),
            encoding="utf-8",
            errors="replace",
            process_group=0,  # Ctrl-C is for the demo, which ends its agents itself
        )
        try:
            yield AgentProcess(process, complaints)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _reports(process: subprocess.Popen[str]) -> Iterator[tuple[str, list[str]]]:
    for line in process.stdout or ():
        if line.endswith("\n"):  # else the process was killed before it had reported
            event, *words = line.split()
            yield event, words
