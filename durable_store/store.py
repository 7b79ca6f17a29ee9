"""The front over a backend: checkpoints in, checkpoints out, and three answers where others have two."""

from collections.abc import Iterator
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from durable_store import episode as episodes
from durable_store import reading
from durable_store.backend import Backend, open_backend
from durable_store.episode import Episode
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointNotFound,
    InvalidArgument,
    InvalidKey,
    shown,
)
from durable_store.key import EPISODE_ID, CheckpointKey, check_step, goal_text
from durable_store.record import (
    HEAD,
    Checkpoint,
    CheckpointInfo,
    Record,
    decode_header,
    digest_of,
    encode,
    meta_json,
    random_tag,
    timestamp,
    writer_name,
)
from durable_store.state import same_json, to_json

if TYPE_CHECKING:
    from durable_store.run import Run


def open_store(url: str | PathLike[str]) -> "Store":
    """The store that a URL names. Connects to nothing and creates nothing: the first save does.

    `sqlite:///relative.db` and `sqlite:////absolute.db`, `file:///dir` or a plain path of a directory, `memory://`,
    or the scheme of any other installed backend, with its options in the query: `sqlite:///runs.db?timeout=5`.

    Raises:
        InvalidURL: no installed backend has the scheme, an option is unknown or ill-typed, or the URL carries
            credentials.
    """
    return Store(open_backend(fspath(url) if isinstance(url, PathLike) else url))


