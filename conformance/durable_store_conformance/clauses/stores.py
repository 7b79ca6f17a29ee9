"""What `Store` promises on top of a backend: retries, history, retention, episodes, forks, deletion."""

from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointKey,
    CheckpointNotFound,
    InvalidKey,
    Store,
    StoreUnavailable,
    open_store,
)
from durable_store_conformance.process import OtherProcesses, at_once
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import in_threads, state_of

_STATE: dict[str, Any] = {
    "text": 'quotes " \\ and \u2028, \U0001f9d1, \0 and \x7f',
    "numbers": [0, -1, 2**63, -(2**63), 0.1, 1e300, -0.0],
    "nothing": [None, True, False, "", [], {}],
    "": {"a": {"b": [{"c": "d"}] * 3}},
}

_OTHERS: dict[str, tuple[object, dict[str, Any] | None]] = {
    "other state": ({"n": 2}, {"m": 1}),
    "other meta": ({"n": 1}, {"m": 2}),
    "no meta": ({"n": 1}, None),
    "true for 1": ({"n": True}, {"m": 1}),
    "another type": ([], {"m": 1}),
}


def _attempt(number: int) -> CheckpointKey:
    return CheckpointKey("goal", number, "agent-0")


@clause("DS-STORE-01", "Saves a state under (key, step), once: steps are write-once, in any order and with gaps.")
def a_checkpoint_comes_back_as_it_was_saved(store: Store, url: str) -> None:
    """State and meta, by latest and by load, in the store that saved it and in another one."""
    saved = store.save(KEY, 3, _STATE, meta={"why": "because"})
    with open_store(url) as another:
        for found in (saved, another.latest(KEY), another.load(KEY, 3), store.latest(KEY)):
            assert found is not None
            assert (found.key, found.step) == (KEY, 3)
            assert found.state == _STATE
            assert found.meta == {"why": "because"}
            assert (found.writer, found.saved_at, found.size) == (saved.writer, saved.saved_at, saved.size)
            assert list(found.skipped) == []


@clause("DS-STORE-02", "The checkpoint with the highest step, or None when the key has none.")
def latest_is_none_when_nothing_was_saved(store: Store) -> None:
    """None says that there is nothing, and a step that is not there is CheckpointNotFound."""
    assert store.latest(KEY) is None
    assert store.latest(KEY, skip_damaged=True) is None
    assert store.history(KEY) == []
    assert list(store.keys()) == []
    assert store.episodes("goal") == []
    with pytest.raises(CheckpointNotFound):
        store.load(KEY, 0)


@clause(
    "DS-STORE-03",
    "Saving the same state and meta again (equal as JSON, whatever the order of keys) is a retry and returns the"
    " checkpoint that is there.",
)
def a_retry_of_the_same_save_returns_the_checkpoint_that_is_there(store: Store, url: str) -> None:
    """Equal as JSON, whatever the order of keys; nothing is written twice."""
    first = store.save(KEY, 0, {"a": 1, "b": [{"c": 2, "d": 3}]}, meta={"x": 1, "y": 2})
    with open_store(url) as another:
        again = another.save(KEY, 0, {"b": [{"d": 3, "c": 2}], "a": 1}, meta={"y": 2, "x": 1})
    assert (again.writer, again.saved_at, again.state) == (first.writer, first.saved_at, first.state)
    assert [info.step for info in store.history(KEY)] == [0]


@clause("DS-STORE-04", "another state is there; the error names its step, writer and time", other=_OTHERS)
def a_taken_step_is_a_conflict_and_the_first_stays(
    store: Store, url: str, other: tuple[object, dict[str, Any] | None]
) -> None:
    """The error names the step and the writer who has it."""
    first = store.save(KEY, 17, {"n": 1}, meta={"m": 1})
    with open_store(url) as another, pytest.raises(CheckpointConflict) as conflict:
        another.save(KEY, 17, other[0], meta=other[1])
    assert "17" in str(conflict.value)
    assert first.writer in str(conflict.value)
    found = store.load(KEY, 17)
    assert (found.state, found.meta, found.writer) == ({"n": 1}, {"m": 1}, first.writer)


@clause("DS-STORE-05", "What the headers of a key's steps tell, newest first; bodies are not read.")
def history_is_newest_first(store: Store) -> None:
    """One line for each step, in any order of saving."""
    for step in (4, 0, 11, 2):
        store.save(KEY, step, state_of(step), meta={"of": step})
    history = store.history(KEY)
    assert [info.step for info in history] == [11, 4, 2, 0]
    assert [info.meta for info in history] == [{"of": 11}, {"of": 4}, {"of": 2}, {"of": 0}]
    assert not any(info.damaged for info in history)


