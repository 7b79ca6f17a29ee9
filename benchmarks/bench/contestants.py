"""Who takes part: this library on its backends, and what everybody can do with a file. Peers and floors lie beside it.

A contestant is used as its documentation shows it. Libraries are imported by `load`, whose time is told separately.
"""
# ruff: noqa: D102 - what a verb is to do is said once, in Contestant

import json
import os
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

KEEP = 5
GOAL = "bench"


class Contestant:
    """A way of keeping states. Keys are names of agents.

    Attributes:
        title: its name in the document.
        how: what it does for a commit, in a sentence.
    """

    title = ""
    how = ""

    def __init__(self, *, keep: int | None = KEEP) -> None:
        self.keep = keep

    def load(self) -> None:
        """Imports what it needs."""

    def open(self, place: str) -> None:
        """Opens what lies at this directory or URL, or will."""
        raise NotImplementedError

    def begin(self, keys: Sequence[str]) -> None:
        """Gets ready to commit under these keys, each from a thread of its own if there are several."""

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        """Keeps the state, as durably as it can. Floors keep what has `changed` in it since the last one."""
        raise NotImplementedError

    def latest(self, key: str) -> Any:
        """The newest state, decoded; None where it cannot be read back as one."""
        del key

    def steps(self, key: str) -> list[Any]:
        """Whatever `read` takes for each step that is there, oldest first."""
        raise NotImplementedError

    def read(self, key: str, step: Any) -> Any:
        """The state of one step, decoded."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """What it says about how it flushes, if it can be asked."""
        return {}

    def close(self) -> None:
        """Lets go of it."""


class Ours(Contestant):
    """`run.commit`, with retention where `keep` says so."""

    how = "`run.commit(state)`: deltas, digests, fencing, retention in batches."
    backend = ""

    def load(self) -> None:
        self.library: Any = import_module("durable_store")
        import_module(f"durable_store_backends.{self.backend}")
        import_module("durable_store.zstd")  # a read of a large state would import it

    def open(self, place: str) -> None:
        self.store: Any = self.library.open_store(self.url(place))
        self.runs: dict[str, Any] = {}

    def url(self, place: str) -> str:
        """The URL of a store there."""
        raise NotImplementedError

    def begin(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self.runs = {keys[0]: self.store.resume(GOAL, keys[0], keep=self.keep)}
        else:
            episode = self.store.start_episode(GOAL)
            self.runs = {key: self.store.resume(GOAL, key, episode_id=episode, keep=self.keep) for key in keys}

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del step, changed
        self.runs[key].commit(state)

    def latest(self, key: str) -> Any:
        return self.store.latest(self._key(key)).state

    def steps(self, key: str) -> list[Any]:
        return [info.step for info in reversed(self.store.history(self._key(key)))]

    def read(self, key: str, step: Any) -> Any:
        return self.store.load(self._key(key), step).state

    def close(self) -> None:
        self.store.close()

    def _key(self, key: str) -> Any:
        return self.library.CheckpointKey(GOAL, 0, key)


class OursSqlite(Ours):
    """On SQLite."""

    title = "durable-store, SQLite"
    backend = "sqlite"

    def url(self, place: str) -> str:
        return f"sqlite:///{place}/runs.db"

    def about(self) -> dict[str, Any]:
        connection = self.store.backend._connection  # noqa: SLF001 - what it is set to at the end of its last commit
        if connection is None:
            return {}
        return {name: next(iter(connection.execute(f"PRAGMA {name}")))[0] for name in ("journal_mode", "synchronous")}


class OursFiles(Ours):
    """On files."""

    title = "durable-store, files"
    backend = "files"

    def url(self, place: str) -> str:
        return f"{place}/runs"


class OursS3(Ours):
    """On S3: the place is the URL of the store."""

    title = "durable-store, S3"
    backend = "s3"

    def url(self, place: str) -> str:
        return place


class PlainJson(Contestant):
    """The whole state as JSON, into a file beside the last one, which it then replaces."""

    title = "json + fsync + os.replace"
    how = (
        "`json.dumps`, a temporary file, `fsync`, `os.replace`: one state, no history. The directory is not flushed: a"
        " power cut may bring back the state before."
    )

    def open(self, place: str) -> None:
        self.place = Path(place)

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del step, changed
        new = self.place / f"{key}.json.tmp"
        with new.open("w") as file:
            file.write(json.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.place / f"{key}.json")  # noqa: PTH105 - what is measured is named so

    def latest(self, key: str) -> Any:
        return json.loads((self.place / f"{key}.json").read_text())


class PlainS3(Contestant):
    """The whole state as JSON, one PUT: what saving whole states sends. The place is a store's URL, for its parts."""

    title = "whole states, boto3"
    how = "`put_object` of `orjson.dumps(state)`, a name for each step, with as many connections."

    def load(self) -> None:
        self.boto3: Any = import_module("boto3")
        self.config: Any = import_module("botocore.config")
        self.orjson: Any = import_module("orjson")

    def open(self, place: str) -> None:
        where = import_module("urllib.parse").urlsplit(place)
        options = dict(import_module("urllib.parse").parse_qsl(where.query))
        self.bucket, self.prefix = where.netloc, where.path.strip("/")
        self.client: Any = self.boto3.client(
            "s3",
            endpoint_url=options["endpoint_url"],
            region_name=options["region"],
            config=self.config.Config(
                max_pool_connections=32,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del changed
        self.client.put_object(Bucket=self.bucket, Key=self._name(key, step), Body=self.orjson.dumps(state))

    def close(self) -> None:
        self.client.close()

    def _name(self, key: str, step: int) -> str:
        return f"{self.prefix}/{key}/{step:016d}"


class Row(NamedTuple):
    """A row that a floor is to insert, and the lock that is released when it is there."""

    key: str
    step: int
    record: bytes
    done: threading.Lock
