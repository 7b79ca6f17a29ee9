"""Random worlds in which processes stall, die and lose answers, and the fencing of runs must hold.

The processes are greenlets that run the real `Store` and `Run` over a backend whose every request is a moment at which
the scheduler may let others go first, kill the process, lose the answer, refuse the request, or let it land late or
twice. What is promised is checked at each acknowledged commit, against all that was ever written.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import orjson
import pytest
from greenlet import greenlet

from durable_store import CheckpointConflict, CheckpointKey, CheckpointNotFound, Run, Store, StoreUnavailable

T = TypeVar("T")
GOAL, ROOT = "g", "a"
PROCESSES = 16


class Violation(AssertionError):
    """A promise of DESIGN is broken in this world."""


@dataclass(frozen=True)
class Written:
    """A record that was created at some time, whether or not it is still there."""

    step: int
    writer: str
    prev: str | None
    closes: bool  # a closing record that was the newest when it landed; below others it decides nothing


class World:
    """The truth: what the storage holds, what it ever held, and what was promised to whom."""

    def __init__(self, seed: int, *, faults: bool = True) -> None:
        self.rng = random.Random(seed)
        self.faults = faults
        self.truth: dict[CheckpointKey, dict[int, bytes]] = {}
        self.ever: dict[CheckpointKey, dict[str, Written]] = {}
        self.acknowledged: dict[CheckpointKey, list[tuple[int, str]]] = {}  # when decided, and which record
        self.deleted: set[int] = set()
        self.late: list[tuple[int, Callable[[], object]]] = []
        self.clock = self.commits = self.kills = self.doubtful = 0
        self.scheduler = greenlet.getcurrent()

    def run(self) -> Self:
        """Lives until every process that may be started has ended."""
        started, alive = 0, list[Process]()
        while alive or started < PROCESSES:
            self.clock += 1
            while started < PROCESSES and len(alive) < 3:
                alive.append(Process(self))
                started += 1
            if self.rng.random() < 0.0015:  # the operator stops the runs, and deletes the goal's episodes
                for process in alive:
                    process.kill()
                alive.clear()
                self.delete()
                continue
            awake = [process for process in alive if process.stalled_until <= self.clock]
            if awake:
                process = self.rng.choice(awake)
                if self.rng.random() < 0.01:
                    self.kills += 1
                    process.kill()
                else:
                    process.resume()
            alive = [process for process in alive if not process.life.dead]
            self.land(self.clock)
        self.land(None)
        self.check_history()
        return self

    def land(self, until: int | None) -> None:
        due = [effect for at, effect in self.late if until is None or at <= until]
        self.late = [] if until is None else [(at, effect) for at, effect in self.late if at > until]
        for effect in due:
            effect()

    def delete(self) -> None:
        """Deletes like an operator whose first tries are interrupted; the latest never goes back to an older one."""
        self.late.clear()
        episodes = Store(Wire(self, None)).episodes(GOAL)
        newest = {key: max(steps) for key, steps in self.truth.items() if steps and key.checkpoint_id == ROOT}
        while True:
            try:
                Store(InterruptedWire(self, None)).delete(GOAL)
                break
            except StoreUnavailable:
                for key, step in newest.items():
                    if self.truth[key] and max(self.truth[key]) != step:
                        raise Violation(f"{key} was at {step}, and half deleted it is at {self.truth[key]}") from None
        for key in newest:
            if self.truth[key]:
                raise Violation(f"{key} is deleted and has {self.truth[key].keys()}")
        self.deleted.update(episode.id for episode in episodes)

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.truth.setdefault(key, {}).setdefault(step, record)
        if there is record:
            head: dict[str, Any] = orjson.loads(record[65 : record.index(b"\n")])
            prev = head["prev"] and head["prev"][1]
            self.ever.setdefault(key, {})[record[:64].decode()] = Written(
                step, head["writer"], prev, "closing" in head and step == max(self.truth[key])
            )
        return there

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        for step in steps:
            self.truth.get(key, {}).pop(step, None)

    def acknowledge(self, run: Run, wire: "Wire") -> None:
        """Checks one acknowledged commit against everything that ever was."""
        self.commits += 1
        if wire.newest_when_decided != run.step:
            raise Violation(f"{run} was acknowledged while step {wire.newest_when_decided} was there")
        for other in self.ever[run.key].values():
            if other.closes and other.step < run.step:
                raise Violation(f"{run} was acknowledged after the closing record {other}")
        if run.key.episode_id in self.deleted:
            raise Violation(f"{run} went on in a deleted episode")
        assert run._prev
        self.acknowledged.setdefault(run.key, []).append((wire.decided_at, run._prev[1]))

    def check_history(self) -> None:
        """Of two acknowledged commits the earlier is in the hash chain of the later: nothing was lost or forked."""
        for key, commits in self.acknowledged.items():
            ever = self.ever[key]
            at: str | None = None
            for _, digest in sorted(commits, reverse=True):
                while at is not None and at != digest:
                    at = ever[at].prev
                if at is None and digest != max(commits)[1]:
                    raise Violation(f"{key}: the acknowledged {ever[digest]} is in nobody's history")
                at = digest

    def refuse(self, run: Run, step: int) -> None:
        """Checks that a refused run really has a rival."""
        rivals = [w for w in self.ever.get(run.key, {}).values() if w.writer != run.writer and w.step >= step]
        starts = self.ever.get(CheckpointKey(GOAL, run.key.episode_id, "@episode"), {}).values()
        outrun = any(w.step == 0 and w.writer != run.writer for w in starts)
        if run._refusal and not rivals and not outrun and run.key.episode_id not in self.deleted:
            raise Violation(f"{run} was refused at step {step}, but nobody else was there")


class Process:
    """One process's life: it resumes, commits, sometimes rewinds or finishes, until it is refused or gives up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wire = Wire(world, self)
        self.stalled_until = 0
        self.violation: Violation | None = None
        self.life = greenlet(self._live)

    def resume(self) -> None:
        self.life.switch()
        if self.violation:
            raise self.violation

    def kill(self) -> None:
        self.life.throw()

    def pause(self) -> None:
        """Between any two requests: others may go first, for a moment or for long."""
        if self.world.rng.random() < 0.05:
            self.stalled_until = self.world.clock + self.world.rng.randrange(300)
        self.world.scheduler.switch()

    def _live(self) -> None:
        try:
            self._work(Store(self.wire))
        except (CheckpointConflict, CheckpointNotFound, StoreUnavailable):
            pass
        except Violation as err:
            self.violation = err

    def _work(self, store: Store) -> None:
        rng = self.world.rng
        try:
            run = store.resume(GOAL, ROOT, keep=rng.randint(1, 3), initial=0)
        except (CheckpointConflict, CheckpointNotFound) as err:
            raise Violation(f"a resume under the root's id was refused: {err}") from err
        for turn in range(rng.randrange(80)):
            roll, step = rng.random(), run.step
            try:
                if roll < 0.9:
                    answered = self._retrying(run.commit, [run.writer, turn])
                elif roll < 0.985 and run.step > 0:
                    back = rng.choice(store.backend.steps(run.key) or [0])
                    answered = self._retrying(run.rewind, back)
                else:
                    answered = self._retrying(run.finish)
            except CheckpointNotFound:
                continue  # the step to rewind to was pruned
            except CheckpointConflict:
                self.world.refuse(run, step + 1)
                if run._refusal:
                    self._stays_refused(run)
                raise
            if answered:
                self.world.acknowledge(run, self.wire)
            if run.finished:
                return

    def _stays_refused(self, run: Run) -> None:
        try:
            run.commit("once more")
        except CheckpointConflict:
            return
        raise Violation(f"{run} was refused, and then it was not")

    def _retrying(self, verb: Callable[..., object], *arguments: object) -> bool:
        """Tries again, gives up, or goes on to something else: whatever callers do. True when it was answered."""
        while True:
            try:
                verb(*arguments)
            except StoreUnavailable as err:
                self.world.doubtful += err.maybe_saved
                if self.world.rng.random() < 0.3:
                    raise
                if self.world.rng.random() < 0.3:
                    return False
            else:
                return True