@clause("DS-STORE-06", "Removes all but the newest `keep` steps and returns the steps removed, oldest first.")
def prune_keeps_the_newest_and_returns_the_rest(store: Store) -> None:
    """All but the newest `keep`, of this key; pruning again finds nothing to do."""
    for step in range(0, 20, 2):
        store.save(KEY, step, state_of(step))
        store.save(_attempt(1), step, state_of(step))
    assert store.prune(KEY, keep=3) == list(range(0, 14, 2))
    assert [info.step for info in store.history(KEY)] == [18, 16, 14]
    assert store.prune(KEY, keep=3) == []
    assert store.prune(KEY, keep=100) == []
    latest = store.latest(KEY)
    assert latest is not None
    assert latest.state == state_of(18)
    assert len(store.history(_attempt(1))) == 10


@clause("DS-EPISODE-01", "Whose state this is: the same in every process that works on it, and in no other.")
def attempts_at_one_goal_never_see_each_other(store: Store, url: str) -> None:
    """Each episode has its own latest, history and steps; removing one leaves the others."""
    attempts = [0, 1, 2, 10, 11, 100]
    for number in attempts:
        assert store.latest(_attempt(number)) is None
        store.save(_attempt(number), 5 + number, {"attempt": number})
        store.save(_attempt(number), 1, {"attempt": number, "early": True})
    with open_store(url) as another:
        for number in attempts:
            found = another.latest(_attempt(number))
            assert found is not None
            assert (found.step, found.state) == (5 + number, {"attempt": number})
            assert [info.step for info in another.history(_attempt(number))] == [5 + number, 1]
        assert sorted(another.keys("goal")) == [_attempt(number) for number in attempts]
        another.delete("goal", episode_id=1)
    assert store.latest(_attempt(1)) is None
    assert [len(store.history(_attempt(number))) for number in attempts] == [2, 0, 2, 2, 2, 2]


@clause(
    "DS-STORE-07", "Checkpoint ids that start with `@` belong to the store: its verbs refuse them with `InvalidKey`."
)
def the_stores_own_ids_are_refused_and_left_out(store: Store) -> None:
    """Checkpoint ids that start with `@` belong to the store."""
    own = CheckpointKey("goal", store.start_episode("goal"), "@episode")
    store.save(KEY, 0, {})
    assert list(store.keys()) == [KEY]
    assert list(store.keys("goal")) == [KEY]
    with pytest.raises(InvalidKey):
        store.save(own, 9, {})
    with pytest.raises(InvalidKey):
        store.latest(own)


@clause(
    "DS-EPISODE-02",
    "Starts the goal's next episode and returns its number, which is never given twice; the first is 0.",
)
def episode_numbers_leave_no_gap(store: Store, url: str) -> None:
    """0, 1, 2 … for each goal, whoever starts them; listed newest first with root and status."""
    with open_store(url) as another:
        assert [(store, another)[n % 2].start_episode("goal", root=f"agent-{n}") for n in range(20)] == list(range(20))
    assert store.start_episode("goal-2") == 0
    found = store.episodes("goal")
    assert [episode.id for episode in found] == list(range(19, -1, -1))
    assert [episode.root for episode in found] == [f"agent-{n}" for n in range(19, -1, -1)]
    assert {episode.status for episode in found} == {"running"}


@clause(
    "DS-EPISODE-03",
    "Starts the goal's next episode and returns its number, which is never given twice; the first is 0.",
    needs="a race",
)
def an_episode_number_is_never_given_twice_to_threads(store: Store) -> None:
    """Threads that start episodes at once get different ones, without a gap."""
    given = in_threads(8, lambda _: [store.start_episode("goal") for _ in range(5)])
    assert sorted(number for numbers in given for number in numbers) == list(range(40))


@clause(
    "DS-EPISODE-04",
    "Starts the goal's next episode and returns its number, which is never given twice; the first is 0.",
    needs="a race",
)
def an_episode_number_is_never_given_twice_to_processes(store: Store, another_process: OtherProcesses) -> None:
    """Processes that start episodes at once get different ones, without a gap."""
    processes = another_process.start(4)
    given = [number for _ in range(5) for number in at_once(processes, "store", "start_episode", "goal")]
    assert sorted(given) == list(range(20))
    assert [episode.id for episode in store.episodes("goal")] == list(range(19, -1, -1))


