"""Where an agent's turns are kept: its run in the store, or nowhere."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from durable_store.aio import AsyncRun, AsyncStore
from durable_store.errors import CheckpointConflict, CheckpointNotFound, InvalidArgument, StoreUnavailable, shown
from durable_store.key import CheckpointKey
from durable_store.runtime.drift import OnDrift
from durable_store.state import Encoded, to_json
from durable_store.store import Store

if TYPE_CHECKING:
    from durable_store.runtime.budget import Budget


class Swarm:
    """What all agents of one goal share.

    Attributes:
        store: where they keep their turns; None for nowhere.
        goal_id: what they work on.
        episode_id: which attempt at it; None as long as the store could not be asked.
        errors: how often the store could not be reached.
        at_work: the checkpoint ids of the children that act now.
        budgets: of children, by their checkpoint ids: one that is spawned again goes on with its own.
        on_drift: what to do when what goes on is not what was begun.
        root: where the first agent's turns are kept; its children have no place before it has one.
        blind: whether the episode was begun while an earlier one, which could not be read, was under way: nobody knows
            what that has done to the world.
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
        self.budgets: dict[str, Budget] = {}
        self.on_drift: OnDrift = on_drift
        self.root: Kept | None = None
        self.blind = False
        self._fail_open = fail_open
        self._stopped: Exception | None = None
        self._told: set[tuple[type, object]] = set()

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
        cause: BaseException = err
        while cause.__cause__:
            cause = cause.__cause__
        kind = (type(cause), getattr(cause, "errno", None))
        if kind not in self._told:
            self._told.add(kind)
            logging.getLogger("durable_store").warning("%s: not kept, and going on: %s", self.goal_id, err)