class Wire:
    """A process's connection to the storage: every verb is a request that may be held up, lost or doubled."""

    def __init__(self, world: World, process: Process | None) -> None:
        self.world = world
        self.process = process
        self.newest_when_decided = self.decided_at = -1

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self._write(lambda: self.world.save(key, step, record), key)
        self._pause()
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        return self._read(lambda: max(self.world.truth.get(key, {}).items(), default=None), key)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._write(lambda: self.world.prune(key, steps), None)
        self._pause()

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        record = self._read(lambda: self.world.truth.get(key, {}).get(step), None)
        return record if record is None else record[:first]

    def steps(self, key: CheckpointKey) -> list[int]:
        return self._read(lambda: sorted(self.world.truth.get(key, {}), reverse=True), None)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        yield from [key for key, steps in self.world.truth.items() if steps and goal_id in (None, key.goal_id)]

    def close(self) -> None:
        pass

    def _read(self, effect: Callable[[], T], key: CheckpointKey | None) -> T:
        self._pause()
        if self._happens(0.02):
            raise StoreUnavailable("no answer")
        answer = effect()
        self._decide(key)
        self._pause()
        return answer

    def _write(self, effect: Callable[[], T], key: CheckpointKey | None) -> T:
        self._pause()
        rng, late = self.world.rng, self.world.late
        if self._happens(0.01):
            raise StoreUnavailable("refused")
        if self._happens(0.02):
            if rng.random() < 0.6:  # else it never arrives
                late.append((self.world.clock + rng.randrange(400), effect))
            raise StoreUnavailable("no answer", maybe_saved=True)
        answer = effect()
        self._decide(key)
        if self._happens(0.01):
            late.append((self.world.clock + rng.randrange(400), effect))
        if self._happens(0.02):
            raise StoreUnavailable("answer lost", maybe_saved=True)
        return answer

    def _happens(self, probability: float) -> bool:
        return bool(self.process) and self.world.faults and self.world.rng.random() < probability

    def _decide(self, key: CheckpointKey | None) -> None:
        if key and key.checkpoint_id == ROOT:
            self.decided_at = self.world.clock
            self.newest_when_decided = max(self.world.truth.get(key, {}), default=-1)

    def _pause(self) -> None:
        if self.process:
            self.process.pause()


