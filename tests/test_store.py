"""What the store promises beside what the conformance suite shows on every backend."""

import datetime as dt
import enum
import os
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointKey,
    CheckpointNotFound,
    InvalidArgument,
    InvalidKey,
    InvalidState,
    Store,
    StoreUnavailable,
    open_store,
)
from durable_store.episode import newest_number
from durable_store_backends.memory import MemoryBackend

KEY = CheckpointKey("g", 0, "a")


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("memory://") as opened:
        yield opened


def spoil(store: Store, key: CheckpointKey, step: int) -> None:
    store.backend.prune(key, [step])
    store.backend.save(key, step, b"spoiled")


def test_a_checkpoint_tells_who_saved_it_and_when(store: Store) -> None:
    before = dt.datetime.now(dt.UTC)
    saved = store.save(KEY, 3, {"n": 1}, meta={"turn": 3})
    assert before <= saved.saved_at <= dt.datetime.now(dt.UTC)
    assert saved == store.latest(KEY) == store.load(KEY, 3)
    assert (saved.key, saved.step, saved.state, saved.meta, saved.size) == (KEY, 3, {"n": 1}, {"turn": 3}, 7)
    assert saved.writer
    assert saved.skipped == ()


def test_saving_the_same_again_is_a_retry_whatever_the_order_of_keys(store: Store) -> None:
    first = store.save(KEY, 0, {"a": 1, "b": [True, None]}, meta={"x": 1, "y": 2})
    assert store.save(KEY, 0, {"b": (True, None), "a": 1}, meta={"y": 2, "x": 1}) == first


@pytest.mark.parametrize("state", [{"a": 1.0}, {"a": True}, {"a": 2}, {"a": 1, "b": None}, None])
def test_saving_anything_else_is_a_conflict_that_names_step_writer_and_time(store: Store, state: object) -> None:
    first = store.save(KEY, 4, {"a": 1})
    with pytest.raises(CheckpointConflict) as caught:
        store.save(KEY, 4, state)
    for part in ("step 4", first.writer, first.saved_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")):
        assert part in str(caught.value)
    assert store.load(KEY, 4) == first


def test_saving_over_what_cannot_be_read_is_damage_not_a_conflict(store: Store) -> None:
    store.backend.save(KEY, 0, b"spoiled")
    with pytest.raises(CheckpointDamaged):
        store.save(KEY, 0, 1)


def test_latest_has_three_answers(store: Store) -> None:
    assert store.latest(KEY) is None
    store.save(KEY, 0, "good")
    found = store.latest(KEY)
    assert found
    assert found.state == "good"
    store.backend.save(KEY, 1, b"spoiled")
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)


def test_skipping_damage_says_what_it_skipped_and_never_says_nothing_there(store: Store) -> None:
    for step in range(4):
        store.save(KEY, step, step)
    spoil(store, KEY, 3)
    spoil(store, KEY, 2)
    found = store.latest(KEY, skip_damaged=True)
    assert found
    assert (found.step, found.skipped) == (1, (3, 2))
    for step in (0, 1):
        spoil(store, KEY, step)
    with pytest.raises(CheckpointDamaged, match="all of its records are damaged"):
        store.latest(KEY, skip_damaged=True)
    with pytest.raises(CheckpointDamaged):
        store.prune(KEY, keep=1)


def test_prune_never_removes_the_newest_intact_record(store: Store) -> None:
    for step in range(6):
        store.save(KEY, step, step)
    for step in (5, 4):
        spoil(store, KEY, step)
    assert store.prune(KEY, keep=1) == [0, 1, 2, 4]
    found = store.latest(KEY, skip_damaged=True)
    assert found
    assert found.state == 3


@pytest.mark.parametrize("keep", [0, -1, True, None, "1", 1.0])
def test_a_keep_below_one_is_refused_and_nothing_is_removed(store: Store, keep: Any) -> None:
    store.save(KEY, 0, 1)
    store.save(KEY, 1, 1)
    with pytest.raises(InvalidArgument, match="keep must be"):
        store.prune(KEY, keep=keep)
    assert store.backend.steps(KEY) == [1, 0]