class Store:
    """Keeps checkpoints under a stable triple key, on any backend.

    Safe to share among threads and safe after `fork()`. Storage that is unreachable, refused, full or closed is
    `StoreUnavailable` from every verb. An error is never read as "nothing there". Checkpoint ids that start with `@`
    belong to the store: its verbs refuse them with `InvalidKey`.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._tag = random_tag()

    def __repr__(self) -> str:
        return f"Store({self.backend!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, key: CheckpointKey, step: int, state: object, *, meta: dict[str, Any] | None = None) -> Checkpoint:
        """Saves a state under (key, step), once: steps are write-once, in any order and with gaps.

        When it returns, the checkpoint survives SIGKILL and power loss. Saving the same state and meta again (equal as
        JSON, whatever the order of keys) is a retry and returns the checkpoint that is there. Beside a live run of the
        same key it is not fenced: use one or the other for a key.

        Raises:
            InvalidState: JSON would lose or cannot hold the state or meta; nothing was saved.
            CheckpointConflict: another state is there; the error names its step, writer and time.
            CheckpointDamaged: what is there cannot be read.
            StoreUnavailable: with `maybe_saved` when it may be there all the same: save the same again.
        """
        check_key(key)
        step = check_step(step)
        json, meta_as_json = to_json(state), meta_json(meta)
        record, there = self._create(key, step, json, meta_as_json)
        if there == record:
            return _saved(record, key, step, json)
        saved = reading.decode_at(self.backend, key, step, there).checkpoint()
        if not (same_json(saved.state, orjson.loads(json)) and same_json(saved.meta, orjson.loads(meta_as_json))):
            raise CheckpointConflict(
                f"{key} step {step} holds another state, saved by {saved.writer} at {timestamp(saved.saved_at)}"
            )
        return saved

    def latest(self, key: CheckpointKey, *, skip_damaged: bool = False) -> Checkpoint | None:
        """The checkpoint with the highest step, or None when the key has none.

        With `skip_damaged`, the newest intact one; its `skipped` names the damaged steps above it.

        Raises:
            CheckpointDamaged: the newest record is there and cannot be trusted; with `skip_damaged`, none of them can.
            CheckpointUnsupported: a newer version wrote it; this is never skipped.
        """
        check_key(key)
        found = reading.find(self.backend, key, skip_damaged=skip_damaged)
        return None if found is None else found.record.checkpoint(found.skipped)

    def prune(self, key: CheckpointKey, *, keep: int) -> list[int]:
        """Removes all but the newest `keep` steps and returns the steps removed, oldest first.

        Never removes a record that a kept delta needs, nor the newest intact one. It is the operator's verb and
        absolute: it takes fences away too, so on a key whose run is alive it loosens the fence that stops an older
        writer. Stop the runs first.

        Raises:
            InvalidArgument: `keep` is no int of at least 1.
            CheckpointDamaged: there are records and all of them are damaged; nothing was removed.
            CheckpointUnsupported: a kept record is of a newer version, which alone knows what it needs.
        """
        check_key(key)
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise InvalidArgument(f"keep must be an int of at least 1, not {shown(keep)}")
        removed = reading.prunable(self.backend, key, keep)
        if removed:
            self.backend.prune(key, removed[::-1])  # cut off, it leaves nothing without what that needs
        return removed

    def load(self, key: CheckpointKey, step: int) -> Checkpoint:
        """The checkpoint at (key, step).

        Raises:
            CheckpointNotFound: there is none.
            CheckpointDamaged: it is there and cannot be trusted.
        """
        check_key(key)
        return reading.read(self.backend, key, step).checkpoint()

    def history(self, key: CheckpointKey) -> list[CheckpointInfo]:
        """What the headers of a key's steps tell, newest first; bodies are not read. Empty when there are none.

        A damaged header, also one of a newer version, is listed as `damaged`.
        """
        check_key(key)
        infos: list[CheckpointInfo] = []
        for step in self.backend.steps(key):
            leading = self.backend.load(key, step, first=HEAD)
            if leading is None:
                continue
            try:
                infos.append(decode_header(leading, key, step).info())
            except CheckpointDamaged:
                infos.append(CheckpointInfo(key, step, {}, None, "", 0, (), damaged=True))
        return infos

    def keys(self, goal_id: str | int | None = None) -> Iterator[CheckpointKey]:
        """The keys that have checkpoints now, of one goal or of all; streamed, in no promised order."""
        goal = None if goal_id is None else goal_text(goal_id)
        return (key for key in self.backend.keys(goal) if not key.checkpoint_id.startswith("@"))

    def start_episode(self, goal_id: str | int, *, root: str = "") -> int:
        """Starts the goal's next episode and returns its number, which is never given twice; the first is 0.

        With a `root`, only that checkpoint id resumes the episode without naming it; without one, any does.
        """
        goal = goal_text(goal_id)
        if root != "":
            check_key(CheckpointKey(goal, 0, root))
        return episodes.start(self.backend, goal, root, writer_name(self._tag))

    def episodes(self, goal_id: str | int) -> list[Episode]:
        """The goal's episodes, newest first; empty when none was started. Raises CheckpointDamaged."""
        goal = goal_text(goal_id)
        numbers = range(episodes.newest_number(self.backend, goal), -1, -1)
        return [found for number in numbers if (found := episodes.read(self.backend, goal, number))]

    def fork(self, key: CheckpointKey, to: CheckpointKey, *, step: int | None = None) -> Checkpoint:
        """Makes the state and meta of one step (by default the newest) step 0 of an empty key in a started episode.

        Raises:
            CheckpointNotFound: there is no such step, or the episode of `to` was never started or was deleted.
            CheckpointConflict: that episode has ended, or the key `to` is not empty. After a StoreUnavailable with
                `maybe_saved`, what is there may be your own fork: read `to` with `latest`.
        """
        check_key(key)
        check_key(to)
        episodes.joinable(self.backend, to, writer_name(self._tag))
        if step is None:
            found = reading.find(self.backend, key, skip_damaged=False)
            if found is None:
                raise CheckpointNotFound(f"{key} has no checkpoints to fork from")
            source = found.record
        else:
            source = reading.read(self.backend, key, step)
        if self.backend.latest(to) is None:
            record, there = self._create(to, 0, source.json, meta_json(source.header.meta))
            if there == record:
                return _saved(record, to, 0, source.json)
        raise CheckpointConflict(f"{to} is not empty: a fork begins a key")

    def delete(self, goal_id: str | int, *, episode_id: int | None = None) -> int:
        """Removes all checkpoints of a goal, or of one episode, and returns how many.

        Oldest first, so that an interrupted delete never shows an older latest: run it again. Started episodes keep a
        tombstone with status `deleted`, so that their numbers are never given twice. Like prune it is the operator's
        verb: stop the runs first.
        """
        goal = goal_text(goal_id)
        if episode_id is not None:
            episode_id = CheckpointKey(goal, episode_id, EPISODE_ID).episode_id
        return episodes.remove(self.backend, goal, episode_id, writer_name(self._tag))

    def resume(
        self,
        goal_id: str | int,
        checkpoint_id: str,
        *,
        episode_id: int | None = None,
        keep: int | None = 5,
        initial: object = None,
    ) -> "Run":
        """The run of a checkpoint id, from its last committed step; if it has none, a new one with `initial` as state.

        Takes the goal's newest episode if that is unfinished, else the next number. Other ids than the root's join an
        episode by naming it. Writes nothing, except an episode's end that a killed process left unwritten; the first
        commit registers the episode. A damaged newest record does not stop it: the run goes on from the newest intact
        state, after the highest step there is, and says so in `run.skipped`.

        Args:
            goal_id: what is being worked on.
            checkpoint_id: whose state; the same in every process.
            episode_id: the episode to join; None for the newest.
            keep: How many of the newest steps stay at least, 1 to 500; at most twice as many do, besides one record for
                each restart and at most eight that they build on. None keeps everything.
            initial: the state of a new run.

        Raises:
            CheckpointNotFound: the running episode has another root (a checkpoint id with a random part is found out
                here), or the episode named was never started or was deleted.
            CheckpointConflict: the episode named has ended, or the key of a new episode already holds records.
            CheckpointDamaged: every record of the key is damaged; `CheckpointUnsupported`: a newer version wrote one.
        """
        from durable_store.run import resume  # noqa: PLC0415 - a run stands on a store, not the other way round

        key = check_key(CheckpointKey(goal_id, 0 if episode_id is None else episode_id, checkpoint_id))
        return resume(self.backend, key, joins=episode_id is not None, keep=keep, initial=initial)

    def close(self) -> None:
        """Lets go of connections and handles; every verb after it is StoreUnavailable. Closing twice is fine."""
        self.backend.close()

    def _create(self, key: CheckpointKey, step: int, json: bytes, meta: bytes) -> tuple[bytes, bytes]:
        """A new record, and the one that is there once it was sent: the same, if it is ours."""
        record = encode(key, step, json, writer=writer_name(self._tag), meta=meta)
        return record, self.backend.save(key, step, record)


def _saved(record: bytes, key: CheckpointKey, step: int, json: bytes) -> Checkpoint:
    """The checkpoint in a record of our own, in which there is nothing to check."""
    return Record(decode_header(record, key, step), digest_of(record), json, orjson.loads(json)).checkpoint()


def check_key(key: CheckpointKey) -> CheckpointKey:
    """The key itself. Raises InvalidKey when it is none, or when its checkpoint id belongs to the store."""
    if not isinstance(key, CheckpointKey):
        raise InvalidKey(
            f"a key is a CheckpointKey, not {type(key).__name__}: CheckpointKey.parse({shown(key)}) makes one of text"
        )
    if key.checkpoint_id.startswith("@"):
        raise InvalidKey(f"checkpoint ids that start with @ belong to the store: {key.checkpoint_id!r}")
    return key
