"""The store and its runs for coroutines: the same verbs and promises, with the I/O in worker threads.

What is to be saved is encoded when the verb is called, before anything is awaited: what the caller changes later never
gets into it. A verb that is cancelled while its I/O is under way ends when that ends, so that a run knows what became
of its commit.
"""

import asyncio
import contextvars
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from durable_store.backend import Backend
from durable_store.episode import Episode
from durable_store.key import CheckpointKey
from durable_store.record import Checkpoint, CheckpointInfo, closing_json, meta_json
from durable_store.run import Run
from durable_store.state import Encoded, to_json
from durable_store.store import Store, open_store

T = TypeVar("T")

WORKERS = 32
"""Threads of a store, and so how many of its verbs are under way at the same time."""

_KEYS_AT_ONCE = 100


def open_async_store(url: str | os.PathLike[str]) -> "AsyncStore":
    """As `open_store`, for coroutines. Connects to nothing and creates nothing: the first save does."""
    return AsyncStore(open_store(url))


class AsyncStore:
    """A `Store` whose verbs are awaited.

    Any number of tasks share one. Closing it closes the store within.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._threads = _Threads()

    def __repr__(self) -> str:
        return f"AsyncStore({self.store.backend!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def backend(self) -> Backend:
        """Where its records are."""
        return self.store.backend

    def save(
        self, key: CheckpointKey, step: int, state: object, *, meta: dict[str, Any] | None = None
    ) -> Awaitable[Checkpoint]:
        """As `Store.save`. The state is encoded by this call, before anything is awaited."""
        return self._threads.run(self.store.save, key, step, _encoded(state), meta=_copied(meta))

    def latest(self, key: CheckpointKey, *, skip_damaged: bool = False) -> Awaitable[Checkpoint | None]:
        """As `Store.latest`."""
        return self._threads.run(self.store.latest, key, skip_damaged=skip_damaged)

    def prune(self, key: CheckpointKey, *, keep: int) -> Awaitable[list[int]]:
        """As `Store.prune`."""
        return self._threads.run(self.store.prune, key, keep=keep)

    def load(self, key: CheckpointKey, step: int) -> Awaitable[Checkpoint]:
        """As `Store.load`."""
        return self._threads.run(self.store.load, key, step)

    def history(self, key: CheckpointKey) -> Awaitable[list[CheckpointInfo]]:
        """As `Store.history`."""
        return self._threads.run(self.store.history, key)

    async def keys(self, goal_id: str | int | None = None) -> AsyncIterator[CheckpointKey]:
        """As `Store.keys`."""
        keys = self.store.keys(goal_id)
        while found := await self._threads.run(_some, keys):
            for key in found:
                yield key

    def start_episode(self, goal_id: str | int, *, root: str = "") -> Awaitable[int]:
        """As `Store.start_episode`."""
        return self._threads.run(self.store.start_episode, goal_id, root=root)

    def episodes(self, goal_id: str | int) -> Awaitable[list[Episode]]:
        """As `Store.episodes`."""
        return self._threads.run(self.store.episodes, goal_id)

    def fork(self, key: CheckpointKey, to: CheckpointKey, *, step: int | None = None) -> Awaitable[Checkpoint]:
        """As `Store.fork`."""
        return self._threads.run(self.store.fork, key, to, step=step)

    def delete(self, goal_id: str | int, *, episode_id: int | None = None) -> Awaitable[int]:
        """As `Store.delete`."""
        return self._threads.run(self.store.delete, goal_id, episode_id=episode_id)

    def resume(
        self,
        goal_id: str | int,
        checkpoint_id: str,
        *,
        episode_id: int | None = None,
        keep: int | None = 5,
        initial: object = None,
    ) -> Awaitable["AsyncRun"]:
        """As `Store.resume`. The initial state is encoded by this call, before anything is awaited."""
        start = _encoded(initial)

        def resume() -> AsyncRun:
            run = self.store.resume(goal_id, checkpoint_id, episode_id=episode_id, keep=keep, initial=start)
            return AsyncRun(run, self._threads)

        return self._threads.run(resume)

    def call(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Calls something else that blocks, in one of the store's threads."""
        return self._threads.run(function, *args)

    async def close(self) -> None:
        """As `Store.close`; the threads end when what is under way has ended."""
        await self._threads.run(self.store.close)
        self.leave()

    def leave(self) -> None:
        """Lets go of the threads, and leaves the store within open: it can go on without coroutines."""
        self._threads.end()


