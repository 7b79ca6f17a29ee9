"""One step in bytes: `<sha256> <header: one line of JSON><newline><body>`, format 1.

The digest covers everything behind the first space, and the header says where the record belongs, so that a record
cannot be changed or moved without being found out. docs/FORMAT.md describes every byte.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn, cast

import orjson

from durable_store.body import ENCODINGS, Body, Reader
from durable_store.errors import CheckpointDamaged, CheckpointUnsupported, InvalidState, shown
from durable_store.key import MAX_STEP, CheckpointKey
from durable_store.state import MAX_STATE, to_json

VERSION = 1
MAX_RECORD = 512 * 2**20
MAX_HEADER = 64 * 2**10
MAX_META = 32 * 2**10
MAX_CLOSING = 32 * 2**10
MAX_LIVE = 1100
"""Steps in `live`, which with `tops` fit the header beside the largest meta; a run keeps at most 1000 and 8 bases."""

_FIELDS = (
    *("v", "goal", "episode", "checkpoint", "step", "id", "writer", "saved_at", "type", "encoding"),
    *("bases", "live", "tops", "prev", "size", "closing", "meta", "crit"),
)
"""What format 1 knows in a header, also where `crit` names it."""

_READABLE = ((), *((each,) for each in ENCODINGS), ENCODINGS)
_NOTHING: Mapping[int, int | None] = {}

DIGEST = 64
HEAD = DIGEST + 1 + MAX_HEADER + 1
"""So many leading bytes of a record hold its whole header."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One decoded record.

    Attributes:
        key: under which it was asked for.
        step: its number.
        state: the JSON value that was saved.
        meta: the caller's JSON object beside it.
        saved_at: when its writer saved it, in UTC, by the writer's clock.
        writer: who saved it: host, process and a random tag.
        size: bytes of the state's JSON.
        skipped: damaged newer steps that were passed over to get here, newest first.
    """

    key: CheckpointKey
    step: int
    state: Any
    meta: dict[str, Any]
    saved_at: datetime
    writer: str
    size: int
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a record's header tells about a step, without its state; the body was not read.

    Attributes:
        key: under which the record lies.
        step: its number.
        meta: the caller's JSON object.
        saved_at: when it was saved; None when the header is damaged.
        writer: who saved it; empty when the header is damaged.
        size: bytes of the state's JSON; 0 when the header is damaged.
        encoding: the transforms of the body, `()` for plain JSON.
        damaged: whether the header shows damage. False promises nothing about the body.
    """

    key: CheckpointKey
    step: int
    meta: dict[str, Any]
    saved_at: datetime | None
    writer: str
    size: int
    encoding: tuple[str, ...]
    damaged: bool


class Closing(NamedTuple):
    """The end of a run, in its last record: `finished` or `failed`, and the result (a failed one's error text)."""

    status: str
    result: Any


class Header(NamedTuple):
    """The first line of a record, checked."""

    key: CheckpointKey
    step: int
    writer: str
    saved_at: datetime
    type: str
    encoding: tuple[str, ...]
    bases: tuple[tuple[int, str], ...]
    live: tuple[int, ...]
    tops: tuple[int | None, ...]
    prev: tuple[int, str] | None
    size: int
    meta: dict[str, Any]
    closing: Closing | None

    def info(self) -> CheckpointInfo:
        """What history shows of it."""
        return CheckpointInfo(
            self.key,
            self.step,
            self.meta,
            self.saved_at,
            self.writer,
            self.size,
            self.encoding,
            damaged=False,
        )


class Record(NamedTuple):
    """An intact record: digest and place checked, bases there, body decoded to the state's JSON."""

    header: Header
    digest: str
    json: bytes
    state: Any

    def checkpoint(self, skipped: tuple[int, ...] = ()) -> Checkpoint:
        """What the store's verbs return of it."""
        head = self.header
        return Checkpoint(head.key, head.step, self.state, head.meta, head.saved_at, head.writer, head.size, skipped)


def writer_name(tag: str) -> str:
    """Who writes: the host and process for people, and a tag that tells two writers of one process apart."""
    host = platform.node().encode(errors="replace").decode()  # a host's name may be no UTF-8
    return f"{host or 'localhost'}:{os.getpid()}:{tag}"


