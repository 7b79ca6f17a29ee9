"""The peers, as their documentation has them used. Their libraries are in the environment of the benchmark only."""
# ruff: noqa: D102 - what a verb is to do is said once, in Contestant

import sqlite3
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.bench.contestants import GOAL, Contestant

PATIENCE = 300
"""Seconds that a connection waits for a lock: with the 5 of sqlite3, threads that compete would be refused."""


class LangGraph(Contestant):
    """`SqliteSaver` on a connection that threads may share, as its docstring makes it; the serializer is its own.

    Each top-level name of the state is a channel. It keeps every checkpoint. Of what a graph calls, only `put` is: a
    graph also calls `put_writes` for each node, which is a transaction more (`LangGraphWrites`).
    """

    title = "LangGraph SqliteSaver"
    how = "`SqliteSaver.put` of a checkpoint with the state's fields as channels; keeps everything."

    def load(self) -> None:
        self.make: Any = import_module("langgraph.checkpoint.sqlite").SqliteSaver
        self.base: Any = import_module("langgraph.checkpoint.base")

    def open(self, place: str) -> None:
        self.connection = sqlite3.connect(f"{place}/graph.db", PATIENCE, check_same_thread=False)
        self.saver: Any = self.make(self.connection)
        self.configs: dict[str, Any] = {}

    def begin(self, keys: Sequence[str]) -> None:
        self.configs = {key: _config(key) for key in keys}

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del changed
        # As langgraph does after each super-step; put returns the config, with the checkpoint's id, for the next one.
        checkpoint = self.base.empty_checkpoint()
        version = f"{step + 1:032}.0"
        checkpoint["channel_values"] = dict(state)
        checkpoint["channel_versions"] = dict.fromkeys(state, version)
        self.configs[key] = self.saver.put(
            self.configs[key],
            checkpoint,
            {"source": "loop", "step": step, "parents": {}},
            dict.fromkeys(state, version),
        )

    def latest(self, key: str) -> Any:
        return self.read(key, _config(key))

    def steps(self, key: str) -> list[Any]:
        return [found.config for found in self.saver.list(_config(key))][::-1]

    def read(self, key: str, step: Any) -> Any:
        del key
        return self.saver.get_tuple(step).checkpoint["channel_values"]

    def about(self) -> dict[str, Any]:
        return _about(self.connection)

    def close(self) -> None:
        self.connection.close()


class LangGraphPruning(LangGraph):
    """The same; and since the saver has no call that removes single checkpoints, its user removes rows, as we do.

    In batches: when there are twice as many as are to stay, the older half goes, in one transaction.
    """

    title = "LangGraph SqliteSaver, pruning"
    how = "The same, and a `DELETE` of the older 5 checkpoints whenever there are 10."

    def begin(self, keys: Sequence[str]) -> None:
        super().begin(keys)
        self.ids: dict[str, list[str]] = {key: [] for key in keys}

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        super().commit(key, step, state, changed)
        ids = self.ids[key]
        ids.append(self.configs[key]["configurable"]["checkpoint_id"])
        if self.keep is None or len(ids) < 2 * self.keep:
            return
        stay = ids[-self.keep :]
        with self.saver.cursor() as cursor:  # it commits
            for table in ("checkpoints", "writes"):
                cursor.execute(
                    f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_ns = '' AND checkpoint_id < ?",  # noqa: S608
                    (key, stay[0]),
                )
        self.ids[key] = stay


class LangGraphWrites(LangGraph):
    """The same with both calls of a graph of one node: its output as `put_writes`, then the checkpoint as `put`."""

    title = "LangGraph SqliteSaver, as a graph calls it"
    how = "The same, and `put_writes` of the turn's two messages before it, as a graph of one node calls it."

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        if step:  # the first put is of the input: writes belong to a checkpoint that is there
            self.saver.put_writes(self.configs[key], [("messages", state["messages"][-2:])], f"task-{step}")
        super().commit(key, step, state, changed)


class Burr(Contestant):
    """`SQLitePersister`, with a copy for each thread as Burr's own parallel actions make them. It removes nothing."""

    title = "Burr SQLitePersister"
    how = "`SQLitePersister.save` of a `State`; keeps everything."

    def load(self) -> None:
        self.make: Any = import_module("burr.core.persistence").SQLitePersister
        self.state: Any = import_module("burr.core").State

    def open(self, place: str) -> None:
        self.first: Any = self.make(
            f"{place}/burr.db", connect_kwargs={"check_same_thread": False, "timeout": PATIENCE}
        )
        self.first.initialize()
        self.copies: dict[str, Any] = {}

    def begin(self, keys: Sequence[str]) -> None:
        if len(keys) > 1:
            self.copies = {key: self.first.copy() for key in keys}

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del changed
        persister = self.copies.get(key, self.first)
        persister.save(GOAL, key, step, "agent", self.state(state), "completed")

    def latest(self, key: str) -> Any:
        return self.first.load(GOAL, key)["state"].get_all()

    def steps(self, key: str) -> list[Any]:
        return list(range(self.first.load(GOAL, key)["sequence_id"] + 1))

    def read(self, key: str, step: Any) -> Any:
        return self.first.load(GOAL, key, step)["state"].get_all()

    def about(self) -> dict[str, Any]:
        return _about(self.first.connection)

    def close(self) -> None:
        for persister in (*self.copies.values(), self.first):
            persister.cleanup()


def _config(key: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": key, "checkpoint_ns": ""}}


def _about(connection: sqlite3.Connection) -> dict[str, Any]:
    return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