class AsyncRun:
    """A `Run` whose verbs are awaited. `AsyncStore.resume` makes it.

    Attributes:
        run: the run itself. Its attributes can be read here as well.
    """

    def __init__(self, run: Run, threads: "_Threads") -> None:
        self.run = run
        self._threads = threads

    def __repr__(self) -> str:
        return f"Async{self.run!r}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def key(self) -> CheckpointKey:
        """As `Run.key`."""
        return self.run.key

    @property
    def writer(self) -> str:
        """As `Run.writer`."""
        return self.run.writer

    @property
    def keep(self) -> int | None:
        """As `Run.keep`."""
        return self.run.keep

    @property
    def root(self) -> str:
        """As `Run.root`."""
        return self.run.root

    @property
    def step(self) -> int:
        """As `Run.step`."""
        return self.run.step

    @property
    def state(self) -> Any:
        """As `Run.state`: a fresh copy at each reading."""
        return self.run.state

    @property
    def meta(self) -> dict[str, Any]:
        """As `Run.meta`."""
        return self.run.meta

    @property
    def resumed(self) -> bool:
        """As `Run.resumed`."""
        return self.run.resumed

    @property
    def skipped(self) -> tuple[int, ...]:
        """As `Run.skipped`."""
        return self.run.skipped

    @property
    def finished(self) -> bool:
        """As `Run.finished`."""
        return self.run.finished

    @property
    def result(self) -> Any:
        """As `Run.result`."""
        return self.run.result

    def commit(self, state: object, *, meta: dict[str, Any] | None = None) -> Awaitable[int]:
        """As `Run.commit`. The state is encoded by this call, before anything is awaited."""
        return self._threads.run(self.run.commit, _encoded(state), meta=_copied(meta))

    def is_superseded(self) -> Awaitable[bool]:
        """As `Run.is_superseded`."""
        return self._threads.run(self.run.is_superseded)

    def rewind(self, to_step: int) -> Awaitable[int]:
        """As `Run.rewind`."""
        return self._threads.run(self.run.rewind, to_step)

    def finish(self, result: object = None, *, error: object = None, **last: Any) -> Awaitable[None]:
        """As `Run.finish`. Result, state and meta are encoded by this call, before anything is awaited."""
        copied = orjson.loads(closing_json("finished", result))["result"]
        if "state" in last:
            last["state"] = _encoded(last["state"])
        if last.get("meta") is not None:
            last["meta"] = _copied(last["meta"])
        return self._threads.run(self.run.finish, copied, error=error, **last)


class _Threads:
    """The worker threads of a store."""

    def __init__(self) -> None:
        self._ended = False
        self._begin()

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="durable-store")
        self._pid = os.getpid()

    def run(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> Awaitable[T]:
        """Calls a verb in a thread, beginning when this is awaited."""
        context = contextvars.copy_context()
        call: Callable[[], T] = partial(verb, *args, **kwargs)
        return self._awaited(lambda: context.run(call))

    def end(self) -> None:
        """Lets go of the threads."""
        self._ended = True
        self._pool.shutdown(wait=False)

    async def _awaited(self, call: Callable[[], T]) -> T:
        if self._ended:
            return call()  # the store within is closed, and says so
        if self._pid != os.getpid():  # a forked child has none of the threads
            self._begin()
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._pool, call))


async def to_its_end(under_way: asyncio.Future[T]) -> T:
    """What comes of it; a cancellation is held back until then, for what is half done is not known to be done."""
    cancelled: asyncio.CancelledError | None = None
    while not under_way.done():
        try:
            await asyncio.wait([under_way])
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled:
        if not under_way.cancelled():
            under_way.exception()  # looked at, or asyncio would complain that nobody did
        raise cancelled
    return under_way.result()


def _encoded(state: object) -> Encoded:
    return Encoded(to_json(state))


def _copied(meta: dict[str, Any] | None) -> dict[str, Any]:
    copied: dict[str, Any] = orjson.loads(meta_json(meta))
    return copied


def _some(keys: Iterator[CheckpointKey]) -> list[CheckpointKey]:
    return list(islice(keys, _KEYS_AT_ONCE))