@clause(
    "DS-EPISODE-05",
    "Started episodes keep a tombstone with status `deleted`, so that their numbers are never given twice.",
)
def a_deleted_episodes_number_is_not_given_again(store: Store, url: str) -> None:
    """Its tombstone stays; its checkpoints are gone, and those of other episodes are not."""
    for number in range(3):
        assert store.start_episode("goal") == number
        for step in range(4):
            store.save(_attempt(number), step, state_of(step))
    store.delete("goal", episode_id=2)
    with open_store(url) as another:
        assert another.latest(_attempt(2)) is None
        assert another.start_episode("goal") == 3
        assert [e.status for e in another.episodes("goal")] == ["running", "deleted", "running", "running"]
    assert len(store.history(_attempt(1))) == 4


@clause("DS-STORE-08", "Removes all checkpoints of a goal, or of one episode, and returns how many.")
def delete_of_a_goal_removes_all_of_it_and_nothing_else(store: Store) -> None:
    """Not a goal whose name begins with its name; what is deleted already is no error."""
    others = [CheckpointKey(goal, 0, "agent-0") for goal in ("goal-2", "goa", "Goal", "goal/0")]
    store.start_episode("goal")
    for key in (_attempt(0), CheckpointKey("goal", 0, "helper-1"), _attempt(1), *others):
        store.save(key, 0, {"key": str(key)})
    store.delete("goal")
    store.delete("goal")
    store.delete("never was")
    assert list(store.keys("goal")) == []
    assert sorted(store.keys()) == sorted(others)
    assert store.start_episode("goal") == 1


@clause(
    "DS-STORE-09",
    "Makes the state and meta of one step (by default the newest) step 0 of an empty key in a started episode.",
)
def fork_makes_the_state_of_one_step_step_0_elsewhere(store: Store, url: str) -> None:
    """In a started episode; the two go on apart."""
    for step in range(4):
        store.save(KEY, step, state_of(step), meta={"of": step})
    to = CheckpointKey("goal", store.start_episode("goal"), "fork-0")
    newest = CheckpointKey("goal", to.episode_id, "fork-1")
    assert store.fork(KEY, to, step=2).step == 0
    store.fork(KEY, newest)
    store.save(to, 1, {"fork": True})
    with open_store(url) as another:
        assert another.load(to, 0).state == state_of(2)
        assert another.load(to, 0).meta == {"of": 2}
        assert another.load(newest, 0).state == state_of(3)
        assert another.load(KEY, 1).state == state_of(1)
        assert [info.step for info in another.history(to)] == [1, 0]


@clause("DS-STORE-10", "that episode has ended, or the key `to` is not empty")
def fork_needs_an_empty_key_in_a_started_episode(store: Store) -> None:
    """Never started or deleted is CheckpointNotFound; ended or not empty is CheckpointConflict."""
    store.save(KEY, 0, {"from": "here"})
    with pytest.raises(CheckpointNotFound):
        store.fork(KEY, CheckpointKey("other", 0, "agent-0"))
    with store.resume("other", "agent-0", initial={}) as run:
        run.commit({})
        run.commit({"taken": True})
        with pytest.raises(CheckpointConflict):
            store.fork(KEY, run.key)
        run.finish()
    with pytest.raises(CheckpointConflict):
        store.fork(KEY, CheckpointKey("other", 0, "agent-1"))
    store.delete("other")
    with pytest.raises(CheckpointNotFound):
        store.fork(KEY, CheckpointKey("other", 0, "agent-1"))
    started = CheckpointKey("other", store.start_episode("other"), "agent-1")
    with pytest.raises(CheckpointNotFound):
        store.fork(KEY, started, step=7)
    assert store.latest(started) is None


@clause("DS-CLOSE-03", "Lets go of connections and handles; every verb after it is StoreUnavailable.")
def a_closed_store_is_unavailable(store: Store, url: str) -> None:
    """No verb of it says that there is nothing."""
    store.save(KEY, 0, {})
    closed = open_store(url)
    assert closed.latest(KEY) is not None
    closed.close()
    closed.close()
    for verb in (
        lambda: closed.save(KEY, 1, {}),
        lambda: closed.latest(KEY),
        lambda: closed.latest(KEY, skip_damaged=True),
        lambda: closed.load(KEY, 0),
        lambda: closed.history(KEY),
        lambda: closed.prune(KEY, keep=1),
        lambda: list(closed.keys()),
        lambda: closed.start_episode("goal"),
        lambda: closed.episodes("goal"),
        lambda: closed.delete("goal"),
        lambda: closed.resume("goal", "agent-0"),
    ):
        with pytest.raises(StoreUnavailable):
            verb()
    assert store.latest(KEY) is not None