def test_history_lists_damage_instead_of_stumbling_over_it(store: Store) -> None:
    store.save(KEY, 0, "x", meta={"a": 1})
    store.backend.save(KEY, 1, b"spoiled")
    newest, oldest = store.history(KEY)
    assert (newest.step, newest.damaged, newest.saved_at, newest.writer, newest.size) == (1, True, None, "", 0)
    assert (oldest.step, oldest.damaged, oldest.meta, oldest.size, oldest.encoding) == (0, False, {"a": 1}, 3, ())


def test_load_of_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(CheckpointNotFound, match="g/0/a has no step 3"):
        store.load(KEY, 3)
    with pytest.raises(KeyError):
        store.load(KEY, 3)


def test_keys_leave_out_the_stores_own(store: Store) -> None:
    store.start_episode("g")
    store.save(KEY, 0, 1)
    store.save(CheckpointKey("h", 0, "a"), 0, 1)
    assert sorted(store.keys()) == [KEY, CheckpointKey("h", 0, "a")]
    assert list(store.keys("g")) == [KEY]
    assert list(store.keys(7)) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 9, 31, 100])
def test_the_newest_episode_is_found_in_a_handful_of_loads(store: Store, count: int) -> None:
    assert [store.start_episode("g") for _ in range(count)] == list(range(count))
    assert newest_number(store.backend, "g") == count - 1
    assert [episode.id for episode in store.episodes("g")] == list(range(count))[::-1]


def test_an_episode_number_is_never_given_twice_also_after_delete(store: Store) -> None:
    assert [store.start_episode(5), store.start_episode(5)] == [0, 1]
    assert store.delete(5) == 0
    assert [episode.status for episode in store.episodes(5)] == ["deleted", "deleted"]
    assert store.start_episode(5) == 2


def test_an_int_that_is_a_member_of_an_enum_is_a_step_like_any_other(tmp_path: Path) -> None:
    class Turn(int, enum.Enum):
        THIRD = 3

    for url in ("memory://", str(tmp_path / "files"), f"sqlite:///{tmp_path}/runs.db"):
        with open_store(url) as store:
            assert type(store.save(KEY, Turn.THIRD, 1).step) is int
            assert type(store.load(KEY, Turn.THIRD).step) is int


def test_a_goal_whose_first_episode_record_is_lost_is_refused_and_not_looked_at_for_ever(store: Store) -> None:
    run = store.resume("g", "a")
    run.commit(1)
    run.finish()
    store.backend.prune(CheckpointKey("g", 0, "@episode"), [0])
    with pytest.raises(CheckpointConflict, match="was never started"):
        store.resume("g", "a")


def test_an_interrupted_delete_never_shows_an_older_latest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.resume("g", "a", keep=None)
    for n in range(5):
        run.commit(n)
    prune = store.backend.prune

    def interrupted(key: CheckpointKey, steps: Collection[int]) -> None:
        prune(key, list(steps)[:1])
        if key == run.key:
            raise StoreUnavailable("interrupted after the first removal")

    with monkeypatch.context() as patch:
        patch.setattr(store.backend, "prune", interrupted)
        with pytest.raises(StoreUnavailable):
            store.delete("g")
    found = store.latest(run.key)
    assert found
    assert found.state == 4
    assert [info.step for info in store.history(run.key)] == [4, 3, 2, 1]
    with pytest.raises(CheckpointNotFound, match="was deleted"):
        store.resume("g", "a", episode_id=0)
    assert store.delete("g") == 4
    assert store.latest(run.key) is None


def test_delete_takes_the_result_of_an_episode_away(store: Store) -> None:
    store.resume("g", "a").finish({"secret": 1})
    store.delete("g")
    hidden = CheckpointKey("g", 0, "@episode")
    assert store.backend.steps(hidden) == [2, 0]
    assert not any(b"secret" in (store.backend.load(hidden, step) or b"") for step in (2, 0))


