"""What a `Run` promises on any backend: it goes on from the last commit, finishes once, and keeps within bounds."""

import pytest

from durable_store import CheckpointConflict, CheckpointKey, CheckpointNotFound, Store, open_store
from durable_store.backend import Backend
from durable_store_conformance.registry import clause
from durable_store_conformance.work import grown_state, state_of


def _committed(store: Store, turns: int, *, keep: int | None = 5, goal: str = "goal") -> CheckpointKey:
    """A process's share of the work, as far as the store can tell: it resumes, commits so often, and is gone."""
    with store.resume(goal, "agent-0", keep=keep, initial={"turn": -1}) as run:
        for _ in range(turns):
            run.commit(state_of(run.step + 1))
        return run.key


@clause("DS-RUN-01", "the first commit registers the episode")
def a_new_run_has_its_initial_state_and_has_written_nothing(store: Store, backend: Backend) -> None:
    """Resume writes nothing; the first commit registers the episode and is step 0."""
    with store.resume("goal", "agent-0", initial={"messages": []}) as run:
        assert (run.step, run.state, run.resumed, run.finished) == (-1, {"messages": []}, False, False)
        assert list(backend.keys()) == []
        assert run.commit(state_of(0)) == 0
    assert backend.steps(run.key) == [0]
    assert [(e.id, e.root, e.status) for e in store.episodes("goal")] == [(0, "agent-0", "running")]


@clause("DS-RUN-02", "Commits a state as the next step and returns that step.")
def commits_are_steps_0_1_2(store: Store, url: str) -> None:
    """Each is the newest when it returns, for this store and for another."""
    with open_store(url) as another, store.resume("goal", "agent-0") as run:
        for step in range(12):
            assert run.commit(state_of(step), meta={"of": step}) == step
            assert (run.step, run.state) == (step, state_of(step))
            found = another.latest(run.key)
            assert found is not None
            assert (found.step, found.state, found.meta) == (step, state_of(step), {"of": step})


@clause(
    "DS-RUN-03",
    "The run of a checkpoint id, from its last committed step; if it has none, a new one with `initial` as state.",
)
def resume_goes_on_from_the_last_committed_step(store: Store, url: str) -> None:
    """Time after time, each time in another store object."""
    for turn in range(0, 30, 3):
        with open_store(url) as another, another.resume("goal", "agent-0", initial={}) as run:
            assert (run.step, run.resumed) == (turn - 1, turn > 0)
            assert run.state == (state_of(turn - 1) if turn else {})
            assert [run.commit(state_of(step)) for step in range(turn, turn + 3)] == [turn, turn + 1, turn + 2]
    assert [episode.id for episode in store.episodes("goal")] == [0]


@clause("DS-RUN-04", "decoded afresh at each access, never an alias")
def a_state_is_never_an_alias_of_what_was_committed(store: Store) -> None:
    """Changing what was committed, or what `run.state` gave, changes nothing but a copy."""
    with store.resume("goal", "agent-0") as run:
        state: dict[str, list[int]] = {"list": []}
        run.commit(state)
        state["list"].append(1)
        run.state["list"].append(2)
        assert run.state == {"list": []}


@clause("DS-EPISODE-06", "Takes the goal's newest episode if that is unfinished, else the next number.")
def a_new_attempt_never_sees_the_state_of_the_last(store: Store, url: str) -> None:
    """The episode that is finished stays as it was; the next resume starts the next one from `initial`."""
    for attempt in range(4):
        with open_store(url) as another, another.resume("goal", "agent-0", initial={"fresh": True}) as run:
            assert run.key == CheckpointKey("goal", attempt, "agent-0")
            assert (run.step, run.state, run.resumed) == (-1, {"fresh": True}, False)
            run.commit({"attempt": attempt})
            run.finish(f"result {attempt}")
    for attempt in range(4):
        found = store.latest(CheckpointKey("goal", attempt, "agent-0"))
        assert found is not None
        assert found.state == {"attempt": attempt}
    assert [episode.result for episode in store.episodes("goal")] == [f"result {n}" for n in (3, 2, 1, 0)]


@clause("DS-RUN-05", "Closes the key with its last state and a result")
def finish_closes_the_key(store: Store) -> None:
    """With a result; it can be read and forked, and nobody goes on after it."""
    key = _committed(store, 3)
    with store.resume("goal", "agent-0") as run:
        run.finish({"answer": 42})
        assert (run.finished, run.result) == (True, {"answer": 42})
        with pytest.raises(CheckpointConflict):
            run.commit(state_of(4))
    found = store.latest(key)
    assert found is not None
    assert (found.step, found.state) == (3, state_of(2))
    with pytest.raises(CheckpointConflict):
        store.resume("goal", "agent-0", episode_id=0)
    assert [(e.status, e.result) for e in store.episodes("goal")] == [("finished", {"answer": 42})]


@clause("DS-RUN-06", "with `error`, as failed, and the error's text is the result")
def a_failed_run_says_with_what(store: Store) -> None:
    """The result of a failed one is the error's text."""
    _committed(store, 1)
    with store.resume("goal", "agent-0") as run:
        run.finish(error=RuntimeError("out of tokens"))
    assert [(e.status, e.result) for e in store.episodes("goal")] == [("failed", "out of tokens")]
    with store.resume("goal", "agent-0") as run:
        assert (run.key.episode_id, run.step) == (1, -1)


