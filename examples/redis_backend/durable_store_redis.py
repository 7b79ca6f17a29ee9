"""Records in Redis, or in Valkey.

Layout, in the database of the URL, under its prefix ("durable-store" if it names none)::

    <prefix>:<goal>/<episode, 9 digits>/<checkpoint>:records    a hash: the record of each step
    <prefix>:<goal>/<episode, 9 digits>/<checkpoint>:steps      a sorted set: the steps, by number
    <prefix>:keys                                               a sorted set: the keys, by name

A verb is one script or command, and Redis runs one at a time. A server that does not sync its append-only file before
it answers, that may drop records, or that forbids CONFIG GET and so does not tell, is refused before the first save.
Limits: one server, so what a failover loses is lost. REDIS_PASSWORD and REDIS_USERNAME are in the environment.
"""

import codecs
import os
import re
from collections.abc import Collection, Iterator
from typing import Any, Self
from urllib.parse import SplitResult, unquote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from durable_store.errors import InvalidURL, StoreUnavailable
from durable_store.key import CheckpointKey, storage_name, storage_path

# KEYS are a key's records, its steps, and all keys; ARGV[1] is a step, in _PRUNE the key's path before its steps.
_SAVE = """local there = redis.call('HGET', KEYS[1], ARGV[1]) if there then return there end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[3])"""
_LATEST = """local step = redis.call('ZREVRANGE', KEYS[2], 0, 0)[1]
return step and {step, redis.call('HGET', KEYS[1], step)}"""
_LOAD = "local record = redis.call('HGET', KEYS[1], ARGV[1]) return record and record:sub(1, ARGV[2])"
_PRUNE = """
for i = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) redis.call('ZREM', KEYS[2], ARGV[i]) end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[3], ARGV[1]) end"""
_NEEDS = ("appendonly yes", "appendfsync always", "no-appendfsync-on-rewrite no", "maxmemory-policy noeviction")
codecs.lookup("idna")  # or the first connection imports it, and a child that is forked meanwhile waits for ever


class RedisBackend:
    """Keeps records in a database of Redis, shared by all processes that reach it."""

    def __init__(self, host: str, port: int = 6379, db: int = 0, prefix: str = "", timeout: float = 10) -> None:
        self._where = f"redis://{host}:{port}/{db}/{prefix}"
        self._prefix = prefix or "durable-store"
        self._is_durable = False
        login: Any = {"username": os.environ.get("REDIS_USERNAME"), "password": os.environ.get("REDIS_PASSWORD")}
        # No save is repeated behind the caller's back; with protocol 3 an answer that nobody read passes for the next.
        options: Any = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        self._redis: Any = redis.Redis(host, port, db, protocol=2, **login, **options)

    @classmethod
    def from_url(cls, url: SplitResult, *, timeout: str = "10") -> Self:
        try:
            place, port, seconds = re.fullmatch("/([0-9]{1,9})(?:/(.+))?", url.path), url.port or 6379, float(timeout)
        except ValueError:
            place, port, seconds = None, 0, 0.0
        if not (url.hostname and place and 0 < seconds <= 3600):
            raise InvalidURL("redis:// takes a host and a database's number: redis://host:6379/0/prefix?timeout=10")
        return cls(url.hostname, port, int(place[1]), unquote(place[2] or ""), seconds)

    def __repr__(self) -> str:
        return f"RedisBackend({self._where!r})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self._is_durable = self._is_durable or self._keeps_what_it_acknowledges()
        there = self._run("save to", _SAVE, key, step, record, storage_path(key))
        return record if there is None else there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        found = self._run("read", _LATEST, key)
        return found and (int(found[0]), found[1])

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._run("remove from", _PRUNE, key, storage_path(key), *steps)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        record: bytes | None = self._run("read", _LOAD, key, step, -1 if first is None else first)
        return record

    def steps(self, key: CheckpointKey) -> list[int]:
        return [int(step) for step in self._run("read", "return redis.call('ZREVRANGE', KEYS[2], 0, -1)", key)]

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        goal = "" if goal_id is None else storage_name(goal_id)
        after, end = (f"[{goal}/", f"({goal}0") if goal else ("-", "+")  # in the order of bytes, 0 comes right after /
        while paths := self._ask("read", "ZRANGEBYLEX", f"{self._prefix}:keys", after, end, "LIMIT", 0, 1000):
            for path in paths:
                goal, episode, checkpoint = path.decode().split("/")
                yield CheckpointKey(unquote(goal), int(episode), unquote(checkpoint))
            after = b"(" + paths[-1]

    def close(self) -> None:
        client, self._redis = self._redis, None
        if client:
            client.close()

    def _keeps_what_it_acknowledges(self) -> bool:
        settings = [self._ask("read the settings of", "CONFIG GET", name) for name in ("*append*", "maxmemory-policy")]
        wrong = set(_NEEDS) - {f"{name} {value}" for found in settings for name, value in found.items()}
        if wrong:
            raise StoreUnavailable(f"no record is safe in {self._where}: CONFIG SET {' '.join(sorted(wrong))}")
        return True

    def _run(self, doing: str, script: str, key: CheckpointKey, *args: str | int | bytes) -> Any:
        name = f"{self._prefix}:{storage_path(key)}"  # no path holds a colon: the names of two stores never meet
        return self._ask(doing, "EVAL", script, 3, f"{name}:records", f"{name}:steps", f"{self._prefix}:keys", *args)

    def _ask(self, doing: str, *command: str | int | bytes) -> Any:
        if self._redis is None:
            raise StoreUnavailable(f"{self._where} is closed")
        try:
            return self._redis.execute_command(*command)
        except (redis.RedisError, OSError, UnicodeError) as err:
            unknown = _SAVE in command and isinstance(err, redis.ConnectionError | redis.TimeoutError)
            raise StoreUnavailable(f"cannot {doing} {self._where}: {err}", maybe_saved=unknown) from err