class InterruptedWire(Wire):
    """The operator's connection: a prune may stop anywhere."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        there = list(steps)
        done = self.world.rng.randrange(2 * len(there) + 1)
        super().prune(key, there[:done])
        if done < len(there):
            raise StoreUnavailable("interrupted")


def goes_wrong(seed: int) -> bool:
    """Whether this world breaks a promise."""
    try:
        World(seed).run()
    except Violation:
        return True
    return False


def test_no_acknowledged_commit_is_ever_not_the_newest_or_lost_or_after_a_closing_record() -> None:
    worlds = [World(seed).run() for seed in range(400)]
    assert sum(world.commits for world in worlds) > 10_000
    assert sum(world.kills for world in worlds) > 1000
    assert sum(world.doubtful for world in worlds) > 500


@pytest.mark.prove
def test_twelve_thousand_worlds_hold_the_fences(record_figure: Callable[[str], None]) -> None:
    worlds = commits = kills = doubtful = 0
    for seed in range(12_000):
        world = World(1_000_000 + seed).run()
        worlds, commits, kills = worlds + 1, commits + world.commits, kills + world.kills
        doubtful += world.doubtful
    record_figure(f"{worlds} worlds, {commits} commits, {kills} kills, {doubtful} unknown outcomes: 0 violations")


def test_without_faults_a_key_never_holds_more_than_twice_keep_and_one_fence_per_run() -> None:
    for seed in range(200):
        world = World(seed, faults=False).run()
        for key, steps in world.truth.items():
            writers = {written.writer for written in world.ever[key].values()}
            assert len(steps) <= 2 * 3 + len(writers), (seed, key)


def test_without_the_look_after_the_first_commit_the_simulation_finds_wrong_worlds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = Run._look

    def only_when_doubtful(run: Run, sent: Any) -> None:
        if run._has_fence:
            look(run, sent)

    monkeypatch.setattr(Run, "_look", only_when_doubtful)
    assert any(map(goes_wrong, range(200)))


def test_without_the_look_after_an_unknown_outcome_the_simulation_finds_wrong_worlds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = Run._look

    def only_at_first(run: Run, sent: Any) -> None:
        if not run._has_fence:
            look(run, sent)

    monkeypatch.setattr(Run, "_look", only_at_first)
    assert any(map(goes_wrong, range(3000)))


def test_without_fences_the_simulation_finds_wrong_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledge = Run._acknowledge

    def forget_the_fence(run: Run, sent: Any) -> None:
        first = not run._has_fence
        acknowledge(run, sent)
        if first:
            run._live = {**run._live, run.step: None}

    monkeypatch.setattr(Run, "_acknowledge", forget_the_fence)
    assert any(map(goes_wrong, range(400)))
