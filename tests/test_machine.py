"""Hypothesis drives a store and a dict side by side, on each backend, and looks for a difference."""

import shutil
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from durable_store import CheckpointConflict, CheckpointKey, CheckpointNotFound, Run, open_store
from durable_store.state import same_json

KEYS = [CheckpointKey(goal, episode, name) for goal in ("a", "a/b", "A") for episode in (0, 1) for name in ("x", "x-1")]
STATES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | st.text("aé\U0001f600\x00", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
STEPS = st.integers(0, 6) | st.sampled_from([10**6, 2**53 - 1])
KEEP = 2


class Machine(RuleBasedStateMachine):
    """A store, and what a dict says it must hold."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.where = self.url.format(self.directory)
        self.store = open_store(self.where)
        self.saved: dict[CheckpointKey, dict[int, Any]] = {key: {} for key in KEYS}
        self.runs: list[Run] = []  # the last one leads, those before it are superseded once it has committed
        self.committed: dict[int, Any] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(key=st.sampled_from(KEYS), step=STEPS, state=STATES)
    def save(self, key: CheckpointKey, step: int, state: object) -> None:
        there = self.saved[key].get(step, state)
        if same_json(there, state):
            assert same_json(self.store.save(key, step, state).state, state)
            self.saved[key][step] = state
        else:
            with pytest.raises(CheckpointConflict):
                self.store.save(key, step, state)

    @rule(key=st.sampled_from(KEYS), keep=st.integers(1, 4))
    def prune(self, key: CheckpointKey, keep: int) -> None:
        gone = sorted(self.saved[key])[:-keep]
        assert self.store.prune(key, keep=keep) == gone
        for step in gone:
            del self.saved[key][step]

    @rule(goal=st.sampled_from(["a", "a/b", "A"]), episode=st.sampled_from([None, 0, 1]))
    def delete(self, goal: str, episode: int | None) -> None:
        gone = [key for key in KEYS if key.goal_id == goal and episode in (None, key.episode_id)]
        assert self.store.delete(goal, episode_id=episode) == sum(len(self.saved[key]) for key in gone)
        for key in gone:
            self.saved[key].clear()

    @rule()
    def reopen(self) -> None:
        if not self.where.startswith("memory"):
            self.store.close()
            self.store = open_store(self.where)
            self.runs = []

    @rule()
    def resume(self) -> None:
        run = self.store.resume("run", "agent-0", keep=KEEP, initial="new")
        newest = max(self.committed, default=-1)
        assert run.step == newest
        assert same_json(run.state, self.committed.get(newest, "new"))
        assert run.resumed == bool(self.committed)
        self.runs.append(run)

    @precondition(lambda self: self.runs)
    @rule(state=STATES, which=st.integers(-2, -1))
    def commit(self, state: object, which: int) -> None:
        self.attempt(self.runs[max(which, -len(self.runs))], state, Run.commit, state)

    @precondition(lambda self: self.runs)
    @rule(to=st.integers(0, 30), which=st.integers(-2, -1))
    def rewind(self, to: int, which: int) -> None:
        run = self.runs[max(which, -len(self.runs))]
        if to not in self.store.backend.steps(run.key):
            with pytest.raises(CheckpointNotFound):
                run.rewind(to)
            return
        self.attempt(run, self.committed[to], Run.rewind, to)

    def attempt(self, run: Run, state: object, verb: Callable[..., int], argument: object) -> None:
        """A commit is the next step if nobody else has taken it, and a conflict for ever after if somebody has."""
        if run.step < max(self.committed, default=-1):
            with pytest.raises(CheckpointConflict):
                verb(run, argument)
            with pytest.raises(CheckpointConflict):
                run.commit("again")
            self.runs.remove(run)
        else:
            step = run.step + 1
            assert verb(run, argument) == step
            self.committed[step] = state

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        for key, steps in self.saved.items():
            found = self.store.latest(key)
            assert (found and found.step) == max(steps, default=None)
            assert [info.step for info in self.store.history(key)] == sorted(steps, reverse=True)
            for step, state in steps.items():
                assert same_json(self.store.load(key, step).state, state)
        there = {key for key in self.store.keys() if key.goal_id != "run"}
        assert there == {key for key, steps in self.saved.items() if steps}

    @invariant()
    def keeps_the_newest_commits(self) -> None:
        key = CheckpointKey("run", 0, "agent-0")
        steps = self.store.backend.steps(key)
        assert steps[:KEEP] == sorted(self.committed, reverse=True)[: min(KEEP, len(steps))]
        for step in steps:
            assert same_json(self.store.load(key, step).state, self.committed[step])


class MemoryMachine(Machine):
    url = "memory://"


class FilesMachine(Machine):
    url = "file://{}/store"


class SqliteMachine(Machine):
    url = "sqlite:///{}/runs.db"


@pytest.mark.parametrize("machine", [MemoryMachine, FilesMachine, SqliteMachine])
def test_a_store_holds_what_a_dict_would_hold(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