def test_delete_removes_one_episode_or_all_and_counts_checkpoints(store: Store) -> None:
    for episode in range(3):
        run = store.resume("g", "a", keep=None)
        run.commit({"secret": episode})
        run.commit({"secret": episode})
        run.finish({"secret": episode})
    assert store.delete("g", episode_id=1) == 3
    assert {key.episode_id for key in store.keys("g")} == {0, 2}
    assert [(e.status, e.result) for e in store.episodes("g")] == [
        ("finished", {"secret": 2}),
        ("deleted", None),
        ("finished", {"secret": 0}),
    ]
    assert store.delete("g") == 6
    assert store.delete("g") == 0
    assert list(store.keys("g")) == []


def test_a_goal_whose_episode_cannot_be_read_can_be_deleted(store: Store) -> None:
    store.resume("g", "a").commit(1)
    spoil(store, CheckpointKey("g", 0, "@episode"), 0)
    with pytest.raises(CheckpointDamaged):
        store.episodes("g")
    with pytest.raises(CheckpointDamaged):
        store.resume("g", "a")
    assert store.delete("g") == 1
    assert store.episodes("g")[0].status == "deleted"


def test_a_record_in_the_place_of_an_episode_that_tells_of_none_is_damage(store: Store) -> None:
    hidden = CheckpointKey("g", 0, "@episode")
    other = CheckpointKey("g", 0, "b")
    store.save(other, 0, {"status": "running"})
    record = store.backend.load(other, 0)
    assert record
    store.backend.save(hidden, 0, record)
    with pytest.raises(CheckpointDamaged):
        store.resume("g", "a")


def test_fork_starts_a_started_episode_from_one_step(store: Store) -> None:
    run = store.resume("g", "a", keep=None)
    for n in range(3):
        run.commit({"n": n}, meta={"turn": n})
    run.finish("done")
    to = CheckpointKey("g", store.start_episode("g", root="a"), "a")
    forked = store.fork(run.key, to, step=1)
    assert (forked.key, forked.step, forked.state, forked.meta) == (to, 0, {"n": 1}, {"turn": 1})
    with pytest.raises(CheckpointConflict, match="is not empty"):
        store.fork(run.key, to, step=1)
    again = store.resume("g", "a")
    assert (again.key, again.step, again.state) == (to, 0, {"n": 1})
    with pytest.raises(CheckpointConflict):
        store.fork(run.key, to, step=2)
    again.commit({"n": 5})
    with pytest.raises(CheckpointConflict, match="is not empty"):
        store.fork(run.key, to, step=1)


def test_fork_into_an_ended_or_missing_episode_or_of_nothing_is_refused(store: Store) -> None:
    run = store.resume("g", "a")
    run.commit(1)
    with pytest.raises(CheckpointNotFound, match="never started"):
        store.fork(run.key, CheckpointKey("g", 5, "a"))
    with pytest.raises(CheckpointNotFound, match="no checkpoints"):
        store.fork(CheckpointKey("g", 0, "nobody"), CheckpointKey("g", 0, "b"))
    with pytest.raises(CheckpointNotFound, match="no step 9"):
        store.fork(run.key, CheckpointKey("g", 0, "b"), step=9)
    run.finish()
    with pytest.raises(CheckpointConflict, match="has finished"):
        store.fork(run.key, CheckpointKey("g", 0, "b"))
    assert list(store.keys()) == [run.key]


