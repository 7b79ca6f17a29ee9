"""The systems as backends: each verb is one call of theirs, or says that they do not offer it.

A state is `{"record": …}`, a key is a thread (LangGraph) or a partition and an app (Burr), a step is a checkpoint id
that sorts as LangGraph's own do, or a sequence id. Two things are the adapter's doing, since clauses about something
else need them: where saving replaces what is there, it looks first; and the keys are read from where they lie, if there
is no call that lists them. The clauses about just that are not asked (`systems.py`).

The libraries are in the environment of the scorecard only, so they are imported when a store is opened.
"""
# ruff: noqa: D102 - what a verb is to give is said once, in Adapter

import sqlite3
import threading
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult
from uuid import UUID

from durable_store import CheckpointKey, StoreUnavailable

CHANNEL = "record"
LOCK_TIMEOUT = 60
"""Seconds. With the 5 that are the default of sqlite3, a busy machine is what would be measured."""
PROBED = 20_000
"""Sequence ids that Burr's adapter is willing to try one by one, to tell which are there."""


class NotOffered(Exception):
    """The system has no such verb. What a clause asserted before it asked for it did hold."""


@contextmanager
def _translated() -> Generator[None]:
    """What SQLite and the file system say when something cannot be done, whatever the system made of it."""
    try:
        yield
    except (sqlite3.Error, OSError) as err:
        raise StoreUnavailable(f"{type(err).__name__}: {err}") from err


class Adapter:
    """The verbs of a backend, from four that each system has in some form: `put`, `get`, `newest`, `threads`."""

    def __init__(self, place: str) -> None:
        self.place = place
        with _translated():
            self.open()

    @classmethod
    def from_url(cls, url: SplitResult, *, shared: str = "no") -> Self:
        """The adapter of a file or directory. Threads share the system's object, whatever `shared` says, but Burr's."""
        del shared
        return cls(url.path)

    def open(self) -> None:
        """Makes the system's own object, as its documentation shows it."""
        raise NotImplementedError

    def put(self, key: CheckpointKey, step: int, record: bytes) -> None:
        """Saves a state. Raises FileExistsError if the system refuses to replace one."""
        raise NotImplementedError

    def get(self, key: CheckpointKey, step: int) -> bytes | None:
        """One state."""
        raise NotImplementedError

    def newest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        """What one resumes from."""
        raise NotImplementedError

    def numbers(self, key: CheckpointKey) -> list[int]:
        """The steps of a key, newest first."""
        raise NotImplementedError

    def threads(self, goal: str | None) -> Iterator[CheckpointKey]:
        """The keys of a goal or of all, each once or more often; others do no harm."""
        raise NotImplementedError

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        """Looks, and saves where nothing is: in two calls, unless the system itself refuses to replace."""
        with _translated():
            there = self.get(key, step)
            if there is None:
                self.put(key, step, record)
            return record if there is None else there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        """What one resumes from."""
        with _translated():
            return self.newest(key)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        """None of the systems removes single steps."""
        raise NotOffered(f"no call removes single steps ({len(steps)} of {key})")

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        """One state; None of the systems reads a part of one, and all of it is allowed."""
        del first
        with _translated():
            return self.get(key, step)

    def steps(self, key: CheckpointKey) -> list[int]:
        """The steps of a key, newest first."""
        with _translated():
            return self.numbers(key)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        """Each key once."""
        seen: set[CheckpointKey] = set()
        with _translated():
            for key in self.threads(goal_id):
                if key not in seen and goal_id in (None, key.goal_id):
                    seen.add(key)
                    yield key

    def close(self) -> None:
        """Lets go of the connection, where there is one."""


def thread_of(key: CheckpointKey) -> str:
    """The key as one string, its ids as they are: `4:goal:0:agent-0`. None of its characters are refused by any."""
    return f"{len(key.goal_id)}:{key.goal_id}:{key.episode_id}:{key.checkpoint_id}"


def key_of(thread: str) -> CheckpointKey:
    """The key of a thread."""
    length, _, rest = thread.partition(":")
    goal, rest = rest[: int(length)], rest[int(length) + 1 :]
    episode, _, checkpoint = rest.partition(":")
    return CheckpointKey(goal, int(episode), checkpoint)


def id_of(step: int) -> str:
    """A checkpoint id like LangGraph's own, UUIDs of version 6, with the step for the time: in the order of steps."""
    return str(UUID(int=(step >> 12) << 80 | 6 << 76 | (step & 0xFFF) << 64 | 2 << 62))


def step_of(checkpoint_id: str) -> int:
    """The step of a checkpoint id."""
    number = UUID(checkpoint_id).int
    return (number >> 80) << 12 | number >> 64 & 0xFFF


class LangGraphAdapter(Adapter):
    """A checkpointer of LangGraph, driven as its README does: `put`, `get_tuple`, `list`."""

    saver: Any

    def put(self, key: CheckpointKey, step: int, record: bytes) -> None:
        version = f"{step + 1:032}.0"
        checkpoint: dict[str, object] = {
            "v": 4,
            "ts": "2024-07-31T20:14:19.804150+00:00",
            "id": id_of(step),
            "channel_values": {CHANNEL: record},
            "channel_versions": {CHANNEL: version},
            "versions_seen": {},
        }
        config = {"configurable": {"thread_id": thread_of(key), "checkpoint_ns": ""}}
        self.saver.put(config, checkpoint, {"source": "loop", "step": step}, {CHANNEL: version})

    def get(self, key: CheckpointKey, step: int) -> bytes | None:
        found = self._found(key, checkpoint_id=id_of(step))
        return found and found[1]

    def newest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        return self._found(key)

    def numbers(self, key: CheckpointKey) -> list[int]:
        return [_number_of(each) for each in self.saver.list({"configurable": {"thread_id": thread_of(key)}})]

    def threads(self, goal: str | None) -> Iterator[CheckpointKey]:
        del goal
        return (key_of(each.config["configurable"]["thread_id"]) for each in self.saver.list(None))

    def _found(self, key: CheckpointKey, **which: str) -> tuple[int, bytes] | None:
        found = self.saver.get_tuple({"configurable": {"thread_id": thread_of(key), "checkpoint_ns": "", **which}})
        return found and (_number_of(found), found.checkpoint["channel_values"][CHANNEL])