def random_tag(size: int = 4) -> str:
    """So many random bytes in hex."""
    return os.urandom(size).hex()


def meta_json(meta: dict[str, Any] | None) -> bytes:
    """The caller's meta as JSON. Raises InvalidState unless it is a dict of at most 32 KiB that JSON holds."""
    if meta is None:
        return b"{}"
    if not isinstance(meta, dict):
        raise InvalidState(f"meta must be a dict, not {type(meta).__name__}")
    return _limited(to_json(meta, name="meta"), "meta", MAX_META)


def closing_json(status: str, result: object) -> bytes:
    """A closing as JSON. Raises InvalidState when JSON cannot hold the result, or 32 KiB cannot."""
    json_result = to_json(result, name="result")
    return _limited(b'{"status":"%s","result":%s}' % (status.encode(), json_result), "result", MAX_CLOSING)


def _limited(json: bytes, name: str, most: int) -> bytes:
    if len(json) > most:
        raise InvalidState(f"{name}: {len(json)} bytes of JSON; the most is {most}: larger things belong in the state")
    return json


def timestamp(when: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def encode(
    key: CheckpointKey,
    step: int,
    state: bytes,
    *,
    writer: str,
    body: Body | None = None,
    meta: bytes = b"{}",
    live: Mapping[int, int | None] = _NOTHING,
    prev: tuple[int, str] | None = None,
    closing: bytes | None = None,
) -> bytes:
    """The record of one save call: state, meta and closing come as checked JSON. No two calls give the same bytes.

    Args:
        key: where it belongs.
        step: its number there.
        state: its JSON.
        writer: who saves it.
        body: what is kept of the state; without one, its JSON as it is.
        meta: the caller's.
        live: the steps that its run keeps, ascending; of each the newest record that it builds on.
        prev: the record before it, and its digest.
        closing: how the run ended.

    Raises:
        InvalidState: the record would be larger than 512 MiB.
    """
    body = body or Body(state)
    live = dict(list(live.items())[-MAX_LIVE:])
    places = {kept: place for place, kept in enumerate(live)}
    fields: dict[str, object] = {
        "v": VERSION,
        "goal": key.goal_id,
        "episode": key.episode_id,
        "checkpoint": key.checkpoint_id,
        "step": step,
        "id": random_tag(16),
        "writer": writer,
        "saved_at": timestamp(datetime.now(UTC)),
        "type": "json",
        "encoding": body.encoding,
        "bases": body.bases,
        "live": list(live),
        "tops": [place - places.get(-1 if top is None else top, place) for place, top in enumerate(live.values())],
        "prev": prev,
        "size": len(state),
    }
    if closing is not None:
        fields["closing"] = orjson.Fragment(closing)
    fields["meta"] = orjson.Fragment(meta)
    head = orjson.dumps(fields) + b"\n"
    if len(head) - 1 > MAX_HEADER:
        raise InvalidState(f"$: the header would take {len(head)} bytes; the most is {MAX_HEADER}: shorten meta")
    if DIGEST + 1 + len(head) + len(body.content) > MAX_RECORD:
        raise InvalidState(f"$: the record would take {len(head) + len(body.content)} bytes; the most is {MAX_RECORD}")
    digest = sha256(head)
    digest.update(body.content)
    return b"".join((digest.hexdigest().encode(), b" ", head, body.content))


def digest_of(record: bytes) -> str:
    """The digest that a record begins with; of an intact one, its own."""
    return record[:DIGEST].decode("ascii", "replace")


def decode(
    record: bytes, key: CheckpointKey, step: int, fetch: Callable[[Sequence[int]], Sequence[bytes | None]]
) -> Record:
    """The record found at (key, step), checked before anything of it is used; `fetch` loads its bases.

    Raises:
        CheckpointUnsupported: a newer version wrote it, or it uses what this version does not know.
        CheckpointDamaged: anything else that is wrong with it; the message says what.
    """
    header = check(record, key, step)
    json = _decode_json(record, header, fetch)
    try:
        state = orjson.loads(json)
    except orjson.JSONDecodeError as err:
        raise _damaged(key, step, f"its state is no JSON ({err})") from err
    return Record(header, digest_of(record), json, state)


def _decode_json(record: bytes, header: Header, fetch: Callable[[Sequence[int]], Sequence[bytes | None]]) -> bytes:
    """The state's JSON, made of the record and its bases, which it lets go of with all that it has unpacked."""
    key, step = header.key, header.step
    reader = Reader()
    if header.bases:
        links = [base for base, _ in header.bases]
        for (base, digest), found in zip(header.bases, fetch(links), strict=True):
            if found is None or digest_of(found) != digest:
                raise _damaged(key, step, f"its base, step {base}, is {'gone' if found is None else 'another'}")
            try:
                _add(reader, found, check(found, key, base))
            except CheckpointUnsupported:
                raise
            except CheckpointDamaged as err:
                raise _damaged(key, step, f"its base, step {base}: {str(err).partition(': ')[2]}") from err
    _add(reader, record, header)
    return reader.state(step)


def check(record: bytes, key: CheckpointKey, step: int) -> Header:
    """The header of a whole record, all of which is what its digest says, and which this version can read.

    Its body is not decoded, and its bases are not looked at.

    Raises:
        CheckpointUnsupported, CheckpointDamaged: as `decode`.
    """
    if len(record) > MAX_RECORD:
        raise _damaged(key, step, f"it has {len(record)} bytes; the most is {MAX_RECORD}")
    fields = _read_fields(record, key, step)
    if not is_intact(record):
        raise _damaged(key, step, "its bytes do not match its digest")
    header = _check_fields(fields, record, key, step)
    if header.type != "json" or header.encoding not in _READABLE:
        what = f"type {header.type!r}" if header.type != "json" else f"encoding {', '.join(header.encoding)}"
        raise CheckpointUnsupported(f"{key} step {step}: unknown {what}: upgrade durable-store to read it")
    if header.size > MAX_STATE:
        raise _damaged(key, step, f"its state has {header.size} bytes; the most is {MAX_STATE}")
    return header


def _add(reader: Reader, record: bytes, header: Header) -> None:
    try:
        content = record[record.index(b"\n") + 1 :]
        reader.add(header.step, Body(content, header.encoding, header.bases), header.size)
    except ValueError as err:
        raise _damaged(header.key, header.step, f"its body {err}") from err


def decode_header(leading: bytes, key: CheckpointKey, step: int) -> Header:
    """The header from the first `HEAD` bytes of a record, or from more. The body is not looked at, nor the digest.

    Raises:
        CheckpointUnsupported, CheckpointDamaged: as far as the header shows.
    """
    return _check_fields(_read_fields(leading, key, step), leading, key, step)


def _read_fields(leading: bytes, key: CheckpointKey, step: int) -> dict[str, Any]:
    """The header's JSON object; `v` and `crit` come before all else, so that old programs stop at new records."""
    start = leading.find(b" ", 0, HEAD) + 1
    end = leading.find(b"\n", start, start + MAX_HEADER + 1)
    if not start or end < 0:
        raise _damaged(key, step, "it does not begin like a record" if leading else "it is empty")
    try:
        parsed = orjson.loads(leading[start:end])
    except orjson.JSONDecodeError as err:
        raise _damaged(key, step, f"its header is no JSON ({err})") from err
    if not isinstance(parsed, dict):
        raise _damaged(key, step, "its header is no JSON object")
    fields = cast("dict[str, Any]", parsed)
    version: Any = fields.get("v")
    if type(version) in (int, float) and version > VERSION:
        raise CheckpointUnsupported(
            f"{key} step {step}: format {version} is newer than {VERSION}: upgrade durable-store"
        )
    if type(version) is not int or version != VERSION:
        raise _damaged(key, step, "its header has no format version")
    crit: object = fields.get("crit", [])
    if not isinstance(crit, list) or any(name not in _FIELDS for name in cast("list[object]", crit)):
        raise CheckpointUnsupported(
            f"{key} step {step} needs {shown(fields['crit'])}: upgrade durable-store to read it"
        )
    return fields


def is_intact(record: bytes) -> bool:
    """Whether all of it is what its digest says. The header is not looked at."""
    return record[DIGEST : DIGEST + 1] == b" " and sha256(memoryview(record)[DIGEST + 1 :]).hexdigest() == digest_of(
        record
    )


def _check_fields(fields: dict[str, Any], leading: bytes, key: CheckpointKey, step: int) -> Header:
    of = _Fields(fields, key, step)
    of.check_twins(leading[leading.index(b" ") + 1 : leading.index(b"\n")])
    place = (of.get("goal", str), of.get("episode", int), of.get("checkpoint", str), of.get("step", int))
    if place != (key.goal_id, key.episode_id, key.checkpoint_id, step):
        raise _damaged(key, step, "it is the record of {!r}/{}/{!r} step {}, copied here".format(*place))
    of.get("id", str)
    return Header(
        key=key,
        step=step,
        writer=of.get("writer", str),
        saved_at=of.time("saved_at"),
        type=of.get("type", str),
        encoding=of.each("encoding", lambda name: type(name) is str),
        bases=tuple((base, digest) for base, digest in of.each("bases", _is_link)),
        live=(live := of.each("live", _is_step)),
        tops=of.tops(live),
        prev=of.link_or_null("prev"),
        size=of.get("size", int),
        meta=of.get("meta", dict),
        closing=of.closing() if "closing" in fields else None,
    )


class _Fields:
    """The fields of a header, each taken with its type or refused as damage."""

    def __init__(self, fields: dict[str, Any], key: CheckpointKey, step: int) -> None:
        self._fields = fields
        self._key = key
        self._step = step

    def refuse(self, what: str) -> NoReturn:
        raise _damaged(self._key, self._step, f"its header is wrong at {what}")

    def check_twins(self, line: bytes) -> None:
        """No object has a name twice: orjson silently takes the last of them, the standard library shows both."""
        with suppress(orjson.JSONEncodeError):  # of one that is deeper than orjson writes
            if orjson.dumps(self._fields) == line:  # as our writers make it: no need to look for twenty times as long
                return

        def once(pairs: list[tuple[str, object]]) -> None:
            names = [name for name, _ in pairs]
            if len(names) != len(set(names)):
                self.refuse("a name that stands twice")

        try:
            json.loads(line, object_pairs_hook=once)
        except RecursionError:  # deep, or called from deep down: orjson has read it, and its digest holds
            return

    def get(self, name: str, kind: type) -> Any:
        value = self._fields.get(name)
        return value if type(value) is kind else self.refuse(name)

    def each(self, name: str, is_right: Callable[[Any], bool]) -> tuple[Any, ...]:
        values = self.get(name, list)
        return tuple(values) if all(map(is_right, values)) else self.refuse(name)

    def tops(self, live: tuple[int, ...]) -> tuple[int | None, ...]:
        """Of each live step the newest one that it builds on, which is told by how many places it stands before it."""
        back: tuple[int, ...] = (0,) * len(live)
        if "tops" in self._fields:
            back = self.each("tops", lambda places: type(places) is int)
        if len(back) != len(live) or not all(0 <= places <= at for at, places in enumerate(back)):
            self.refuse("tops")
        return tuple(live[at - places] if places else None for at, places in enumerate(back))

    def time(self, name: str) -> datetime:
        text = self.get(name, str)
        try:
            when = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            self.refuse(name)
        return when if timestamp(when) == text else self.refuse(name)

    def link_or_null(self, name: str) -> tuple[int, str] | None:
        value = self._fields.get(name, "missing")
        if value is None:
            return None
        return (value[0], value[1]) if _is_link(value) else self.refuse(name)

    def closing(self) -> Closing:
        closing = self.get("closing", dict)
        if closing.get("status") not in ("finished", "failed") or "result" not in closing:
            self.refuse("closing")
        try:
            to_json(closing["result"])
        except InvalidState:
            self.refuse("closing")
        return Closing(closing["status"], closing["result"])


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_STEP


def _is_link(value: Any) -> bool:
    match value:
        case [step, str(digest)]:
            return _is_step(step) and len(digest) == DIGEST
        case _:
            return False


def _damaged(key: CheckpointKey, step: int, reason: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{key} step {step} is damaged: {reason}")