class Kept:
    """One agent's turns in the store.

    Attributes:
        state: as JSON, what was committed last, or the state to begin with.
        meta: what was committed with it.
        step: the step of that, -1 on a new run.
        finished: whether the agent has finished, with `result`.

    Raises:
        InvalidKey: the checkpoint id leaves no room for the names of what is kept beside it.
    """

    def __init__(self, swarm: Swarm, checkpoint_id: str, state: object) -> None:
        CheckpointKey(swarm.goal_id, 0, f"{checkpoint_id}.once")
        self.checkpoint_id = checkpoint_id
        self.state = Encoded(to_json(state))
        self.meta: dict[str, Any] = {}
        self.step = -1
        self.finished = False
        self.result: Any = None
        self._swarm = swarm
        swarm.root = swarm.root or self
        self._run: AsyncRun | None = None
        self._afresh = False
        self._turn = asyncio.Lock()
        self._looking = asyncio.Lock()

    @property
    def has_place(self) -> bool:
        """Whether it is known where its turns are kept."""
        return self._run is not None

    @property
    def is_open(self) -> bool:
        """Whether its episode is there, for others to join."""
        return self._run is not None and self.step >= 0

    async def begin(self, *, afresh: bool = False) -> None:
        """Resumes the agent's run; the root's takes the goal's newest episode, or with `afresh` starts the next one."""
        self._afresh = afresh
        with self._failures_told():
            await self._begin(afresh=afresh)

    async def commit(self, state: Encoded, meta: Mapping[str, Any]) -> bool:
        """Commits the state at a boundary. Returns whether that was done."""
        self.state, self.meta = state, dict(meta)
        with self._failures_told():
            if await self._is_there() and self._run:
                async with self._turn:
                    self.step = await self._run.commit(state, meta=self._marked(meta))
                return True
        return False

    async def note(self, meta: Callable[[], Mapping[str, Any]]) -> None:
        """Commits the last boundary's state with another meta, made when its turn has come: notes go in their order.

        Raises StoreUnavailable, whatever else goes on.
        """
        with self._conflicts_told():
            if await self._is_there() and self._run:
                async with self._turn:
                    await self._look_at_root()
                    self.step = await self._run.commit(self.state, meta=self._marked(meta()))
            elif self._swarm.store:
                raise StoreUnavailable(f"{self.checkpoint_id} has no place in the store, so that nothing can be noted")
            else:
                meta()

    async def finish(self, result: object, state: Encoded, meta: Mapping[str, Any]) -> bool:
        """Closes the agent's key with its last state and its result. Returns whether that was done."""
        self.state, self.meta = state, dict(meta)
        done = False
        with self._failures_told():
            if await self._is_there() and self._run:
                await self._run.finish(result, state=state, meta=self._marked(meta))
                done = True
        self.finished, self.result = True, result
        return done

    async def effect(self, number: int) -> Any:
        """The recorded result of an effect, as `{"result": …}`, or None if there is none."""
        if not self._swarm.store:
            return None
        try:
            return (await self._swarm.store.load(self._effects, number)).state
        except CheckpointNotFound:
            return None

    async def record_effect(self, number: int, result: object) -> Any:
        """Records the result of an effect, and returns the one that is recorded: the first.

        Raises:
            StoreUnavailable: it could not be recorded, and such an error ends the goal.
        """
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
        store = self._swarm.store
        if store and numbers:
            try:
                await store.call(store.backend.prune, self._effects, numbers)
            except StoreUnavailable as err:
                logging.getLogger("durable_store").warning("%s: left behind: %s", self._effects, err)

    async def is_superseded(self) -> bool:
        """Whether another process has committed where this one would go on."""
        return self._run is not None and await self._run.is_superseded()

    @property
    def _effects(self) -> CheckpointKey:
        return CheckpointKey(self._swarm.goal_id, self._swarm.episode_id or 0, f"{self.checkpoint_id}.once")

    @contextmanager
    def _conflicts_told(self) -> Generator[None]:
        try:
            yield
        except CheckpointConflict as err:
            self._swarm.stop(err)
            raise

    @contextmanager
    def _failures_told(self) -> Generator[None]:
        with self._conflicts_told():
            try:
                yield
            except StoreUnavailable as err:
                self._swarm.unreachable(err)

    def _marked(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """What is told of the episode, by its root: it is known only when there is a place to tell it at."""
        blind = self._swarm.blind and self._swarm.root is self
        return {**meta, "blind": True} if blind else dict(meta)

    async def _look_at_root(self) -> None:
        """Of a child's key its swarm may be the only writer, and superseded all the same."""
        root = self._swarm.root
        if root and root is not self and await root.is_superseded():
            raise CheckpointConflict(f"{root.checkpoint_id} goes on in another process: this swarm is superseded: stop")

    async def _begin(self, *, afresh: bool) -> None:
        swarm, store = self._swarm, self._swarm.store
        if not store or (swarm.root is not self and not (swarm.root and swarm.root.is_open)):
            return  # a child's place is in the episode that its root has opened
        if afresh:
            swarm.episode_id = await store.start_episode(swarm.goal_id, root=self.checkpoint_id)
        resumed = await self._resumed(store)
        if swarm.root is self and not resumed.root:
            if resumed.step >= 0:
                raise CheckpointNotFound(
                    f"episode {resumed.key.episode_id} of goal {swarm.goal_id!r} was started without a root, for runs"
                    " of their own: finish it, or begin the next one by resume=False"
                )
            swarm.episode_id = await store.start_episode(swarm.goal_id, root=self.checkpoint_id)
            resumed = await self._resumed(store)
        self._run, run = resumed, resumed.run
        swarm.episode_id = run.key.episode_id
        self.state, self.meta, self.step = Encoded(to_json(run.state)), run.meta, run.step
        self.finished, self.result = run.finished, run.result

    async def _resumed(self, store: AsyncStore) -> AsyncRun:
        swarm = self._swarm
        return await store.resume(
            swarm.goal_id, self.checkpoint_id, episode_id=swarm.episode_id, keep=swarm.keep, initial=self.state
        )

    async def _is_there(self) -> bool:
        """Whether there is a run to commit to. One that could not be resumed is tried again, in a place of its own."""
        swarm = self._swarm
        async with self._looking:
            if self._run or not swarm.store:
                return self._run is not None
            state, meta = self.state, self.meta
            afresh = swarm.root is self and swarm.episode_id is None
            if afresh and not self._afresh:
                episodes = await swarm.store.episodes(swarm.goal_id)
                swarm.blind = any(episode.status == "running" for episode in episodes)
            await self._begin(afresh=afresh)
            if self.step >= 0:  # another process has been here: what we know is not what it knew
                self._run, self.step = None, -1
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