def _number_of(found: Any) -> int:
    return step_of(found.config["configurable"]["checkpoint_id"])


class LangGraphSqlite(LangGraphAdapter):
    """`SqliteSaver` on a connection that threads may share, as its docstring makes it."""

    def open(self) -> None:
        self.connection = sqlite3.connect(self.place, LOCK_TIMEOUT, check_same_thread=False)
        self.saver = import_module("langgraph.checkpoint.sqlite").SqliteSaver(self.connection)

    def close(self) -> None:
        self.connection.close()


class LangGraphMemory(LangGraphAdapter):
    """`InMemorySaver`: one object for all who open the same URL in this process."""

    shared: ClassVar[dict[str, Any]] = {}

    def open(self) -> None:
        make: Any = import_module("langgraph.checkpoint.memory").InMemorySaver
        self.saver = self.shared.setdefault(self.place, make())


class LangGraphObjectStorage(LangGraphAdapter):
    """`ObjectStorageSaver` on a directory."""

    def open(self) -> None:
        make: Any = import_module("langgraph_checkpoint_objectstorage").ObjectStorageSaver
        self.saver = make.from_conn_string(f"file://{self.place}")
        self.newest(CheckpointKey("nobody", 0, "nobody"))  # one read: what is examined is a saver in use

    def threads(self, goal: str | None) -> Iterator[CheckpointKey]:
        """From the layout that its README shows: a directory for each thread."""
        del goal
        if not self.saver.fs.exists(self.saver.root):
            return iter(())
        return (key_of(path.rpartition("/")[2]) for path in self.saver.fs.ls(self.saver.root, detail=False))


class BurrSqlite(Adapter):
    """`SQLitePersister`: for each thread a copy, as Burr's own parallel actions make them; one for all if asked for."""

    def __init__(self, place: str, *, shared: bool = False) -> None:
        self.shared = shared
        super().__init__(place)

    @classmethod
    def from_url(cls, url: SplitResult, *, shared: str = "no") -> Self:
        """The adapter of a file."""
        return cls(url.path, shared=shared == "yes")

    def open(self) -> None:
        make: Any = import_module("burr.core.persistence").SQLitePersister
        self.state: Any = import_module("burr.core").State
        self.first: Any = make(self.place, connect_kwargs={"check_same_thread": False, "timeout": LOCK_TIMEOUT})
        self.first.initialize()
        self.copies: list[Any] = []
        self.own = threading.local()
        self.own.persister = self.first

    @property
    def persister(self) -> Any:
        """This thread's."""
        if self.shared:
            return self.first
        if not hasattr(self.own, "persister"):
            self.own.persister = self.first.copy()
            self.copies.append(self.own.persister)
        return self.own.persister

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        """Saves; what the table's primary key refuses was there before."""
        with _translated():
            try:
                self.put(key, step, record)
            except sqlite3.IntegrityError:
                self.persister.connection.rollback()  # it does not itself, and would keep the database locked
                there = self.get(key, step)
                if there is None:
                    raise
                return there
            return record

    def put(self, key: CheckpointKey, step: int, record: bytes) -> None:
        state = self.state({CHANNEL: record.decode("latin-1")})  # a state is JSON: bytes go in as text
        self.persister.save(key.goal_id, _app_of(key), step, "agent", state, "completed")

    def get(self, key: CheckpointKey, step: int) -> bytes | None:
        found = self.persister.load(key.goal_id, _app_of(key), step)
        return found and _record_in(found)

    def newest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        found = self.persister.load(key.goal_id, _app_of(key))
        return found and (found["sequence_id"], _record_in(found))

    def numbers(self, key: CheckpointKey) -> list[int]:
        """There is no call that lists them: tries one after the other."""
        newest = self.newest(key)
        if newest is None:
            return []
        if newest[0] > PROBED:
            raise NotOffered("no call lists the sequence ids of an app")
        return [step for step in range(newest[0], -1, -1) if self.get(key, step) is not None]

    def threads(self, goal: str | None) -> Iterator[CheckpointKey]:
        """`list_app_ids` of a partition. Which partitions there are no call tells, and the table does."""
        partitions: list[tuple[str]] = [(goal,)] if goal is not None else self._partitions()
        for (partition,) in partitions:
            for app in self.persister.list_app_ids(partition):
                episode, _, checkpoint = app.partition("/")
                yield CheckpointKey(partition, int(episode), checkpoint)

    def _partitions(self) -> list[tuple[str]]:
        found: list[tuple[str]] = self.persister.connection.execute(
            "SELECT DISTINCT partition_key FROM burr_state"
        ).fetchall()
        return found

    def close(self) -> None:
        for persister in (self.first, *self.copies):
            persister.cleanup()


def _record_in(found: Any) -> bytes:
    text: str = found["state"][CHANNEL]
    return text.encode("latin-1")


def _app_of(key: CheckpointKey) -> str:
    return f"{key.episode_id}/{key.checkpoint_id}"
