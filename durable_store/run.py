"""One writer going through the steps of one key, and why an old one cannot do harm.

Process A hangs in a tool call at step 10; B resumes at 10 and commits 11 … 30. When A wakes, its very next commit must
be refused, on every backend. Three rules make it so:

1. Steps are write-once, and a run's next step is its last one + 1: A's next commit meets B's record.
2. Retention never removes a run's first record, its *fence*: that record of B still stands where A goes on.
3. After a run's first commit, and after one whose outcome was unknown, the run looks once at the highest step. Only
   these two commits can land on a step that somebody else has used and pruned since. A higher step means: superseded.

docs/ARCHITECTURE.md argues why these are enough, and tests/test_simulation.py tries to break them.
"""

import os
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import orjson

from durable_store import episode as episodes
from durable_store.backend import Backend
from durable_store.delta import Ladder, Plan
from durable_store.episode import Episode
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointNotFound,
    InvalidArgument,
    StoreUnavailable,
    shown,
)
from durable_store.key import CheckpointKey
from durable_store.reading import Found, find, read
from durable_store.record import (
    Closing,
    closing_json,
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
    import logging

MAX_KEEP = 500
_LAST: Any = object()


def resume(backend: Backend, key: CheckpointKey, *, joins: bool, keep: int | None, initial: object) -> "Run":
    """The run of a key's checkpoint id; `joins` says that the key's episode was named, else the newest is taken.

    `Store.resume` makes the promises.
    """
    if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= MAX_KEEP):
        raise InvalidArgument(
            f"keep must be an int from 1 to {MAX_KEEP}, or None to keep everything, not {shown(keep)}"
        )
    writer = writer_name(random_tag())
    while True:
        episode, new = _choose_episode(backend, key, joins=joins, writer=writer)
        key = CheckpointKey(key.goal_id, episode.id, key.checkpoint_id)
        found = find(backend, key, skip_damaged=True)
        if found and new:
            if episodes.newest_number(backend, key.goal_id) >= episode.id:
                continue  # another process has started it since we looked
            raise CheckpointConflict(
                f"{key} holds records up to step {found.highest}, but its episode was never started:"
                " Store.save put them there; start an episode, or use another goal"
            )
        if found and episodes.end_if_closed(backend, key.goal_id, episode, found.record.header, writer):
            continue  # its last process was killed before it could write that down
        return Run(backend, key, writer, keep, found, to_json(initial) if found is None else b"", episode, new)


def _choose_episode(backend: Backend, key: CheckpointKey, *, joins: bool, writer: str) -> tuple[Episode, bytes | None]:
    """The running episode to resume; or a new one, with the record that will start it."""
    goal, name = key.goal_id, key.checkpoint_id
    if joins:
        return episodes.joinable(backend, key, writer), None
    number = episodes.newest_number(backend, goal)
    episode = episodes.read(backend, goal, number) if number >= 0 else None
    if episode is None or episode.status != "running":
        return episodes.registration(goal, number + 1, name, writer)
    if episode.root in ("", name):
        return episode, None
    if episodes.end_if_decided(backend, goal, episode, writer):
        return episodes.registration(goal, number + 1, name, writer)
    raise CheckpointNotFound(
        f"episode {number} of goal {goal!r} is run by {episode.root!r}, not by {name!r}: resume it under"
        f" {episode.root!r} (an id is the same in every process), or join it with episode_id={number}"
    )


class _Sent(NamedTuple):
    """A commit that was sent and is not acknowledged yet."""

    step: int
    record: bytes
    json: bytes
    meta: bytes
    live: dict[int, int | None]
    plan: Plan
    closing: bytes | None


