"""Where an agent's turns are kept: its run in the store, or nowhere."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from durable_store.aio import AsyncRun, AsyncStore
from durable_store.errors import CheckpointConflict, CheckpointNotFound, InvalidArgument, StoreUnavailable, shown
from durable_store.key import CheckpointKey
from durable_store.runtime.drift import OnDrift
from durable_store.state import Encoded, to_json
from durable_store.store import Store


class Swarm:
    """What all agents of one goal share.

    Attributes:
        store: where they keep their turns; None for nowhere.
        goal_id: what they work on.
        episode_id: which attempt at it; None as long as the store could not be asked.
        errors: how often the store could not be reached.
        at_work: the checkpoint ids of the children that act now.
        on_drift: what to do when what goes on is not what was begun.
    """

    def __init__(
        self,
        store: AsyncStore | None,
        goal_id: str | int,
        *,
        keep: int | None,
        fail_open: bool = False,
        on_drift: OnDrift = "warn",
    ) -> None:
        self.store = store
        self.goal_id = goal_id
        self.episode_id: int | None = None
        self.keep = keep
        self.errors = 0
        self.at_work: set[str] = set()
        self.on_drift: OnDrift = on_drift
        self._fail_open = fail_open
        self._stopped: Exception | None = None
        self._told: set[str] = set()

    def stop(self, because: Exception) -> None:
        """Ends all agents at their next boundary, also those whose parent swallows the error of one."""
        self._stopped = self._stopped or because

    def check(self) -> None:
        """Raises what has stopped the swarm."""
        if self._stopped:
            raise self._stopped

    def unreachable(self, err: StoreUnavailable) -> None:
        """Counts the error, and logs it once for each cause; raises it if such an error ends the goal."""
        if not self._fail_open:
            raise err
        self.errors += 1
        cause = str(err)
        if cause not in self._told:
            self._told.add(cause)
            logging.getLogger("durable_store").warning("%s: not kept, and going on: %s", self.goal_id, cause)


class Kept:
    """One agent's turns in the store.

    Attributes:
        state: as JSON, what was committed last, or the state to begin with.
        meta: what was committed with it.
        step: the step of that, -1 on a new run.
        finished: whether the agent has finished, with `result`.
    """

    def __init__(self, swarm: Swarm, checkpoint_id: str, state: object) -> None:
        self.checkpoint_id = checkpoint_id
        self.state = Encoded(to_json(state))
        self.meta: dict[str, Any] = {}
        self.step = -1
        self.finished = False
        self.result: Any = None
        self._swarm = swarm
        self._run: AsyncRun | None = None
        self._turn = asyncio.Lock()

    async def begin(self, *, afresh: bool = False) -> None:
        """Resumes the agent's run; the root's takes the goal's newest episode, or with `afresh` starts the next one."""
        try:
            await self._begin(afresh=afresh)
        except StoreUnavailable as err:
            self._swarm.unreachable(err)

    async def commit(self, state: Encoded, meta: Mapping[str, Any]) -> None:
        """Commits the state at a boundary."""
        self.state, self.meta = state, dict(meta)
        try:
            if await self._is_there():
                await self._committed(meta)
        except StoreUnavailable as err:
            self._swarm.unreachable(err)

    async def note(self, meta: Mapping[str, Any]) -> None:
        """Commits the last boundary's state with another meta. Raises StoreUnavailable, whatever else goes on."""
        if await self._is_there():
            await self._committed(meta)
        elif self._swarm.store:
            raise StoreUnavailable(f"{self.checkpoint_id} has no place in the store, so that nothing can be noted")

    async def finish(self, result: object, state: Encoded, meta: Mapping[str, Any]) -> None:
        """Closes the agent's key with its last state and its result."""
        self.state, self.meta = state, dict(meta)
        try:
            if await self._is_there() and self._run:
                await self._run.finish(result, state=state, meta=dict(meta))
        except StoreUnavailable as err:
            self._swarm.unreachable(err)
        self.finished, self.result = True, result

    async def effect(self, number: int) -> Any:
        """The recorded result of an effect, as `{"result": …}`, or None if there is none."""
        if not self._swarm.store:
            return None
        try:
            return (await self._swarm.store.load(self._effects, number)).state
        except CheckpointNotFound:
            return None

    async def record_effect(self, number: int, result: object) -> Any:
        """Records the result of an effect, and returns the one that is recorded: the first."""
        if self._swarm.store:
            try:
                await self._swarm.store.save(self._effects, number, {"result": result})
            except CheckpointConflict:  # the process before us has come to its end after all
                return (await self._swarm.store.load(self._effects, number)).state["result"]
            except StoreUnavailable as err:
                self._swarm.unreachable(err)
        return result

    async def forget_effects(self, numbers: Sequence[int]) -> None:
        """Removes results that a boundary has made superfluous."""
        if self._swarm.store and numbers:
            try:
                await asyncio.to_thread(self._swarm.store.backend.prune, self._effects, numbers)
            except StoreUnavailable as err:
                logging.getLogger("durable_store").warning("%s: left behind: %s", self._effects, err)

    @property
    def _effects(self) -> CheckpointKey:
        return CheckpointKey(self._swarm.goal_id, self._swarm.episode_id or 0, f"{self.checkpoint_id}.once")

    async def _committed(self, meta: Mapping[str, Any]) -> None:
        async with self._turn:
            if self._run:
                self.step = await self._run.commit(self.state, meta=dict(meta))

    async def _begin(self, *, afresh: bool) -> None:
        swarm = self._swarm
        if not swarm.store:
            return
        if afresh:
            swarm.episode_id = await swarm.store.start_episode(swarm.goal_id, root=self.checkpoint_id)
        self._run = await swarm.store.resume(
            swarm.goal_id, self.checkpoint_id, episode_id=swarm.episode_id, keep=swarm.keep, initial=self.state
        )
        run = self._run.run
        swarm.episode_id = run.key.episode_id
        self.state, self.meta, self.step = Encoded(to_json(run.state)), run.meta, run.step
        self.finished, self.result = run.finished, run.result

    async def _is_there(self) -> bool:
        """Whether there is a run to commit to. One that could not be resumed is tried again, in a place of its own."""
        swarm = self._swarm
        if self._run or not swarm.store:
            return self._run is not None
        if swarm.episode_id is None and "." in self.checkpoint_id:
            return False  # the root opens the episode
        state, meta = self.state, self.meta
        await self._begin(afresh=swarm.episode_id is None)
        if self.step >= 0:  # another process has been here: what we know is not what it knew
            self._run = None
        self.state, self.meta = state, meta
        return self._run is not None


@asynccontextmanager
async def opened(store: Store | AsyncStore | None) -> AsyncGenerator[AsyncStore | None]:
    """The store for coroutines; one that was not, stays open afterwards."""
    if store is None or isinstance(store, AsyncStore):
        yield store
        return
    if not isinstance(store, Store):
        raise InvalidArgument(
            f"store must be a Store, an AsyncStore or None, not {shown(store)}: open_store(url) makes one"
        )
    threads = AsyncStore(store)
    try:
        yield threads
    finally:
        threads.leave()
