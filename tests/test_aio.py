"""The store for coroutines: what is encoded when, what a cancelled verb leaves, and that it is the same store."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable_store import CheckpointConflict, CheckpointKey, InvalidState, Store, StoreUnavailable, open_store
from durable_store.aio import AsyncStore, open_async_store
from durable_store_backends.memory import MemoryBackend

KEY = CheckpointKey("g-42", 0, "orchestrator-0")


class Slow(MemoryBackend):
    """A backend whose saves wait until a test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.fails = False

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self.began.set()
        self.may_end.wait(10)
        if self.fails:
            raise StoreUnavailable("not there", maybe_saved=True)
        return super().save(key, step, record)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_all_verbs_are_those_of_the_store(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_async_store(f"sqlite:///{tmp_path}/x.db") as store:
            number = await store.start_episode("g-42", root="orchestrator-0")
            run = await store.resume("g-42", "orchestrator-0", keep=None, initial={"n": -1})
            assert (run.state, run.step, run.resumed) == ({"n": -1}, -1, False)
            for n in range(4):
                assert await run.commit({"n": n}, meta={"of": n}) == n
            assert await run.rewind(1) == 4
            await run.finish({"answer": 42})
            assert (run.finished, run.result) == (True, {"answer": 42})
            [episode] = await store.episodes("g-42")
            assert (episode.id, episode.status, episode.result) == (number, "finished", {"answer": 42})
            latest = await store.latest(KEY)
            assert latest is not None
            assert (latest.step, latest.state) == (5, {"n": 1})
            assert (await store.load(KEY, 2)).meta == {"of": 2}
            assert [info.step for info in await store.history(KEY)] == [5, 4, 3, 2, 1, 0]
            to = CheckpointKey("g-42", await store.start_episode("g-42"), "other-0")
            assert (await store.fork(KEY, to, step=3)).state == {"n": 3}
            assert (await store.save(to, 1, {"more": True})).step == 1
            assert await store.prune(to, keep=1) == [0]
            assert sorted([key async for key in store.keys()]) == [KEY, to]
            assert [key async for key in store.keys("none")] == []
            assert await store.delete("g-42") == 7
        with pytest.raises(StoreUnavailable):
            await AsyncStore(store.store).latest(KEY)

    run(use())
    with open_store(f"sqlite:///{tmp_path}/x.db") as store:
        assert list(store.keys()) == []


def test_keys_are_streamed_in_parts() -> None:
    keys = [CheckpointKey(f"g-{number}", 0, "a") for number in range(250)]

    async def use() -> None:
        async with AsyncStore(Store(MemoryBackend())) as store:
            for key in keys:
                await store.save(key, 0, {})
            assert sorted([key async for key in store.keys()]) == sorted(keys)

    run(use())


def test_what_the_caller_changes_after_the_call_is_not_in_the_checkpoint() -> None:
    """Not even what he changes before the coroutine first runs."""

    async def use() -> None:
        async with AsyncStore(Store(MemoryBackend())) as store:
            state, meta = {"list": [1]}, {"of": [1]}
            saving = store.save(KEY, 0, state, meta=meta)
            state["list"].append(2)
            meta["of"].append(2)
            saved = await saving
            assert (saved.state, saved.meta) == ({"list": [1]}, {"of": [1]})
            resuming = store.resume("g-43", "a-0", initial=state)
            state["list"].append(3)
            run = await resuming
            assert run.state == {"list": [1, 2]}
            committing = run.commit(state)
            state["list"].append(4)
            await committing
            assert run.state == {"list": [1, 2, 3]}
            finishing = run.finish(state, state=state)
            state["list"].append(5)
            await finishing
            assert run.result == run.state == {"list": [1, 2, 3, 4]}

    run(use())


def test_what_json_cannot_hold_is_refused_by_the_call_itself() -> None:
    store = AsyncStore(Store(MemoryBackend()))
    with pytest.raises(InvalidState, match=r"\$\.score: NaN"):
        store.save(KEY, 0, {"score": float("nan")})
    with pytest.raises(InvalidState, match="result"):
        asyncio.run(_resumed(store)).finish({1, 2})


async def _resumed(store: AsyncStore) -> Any:
    return await store.resume("g-42", "a-0")


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancelled_commit_ends_when_its_outcome_is_known(fails: bool) -> None:  # noqa: FBT001
    """The run then is where it was or one further, and goes on."""
    backend = Slow()

    async def use() -> None:
        async with AsyncStore(Store(backend)) as store:
            backend.may_end.set()
            run = await store.resume("g-42", "a-0")
            await run.commit(0)
            backend.may_end.clear()
            backend.began.clear()
            committing = asyncio.ensure_future(run.commit(1))
            await asyncio.to_thread(backend.began.wait, 10)
            for _ in range(3):
                committing.cancel()
                await asyncio.sleep(0.01)
                assert not committing.done()
            backend.fails = fails
            backend.may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await committing
            backend.fails = False
            assert run.step == (0 if fails else 1)
            assert await run.commit(1 if fails else 2) == (1 if fails else 2)
            assert run.state == (1 if fails else 2)

    run(use())


@pytest.mark.parametrize("verb", ["finish", "rewind", "start_episode"])
def test_another_verb_that_is_cancelled_under_way_is_done_when_it_ends(verb: str) -> None:
    backend = Slow()

    async def use() -> None:
        async with AsyncStore(Store(backend)) as store:
            backend.may_end.set()
            run = await store.resume("g-42", "a-0")
            await run.commit(0)
            backend.may_end.clear()
            backend.began.clear()
            calls: dict[str, Any] = {
                "finish": lambda: run.finish("done"),
                "rewind": lambda: run.rewind(0),
                "start_episode": lambda: store.start_episode("g-42"),
            }
            under_way = asyncio.ensure_future(calls[verb]())
            await asyncio.to_thread(backend.began.wait, 10)
            under_way.cancel()
            await asyncio.sleep(0.01)
            assert not under_way.done()
            backend.may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await under_way
            newest = (await store.episodes("g-42"))[0]
            assert (run.result, run.step, newest.id) == {
                "finish": ("done", 1, 0),
                "rewind": (None, 1, 0),
                "start_episode": (None, 0, 1),
            }[verb]

    run(use())


def test_a_verb_that_is_cancelled_before_it_began_does_nothing() -> None:
    async def use() -> None:
        async with AsyncStore(Store(MemoryBackend())) as store:
            saving = asyncio.ensure_future(store.save(KEY, 0, {}))
            saving.cancel()
            with suppress(asyncio.CancelledError):
                await saving
            assert await store.latest(KEY) is None

    run(use())


def test_other_tasks_go_on_while_a_save_waits() -> None:
    backend = Slow()

    async def use() -> None:
        async with AsyncStore(Store(backend)) as store:
            saving = asyncio.ensure_future(store.save(KEY, 0, {}))
            assert await asyncio.to_thread(backend.began.wait, 10)
            assert await store.latest(KEY) is None
            backend.may_end.set()
            assert (await saving).step == 0

    run(use())


def test_commits_of_many_tasks_to_one_run_are_steps_of_their_own() -> None:
    async def use() -> None:
        async with AsyncStore(Store(MemoryBackend())) as store:
            run = await store.resume("g-42", "a-0", keep=None)
            steps = await asyncio.gather(*(run.commit(number) for number in range(200)))
            assert sorted(steps) == list(range(200))

    run(use())


def test_a_superseded_run_is_refused_here_too() -> None:
    async def use() -> None:
        async with AsyncStore(Store(MemoryBackend())) as store:
            first, second = await store.resume("g", "a-0"), await store.resume("g", "a-0")
            await second.commit(0)
            with pytest.raises(CheckpointConflict):
                await first.commit(1)

    run(use())


def test_a_store_that_was_left_goes_on_without_coroutines() -> None:
    store = Store(MemoryBackend())

    async def use() -> None:
        threads = AsyncStore(store)
        await threads.save(KEY, 0, {})
        threads.leave()

    run(use())
    assert store.latest(KEY) is not None