class Run:
    """One writer's way through the steps of one key. `Store.resume` makes it.

    A commit writes the state, or what changed in it since earlier commits of the run, whichever is less; what stays can
    be read, for what it builds on stays with it.

    Belongs to the process that resumed it; threads may share it, its commits are serialized (so commit nothing in a
    signal handler, which may have interrupted a commit). Leaving its `with` block, also by an exception, finishes
    nothing: the next process resumes.

    After its first commit it asks its backend for one save a commit and at most one prune for every `keep` commits, and
    between them for nothing.

    Attributes:
        key: where it commits.
        writer: its identity, in every record that it writes.
        keep: how many of the newest steps stay at least; None for all.
        step: the last committed step, -1 if there is none.
        resumed: whether it goes on from a checkpoint.
        skipped: damaged steps that were passed over to resume, newest first.
    """

    def __init__(
        self,
        backend: Backend,
        key: CheckpointKey,
        writer: str,
        keep: int | None,
        found: Found | None,
        initial: bytes,
        episode: Episode,
        registration: bytes | None,
    ) -> None:
        self.key = key
        self.writer = writer
        self.keep = keep
        self.step = -1
        self.resumed = found is not None
        self.skipped: tuple[int, ...] = ()
        self._backend = backend
        self._episode = episode
        self._registration = registration
        self._json = initial
        self._meta = b"{}"
        self._next = 0
        self._prev: tuple[int, str] | None = None
        self._live: dict[int, int | None] = {}  # what is kept besides fences, and of each the newest that it needs
        self._only_bases = 0  # so many of them are kept only because others need them
        self._ladder = Ladder()
        self._closing: bytes | None = None
        self._has_fence = False
        self._open: _Sent | None = None
        self._refusal: str | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        if found:
            header = found.record.header
            self.step = header.step
            self.skipped = found.skipped
            self._json = found.record.json
            self._meta = meta_json(header.meta)
            self._next = found.highest + 1
            self._prev = (header.step, found.record.digest)
            self._live = dict(zip(header.live, header.tops, strict=True))
            self._closing = orjson.dumps(header.closing._asdict()) if header.closing else None
        if self.skipped:
            _log().warning(
                "%s: resumed from step %d, past damaged %s", key, self.step, ", ".join(map(str, self.skipped))
            )

    def __repr__(self) -> str:
        return f"<Run {self.key} at step {self.step}{', finished' if self.finished else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def state(self) -> Any:
        """What was committed last, or `initial`; decoded afresh at each access, never an alias."""
        return orjson.loads(self._json)

    @property
    def meta(self) -> dict[str, Any]:
        """What was committed with that state; decoded afresh at each access, empty on a new run."""
        meta: dict[str, Any] = orjson.loads(self._meta)
        return meta

    @property
    def root(self) -> str:
        """The checkpoint id that started the episode; empty if it was started for any."""
        return self._episode.root

    @property
    def finished(self) -> bool:
        """Whether the key is closed: a finished or failed run committed its closing record."""
        return self._closing is not None

    @property
    def result(self) -> Any:
        """What it finished with, decoded afresh; the error's text if it failed; None while it goes on."""
        return orjson.loads(self._closing)["result"] if self._closing else None

    def commit(self, state: object, *, meta: dict[str, Any] | None = None) -> int:
        """Commits a state as the next step and returns that step.

        When it returns, the checkpoint survives SIGKILL and power loss, and was the newest of its key. The first
        commit of a new episode registers it. A prune that fails never fails a commit.

        Raises:
            InvalidState: JSON would lose or cannot hold the state or meta; nothing was saved.
            CheckpointConflict: another process has taken over, or the run is finished, or this is a forked child. Stop:
                a run that was superseded stays refused. It does not say that nothing was saved.
            StoreUnavailable: try again with the same state. With `maybe_saved` the outcome is unknown; the next commit
                settles it first, and if that is of the same state and meta, just returns its step. So does the commit
                after one that was interrupted, by KeyboardInterrupt for one.
        """
        return self._commit(to_json(state), meta_json(meta), None)

    def is_superseded(self) -> bool:
        """Asks the backend, once, whether another writer stands where this run would go on.

        Then its next commit is refused. False promises nothing about that.

        Raises:
            StoreUnavailable: nobody answers.
        """
        with self._lock:
            if self._refusal:
                return True
            there = self._backend.load(self.key, self._next, first=None if self._open else 1)
            return there is not None and not (self._open and there == self._open.record)

    def rewind(self, to_step: int) -> int:
        """Commits state and meta of an earlier step as the next step, and returns that next step.

        History is never rewritten: what came after `to_step` stays in it, and the rewind fences like any commit.

        Raises:
            CheckpointNotFound: retention or an operator has removed that step, or it never was.
            CheckpointDamaged: it cannot be trusted. All that `commit` raises.
        """
        self._check_usable()
        record = read(self._backend, self.key, to_step)
        return self._commit(record.json, meta_json(record.header.meta), None)

    def finish(
        self,
        result: object = None,
        *,
        error: object = None,
        state: object = _LAST,
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Closes the key with its last state and a result; with `error`, as failed, and the error's text is the result.

        With `state` it is closed with that one, and with `meta`, in one commit: no process finds it there and open. The
        closing record is the decision: of two that finish one wins, and nobody commits after it. If this run is the
        episode's root, or the episode has none, the episode has ended, and the next resume starts a new one.

        Raises:
            InvalidState: JSON cannot hold the result, or it takes more than 32 KiB; or the state or meta.
            CheckpointConflict: another process has taken over, or it is finished with another result.
            StoreUnavailable: with `maybe_saved` it can only be repeated as a finish.
        """
        if error is not None and result is not None:
            raise InvalidArgument("finish takes a result or an error, not both")
        if error is None:
            closing = closing_json("finished", result)
        else:
            text = str(error) or (type(error).__name__ if isinstance(error, BaseException) else "")
            closing = closing_json("failed", text.encode(errors="replace").decode())
        self._commit(None if state is _LAST else to_json(state), None if meta is None else meta_json(meta), closing)
        self._end_episode()

    def _commit(self, json: bytes | None, meta: bytes | None, closing: bytes | None) -> int:
        """Sends one record, after what is still open is settled; without `json` or `meta`, of the last ones."""
        self._check_usable()
        with self._lock:
            self._check_usable()  # again: the thread before us may have been refused
            sent = self._open
            if sent:
                _log().info("%s: what became of step %d is not known: it is sent once more", self.key, sent.step)
                if sent.closing and not closing:
                    raise CheckpointConflict(
                        f"{self.key}: a finish is under way at step {sent.step}: repeat the finish"
                    )
                self._send(sent, again=True)
                if _same(sent.closing, closing) and (closing or (_same(sent.json, json) and _same(sent.meta, meta))):
                    return self.step
            if self._closing:
                if closing and _same(self._closing, closing):
                    return self.step
                raise CheckpointConflict(f"{self.key} was closed at step {self.step}: nobody commits to it any more")
            json = self._json if json is None else json
            meta = self._meta if meta is None else meta
            plan = self._ladder.next(self._json, json)
            live = self._live
            if self.keep is not None and self._has_fence:
                live = {**live, self._next: plan.rungs[-1].step if plan.rungs else None}
            record = encode(
                self.key,
                self._next,
                json,
                writer=self.writer,
                body=plan.body(),
                meta=meta,
                live=live,
                prev=self._prev,
                closing=closing,
            )
            self._register()
            self._open = _Sent(self._next, record, json, meta, live, plan, closing)
            self._send(self._open, again=False)
            return self.step

    def _register(self) -> None:
        """Starts the episode, before the first commit of a new one."""
        if self._registration is None:
            return
        try:
            is_ours = episodes.claim(self._backend, self.key.goal_id, (self._episode, self._registration))
        except StoreUnavailable as err:  # the commit itself was not sent, whatever became of this
            raise StoreUnavailable(f"cannot start episode {self.key.episode_id}: {err}") from err
        if not is_ours:
            self._refuse(f"another process has started episode {self.key.episode_id} of goal {self.key.goal_id!r}")
        self._registration = None

    def _send(self, sent: _Sent, *, again: bool) -> None:
        """Saves the open record and acknowledges it; whatever interrupts this leaves it open."""
        try:
            there = self._backend.save(self.key, sent.step, sent.record)
        except CheckpointConflict as err:
            self._refuse(str(err))
        except StoreUnavailable as err:
            if err.maybe_saved:
                raise
            if again:  # nothing was sent now, but it was before
                raise StoreUnavailable(str(err), maybe_saved=True) from err
            self._open = None
            raise
        if there != sent.record:
            self._refuse(f"{self.key} step {sent.step} {self._owner(sent.step, there)}")
        if again or not self._has_fence:
            self._look(sent)
        self._acknowledge(sent)

    def _look(self, sent: _Sent) -> None:
        """Rule 3: makes sure that our record is the newest, and did not land where somebody else has been."""
        try:
            newest = self._backend.latest(self.key)
        except StoreUnavailable as err:
            raise StoreUnavailable(
                f"step {sent.step} is saved, but not known to be the newest: {err}", maybe_saved=True
            ) from err
        if newest is None or newest[0] < sent.step or (newest[0] == sent.step and newest[1] != sent.record):
            self._refuse(
                f"{self.key} step {sent.step} was removed as soon as it was there: the key was deleted or pruned"
            )
        if newest[0] > sent.step:
            self._refuse(f"{self.key} is at step {newest[0]}, beyond our {sent.step}: that {self._owner(*newest)}")

    def _acknowledge(self, sent: _Sent) -> None:
        self.step = sent.step
        self._next = sent.step + 1
        self._prev = (sent.step, digest_of(sent.record))
        self._json = sent.json
        self._meta = sent.meta
        self._live = sent.live
        self._ladder = sent.plan.ladder(*self._prev)
        self._closing = sent.closing
        self._has_fence = True
        self._retain()
        self._open = None  # last: whatever interrupts this leaves the commit open, to be settled again

    def _retain(self) -> None:
        """Once 2·keep steps have gathered, removes all but the newest keep and their bases: one prune for keep commits.

        The newest goes first: interrupted, it leaves nothing without what that needs.
        """
        if self.keep is None or len(self._live) - self._only_bases < 2 * self.keep:
            return
        stay = set(list(self._live)[-self.keep :])
        for step in tuple(stay):
            below = self._live.get(step)
            while below is not None and below not in stay:
                stay.add(below)
                below = self._live.get(below)
        try:
            self._backend.prune(self.key, [step for step in reversed(self._live) if step not in stay])
        except Exception as err:  # noqa: BLE001 - the commit is durable: nothing that a backend raises undoes it
            _log().warning("%s: pruning failed and is tried again with the next commit: %s", self.key, err)
        else:
            self._live = {step: top for step, top in self._live.items() if step in stay}
            self._only_bases = len(self._live) - self.keep

    def _end_episode(self) -> None:
        if self._episode.root not in ("", self.key.checkpoint_id) or not self._closing:
            return
        closing, now = Closing(**orjson.loads(self._closing)), datetime.now(UTC)
        try:
            episodes.end(self._backend, self.key.goal_id, self._episode, closing, now, self.writer)
        except StoreUnavailable as err:
            _log().warning("%s is finished, its episode's end is left to the next resume: %s", self.key, err)

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise CheckpointConflict(
                f"{self.key}: this run belongs to process {self._pid}, not to its forked child: resume afresh there"
            )
        if self._refusal:
            raise CheckpointConflict(self._refusal)

    def _owner(self, step: int, record: bytes) -> str:
        try:
            header = decode_header(record, self.key, step)
        except CheckpointDamaged:
            return "is held by a record that cannot be read"
        return f"was saved by {header.writer} at {timestamp(header.saved_at)}"

    def _refuse(self, what: str) -> NoReturn:
        self._refusal = f"{what}; this run ({self.writer}) is superseded: stop, or resume afresh"
        self._open = None
        _log().info("%s", self._refusal)  # not louder: it is raised as well
        raise CheckpointConflict(self._refusal)


def _same(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or same_json(orjson.loads(one), orjson.loads(other))


def _log() -> "logging.Logger":
    import logging  # noqa: PLC0415 - only where something is wrong

    return logging.getLogger("durable_store")
