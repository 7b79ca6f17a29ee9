"""Stores of many keys or steps, filled past the library in its own layout: a million commits would take an hour.

The records are such as `Store.save` makes, of a state of 200 bytes; what reads them is the library as it is.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.bench.contestants import Ours, OursFiles, OursSqlite, PlainS3
from durable_store import CheckpointKey
from durable_store.key import object_name, storage_path
from durable_store.record import encode
from durable_store.state import to_json

AGENT = "agent-0"
_STATE = to_json({"notes": "0123456789" * 18})
_GROUP = 10_000  # rows of a transaction


def fill(contestant: str, place: str, *, keys: int, steps: int) -> None:
    """So many keys with so many steps each."""
    {"ours-sqlite": _sqlite, "ours-files": _files, "ours-s3": _s3}[contestant](place, keys, steps)


def _records(keys: int, steps: int) -> Iterator[tuple[CheckpointKey, int, bytes]]:
    for number in range(keys):
        key = CheckpointKey(f"g-{number:07}", 0, AGENT)
        for step in range(steps):
            yield key, step, encode(key, step, _STATE, writer="bench")


def _opened(ours: Ours, place: str) -> Any:
    ours.load()
    ours.open(place)
    return ours.store


def _sqlite(place: str, keys: int, steps: int) -> None:
    records = _records(keys, steps)
    store = _opened(OursSqlite(), place)
    store.backend.save(*next(records))  # the file and its table are as the backend makes them
    store.close()
    connection: Any = import_module("apsw").Connection(f"{place}/runs.db")
    connection.execute("PRAGMA synchronous = OFF")
    table = "durable_store_checkpoints"
    while True:
        group = [
            (key.goal_id, key.episode_id, key.checkpoint_id, step, record)
            for key, step, record in islice(records, _GROUP)
        ]
        if not group:
            break
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", group)  # noqa: S608
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _files(place: str, keys: int, steps: int) -> None:
    root = Path(_opened(OursFiles(), place).backend.path)
    for key, step, record in _records(keys, steps):
        directory = root / storage_path(key)
        if step == 0:
            directory.mkdir(0o700, parents=True)
        (directory / f"{step:016d}.ckpt").write_bytes(record)


def _s3(place: str, keys: int, steps: int) -> None:
    plain = PlainS3()
    plain.load()
    plain.open(place)

    def put(record: tuple[CheckpointKey, int, bytes]) -> None:
        key, step, body = record
        name = f"{plain.prefix}/{storage_path(key)}/{object_name(step)}"
        plain.client.put_object(Bucket=plain.bucket, Key=name, Body=body)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, _records(keys, steps)))
    plain.close()