@clause("DS-EPISODE-07", "the running episode has another root (a checkpoint id with a random part is found out here)")
def resume_under_another_id_than_the_roots_is_not_found_and_names_the_root(store: Store) -> None:
    """An id with a random part is found out at the first resume: it never starts over in silence."""
    _committed(store, 3)
    with pytest.raises(CheckpointNotFound, match="agent-0"):
        store.resume("goal", "agent-0-3fa2c1")
    assert [episode.id for episode in store.episodes("goal")] == [0]


@clause("DS-EPISODE-08", "Other ids than the root's join an episode by naming it.")
def another_id_joins_by_naming_the_episode(store: Store, url: str) -> None:
    """It has its own steps; its finish closes its own key and not the episode."""
    _committed(store, 3)
    with store.resume("goal", "helper-1", episode_id=0, initial={"helps": True}) as run:
        assert (run.step, run.state) == (-1, {"helps": True})
        run.commit({"helped": True})
        run.finish("done")
    with open_store(url) as another:
        with another.resume("goal", "helper-1", episode_id=0) as run:
            assert (run.finished, run.result, run.state) == (True, "done", {"helped": True})
            with pytest.raises(CheckpointConflict):
                run.commit({})
        with another.resume("goal", "agent-0") as run:
            assert (run.key.episode_id, run.step, run.finished) == (0, 2, False)
    with pytest.raises(CheckpointNotFound):
        store.resume("goal", "helper-1", episode_id=1)


@clause(
    "DS-EPISODE-09",
    "With a `root`, only that checkpoint id resumes the episode without naming it; without one, any does.",
)
def an_episode_without_a_root_takes_any_id(store: Store) -> None:
    """And the first run to finish ends it."""
    number = store.start_episode("goal")
    for name in ("agent-0", "agent-1"):
        with store.resume("goal", name) as run:
            assert run.key == CheckpointKey("goal", number, name)
            run.commit({"of": name})
    with store.resume("goal", "agent-1") as run:
        assert run.state == {"of": "agent-1"}
        run.finish()
    assert [episode.status for episode in store.episodes("goal")] == ["finished"]


@clause("DS-RUN-07", "Commits state and meta of an earlier step as the next step, and returns that next step.")
def a_rewind_is_the_next_step_and_history_stays(store: Store) -> None:
    """The state of an earlier step is committed again; the steps between stay as they were."""
    key = _committed(store, 6, keep=None)
    with store.resume("goal", "agent-0", keep=None) as run:
        assert run.rewind(2) == 6
        assert (run.step, run.state) == (6, state_of(2))
        assert run.commit(state_of(7)) == 7
    assert [info.step for info in store.history(key)] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [store.load(key, step).state for step in (2, 4, 6)] == [state_of(2), state_of(4), state_of(2)]


@clause("DS-KEEP-01", "at most twice as many do, besides one record for each restart", keep=[1, 2, 5])
def a_run_keeps_at_least_the_newest_and_at_most_twice_as_many(store: Store, backend: Backend, keep: int) -> None:
    """Beside its first record, the fence, which retention never removes."""
    with store.resume("goal", "agent-0", keep=keep) as run:
        for step in range(4 * keep + 7):
            run.commit(state_of(step))
            there = backend.steps(run.key)
            assert there[: min(keep, step + 1)] == list(range(step, max(step - keep, -1), -1))
            assert there[-1] == 0, "the fence is gone"
            assert len(there) <= 2 * keep + 1


@clause("DS-KEEP-02", "at most twice as many do, besides one record for each restart")
def a_loop_of_restarts_leaves_one_fence_each_and_nothing_else(store: Store, backend: Backend) -> None:
    """Whoever resumes takes over what the last one kept, and prunes it."""
    restarts, keep = 12, 2
    keys = {_committed(store, 5, keep=keep) for _ in range(restarts)}
    assert len(keys) == 1
    there = backend.steps(keys.pop())
    assert len(there) <= 2 * keep + restarts
    assert there[:keep] == [5 * restarts - 1, 5 * restarts - 2]
    assert set(there) >= set(range(0, 5 * restarts, 5)), "a fence is gone"


@clause("DS-KEEP-04", "what stays can be read, for what it builds on stays with it", keep=[1, 3])
def whatever_a_run_keeps_can_be_read(store: Store, backend: Backend, keep: int) -> None:
    """Of a state that grows a run commits what has changed; its bases stay with it, also over a restart."""
    for life in range(3):
        with store.resume("goal", "agent-0", keep=keep) as run:
            for step in range(10 * life, 10 * life + 10):
                run.commit(grown_state(step))
                there = backend.steps(run.key)
                assert there[: min(keep, step + 1)] == list(range(step, max(step - keep, -1), -1))
                assert len(there) <= 2 * keep + 8 + life + 1
        for step in backend.steps(run.key):
            assert store.load(run.key, step).state == grown_state(step)


@clause("DS-KEEP-03", "None keeps everything.")
def keep_none_keeps_everything(store: Store, backend: Backend) -> None:
    """Not one step is pruned."""
    key = _committed(store, 30, keep=None)
    assert backend.steps(key) == list(range(29, -1, -1))