def test_resume_goes_past_damage_and_continues_after_the_highest_step(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.resume("g", "a")
    for n in range(4):
        run.commit(n)
    spoil(store, run.key, 3)
    again = store.resume("g", "a")
    assert (again.state, again.step, again.skipped) == (2, 2, (3,))
    assert "resumed from step 2, past damaged 3" in caplog.text
    assert again.commit("next") == 4
    with pytest.raises(CheckpointConflict):
        run.commit("late")


@pytest.mark.parametrize("key", ["g/0/a", None, ("g", 0, "a")])
def test_what_is_no_key_is_refused(store: Store, key: Any) -> None:
    with pytest.raises(InvalidKey, match="a key is a CheckpointKey"):
        store.latest(key)


@pytest.mark.parametrize("step", [-1, True, 2**53, "0", None])
def test_what_is_no_step_is_refused(store: Store, step: Any) -> None:
    with pytest.raises(InvalidKey, match="step must be"):
        store.save(KEY, step, 1)
    with pytest.raises(InvalidKey, match="step must be"):
        store.load(KEY, step)


@pytest.mark.parametrize("goal", ["", True, 1.5, "x" * 201])
def test_what_is_no_goal_is_refused(store: Store, goal: Any) -> None:
    verbs: list[Callable[[], object]] = [
        lambda: store.episodes(goal),
        lambda: store.delete(goal),
        lambda: store.start_episode(goal),
        lambda: store.keys(goal),
        lambda: store.resume(goal, "a"),
    ]
    for verb in verbs:
        with pytest.raises(InvalidKey):
            verb()


def negative(odd: Any) -> Any:
    return -odd if isinstance(odd, int) else odd or "nothing"


def not_zero(odd: Any) -> Any:
    return odd or "0"


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


@pytest.mark.parametrize("odd", [None, 0, False, (), Nameless(), pytest.param(10**5000, id="huge")])
def test_nothing_but_this_librarys_errors_leaves_the_door(store: Store, odd: Any) -> None:
    below_one = negative(odd)
    no_meta: Any = odd or [1]
    no_episode = not_zero(odd)
    calls: list[Callable[[], object]] = [
        lambda: store.latest(odd),
        lambda: store.start_episode("g", root=odd),
        lambda: store.prune(KEY, keep=below_one),
        lambda: store.save(KEY, 0, {odd: 1}),
        lambda: store.save(KEY, 0, 1, meta=no_meta),
        lambda: CheckpointKey("g", 0, odd),
        lambda: CheckpointKey("g", no_episode, "a"),
        lambda: CheckpointKey.parse(odd),
        lambda: store.resume("g", odd),
        lambda: store.resume("g", "a", keep=below_one),
        lambda: open_store(odd),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert store.episodes("g") == []


def test_a_closed_store_is_unavailable(store: Store) -> None:
    store.save(KEY, 0, 1)
    store.close()
    store.close()
    verbs: list[Callable[[], object]] = [
        lambda: store.save(KEY, 1, 1),
        lambda: store.latest(KEY),
        lambda: store.load(KEY, 0),
        lambda: store.prune(KEY, keep=1),
        lambda: store.history(KEY),
        lambda: list(store.keys()),
        lambda: store.start_episode("g"),
        lambda: store.episodes("g"),
        lambda: store.fork(KEY, CheckpointKey("g", 0, "b")),
        lambda: store.delete("g"),
        lambda: store.resume("g", "a"),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable, match="closed"):
            verb()


def test_a_record_larger_than_the_limit_is_refused_before_it_is_sent(store: Store) -> None:
    with pytest.raises(InvalidState, match="the most is 536870912"):
        store.save(KEY, 0, "x" * (513 * 2**20))
    assert store.latest(KEY) is None


def test_a_store_of_memory_is_private_unless_it_has_a_name() -> None:
    with open_store("memory://") as one, open_store("memory://") as other:
        one.save(KEY, 0, 1)
        assert other.latest(KEY) is None
    with open_store("memory://shared-by-test") as one, open_store("memory://shared-by-test") as other:
        one.save(KEY, 0, 1)
        found = other.latest(KEY)
        assert found
        assert found.state == 1


def test_a_memory_store_is_safe_after_a_fork_beside_a_busy_thread(store: Store) -> None:
    """A child may be forked while another thread holds the lock; it must not wait for it for ever."""
    assert isinstance(store.backend, MemoryBackend)
    store.save(KEY, 0, "before")
    with store.backend._open().lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            found = store.latest(KEY)
            os._exit(42 if found and found.state == "before" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_a_reader_whose_records_are_pruned_under_it_starts_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage on top, and every older step gone between the listing and the load: what is there now is found."""
    store.save(KEY, 0, "old")
    store.backend.save(KEY, 1, b"spoiled")
    steps = store.backend.steps

    def overtaken(key: CheckpointKey) -> list[int]:
        listed = steps(key)
        monkeypatch.setattr(store.backend, "steps", steps)
        store.save(KEY, 2, "new")
        store.backend.prune(KEY, [0, 1])
        return listed

    monkeypatch.setattr(store.backend, "steps", overtaken)
    found = store.latest(KEY, skip_damaged=True)
    assert found
    assert (found.state, found.skipped) == ("new", ())
