"""Reading all of a store, and telling what is wrong in it, what that means and what can be done.

It changes nothing. Not even a record that is damaged is taken away: its step would be free, and an older writer that
nobody has told to stop could commit there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from durable_store import episode as episodes
from durable_store.backend import Backend
from durable_store.errors import CheckpointDamaged, CheckpointUnsupported
from durable_store.key import EPISODE_ID, CheckpointKey
from durable_store.operations.ahead import AT_ONCE, threads_for
from durable_store.operations.places import Loaded, goal_names, keys_of, listed, loaded, records_of
from durable_store.record import DIGEST, HEAD, Header, check, decode, digest_of, is_intact
from durable_store.state import MAX_STATE
from durable_store.store import Store
from durable_store.zstd import ZstdDecompressor, ZstdError

_PAST = "`resume` goes on past it, from the newest intact step, and says so"
_RESTORE = f"restore the record from a copy of the store, if there is one; {_PAST}"

ADVICE = {
    "empty": f"the storage has lost what was written, as some do in a power cut: {_RESTORE}",
    "truncated": f"its end is missing, as after an interrupted restore: {_RESTORE}",
    "flipped": f"its bytes have changed since they were written: look after the disk, and {_RESTORE}",
    "misplaced": f"it is whole, and belongs elsewhere: move it back there, or {_RESTORE}",
    "malformed": f"another program wrote it, or an error of ours; tell us. {_PAST.capitalize()}",
    "base": f"what it builds on cannot be had, so its state is lost: restore that record from a copy; {_PAST}",
    "replaced": "a process that was superseded has left it, or somebody has put it there: no later step builds on it",
    "unsupported": "a newer version wrote it: upgrade durable-store; nothing is wrong with it as far as can be seen",
    "unreadable": "let this user read it, move away what is in its place, or wait for the storage; then look again",
    "episode": "the episodes of this goal cannot all be found: restore the record from a copy of the store",
    "gap": "its run kept everything: if nobody has pruned them, these steps were lost; the others can be read",
    "foreign": "no part of the store, which never looks at it: move it away if you do not know it",
    "duplicate": "no part of the store, which reads the record under the right name: compare the two, and move it away",
    "left over": "a writer was killed before it gave this its name: remove it when no writer is at work",
    "permissions": "states may be private: chmod 600 for a record, 700 for a directory",
}
"""By the kind of a finding, what it means and what can be done."""

_NO_DAMAGE = {"replaced", "unsupported", "gap", "foreign", "duplicate", "left over", "permissions"}
_BEGINS_LIKE_A_RECORD = re.compile(rb"[0-9a-f]{64} \{")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        place: a key and a step, or a path.
        kind: one of `ADVICE`.
        what: what is wrong, in full.
    """

    place: str
    kind: str
    what: str

    @property
    def is_damage(self) -> bool:
        """Whether something that was saved cannot be had, or not trusted."""
        return self.kind not in _NO_DAMAGE

    @property
    def advice(self) -> str:
        """What it means, and what can be done."""
        return ADVICE[self.kind]


@dataclass(slots=True)
class Verified:
    """What a store came to.

    Attributes:
        records: how many were read.
        size: their bytes.
        damaged: findings that are damage.
        noted: all other findings.
    """

    records: int = 0
    size: int = 0
    damaged: int = 0
    noted: int = 0


def verify(
    store: Store,
    *,
    goals: Iterable[str | int] | None = None,
    at_once: int = AT_ONCE,
    report: Callable[[Finding], None],
    progress: Callable[[CheckpointKey, int], None] = lambda _key, _size: None,
) -> Verified:
    """Reads every record, or those of some goals, decodes it with all that it builds on, and reports what is wrong.

    What a run removes meanwhile is not reported, nor what is missing of a history that was not to be kept as a whole.
    Files that are no part of the store are looked for where the backend knows how: on files, and only when all goals
    are wanted.

    Args:
        store: which; nothing in it is changed.
        goals: which; None for all.
        at_once: how many records are under way at the same time.
        report: is told of each finding.
        progress: is told of each record, and its bytes.

    Raises:
        StoreUnavailable: the store cannot be reached. What the storage refuses while it lists others is a finding.
    """
    backend = store.backend
    names = goal_names(goals)
    verified = Verified()
    with threads_for("verify", at_once) as threads:
        for finding in _findings(backend, names, threads, at_once, verified, progress):
            verified.damaged += finding.is_damage
            verified.noted += not finding.is_damage
            report(finding)
    return verified


def _findings(
    backend: Backend,
    names: Sequence[str] | None,
    threads: ThreadPoolExecutor,
    at_once: int,
    verified: Verified,
    progress: Callable[[CheckpointKey, int], None],
) -> Iterator[Finding]:
    """All of them, key by key; counts what was read."""
    of_key: _OfKey | None = None
    started: set[int] = set()
    for read in records_of(backend, keys_of(backend, names), threads, at_once):
        if of_key is None or of_key.key != read.key:
            if of_key is None or of_key.key.goal_id != read.key.goal_id:
                started = set()
            of_key = _OfKey(backend, read.key, started)
        if read.record is not None:
            verified.records += 1
            verified.size += len(read.record)
            progress(read.key, len(read.record))
        yield from of_key.look_at(read)
    strangers: Callable[[], Iterator[tuple[str, str, str]]] | None = getattr(backend, "strangers", None)
    if strangers and names is None:
        yield from (Finding(*stranger) for stranger in strangers())


class _OfKey:
    """What is known of a key, while its records are read, oldest first.

    `started` are the episodes of its goal that are known to have been started: asked for once, not for each key.
    """

    def __init__(self, backend: Backend, key: CheckpointKey, started: set[int]) -> None:
        self.key = key
        self._backend = backend
        self._digests: dict[int, str | None] = {}  # of what was read; None of a damaged one
        self._recent: dict[int, bytes] = {}  # what the next record builds on
        self._last = -1
        self._started = started
        self._knows_its_episode = False
        self._writers: set[str] = set()

    def look_at(self, read: Loaded) -> list[Finding]:
        """What is wrong with a record."""
        if read.step is None:
            return [Finding(str(self.key), "unreadable", str(read.refused))]
        found: list[tuple[str, str]] = []
        if read.record is not None:
            found = self._look(read.step, read.record)
        elif read.refused:
            found = [("unreadable", str(read.refused))]
        elif read.step in listed(self._backend, self.key).steps:  # not removed meanwhile
            found = [("unreadable", f"{self.key} step {read.step} is listed, and nothing can be read there")]
        self._last = read.step
        return [Finding(f"{self.key} step {read.step}", kind, what) for kind, what in found]

    def _look(self, step: int, record: bytes) -> list[tuple[str, str]]:
        """The kind of each thing that is wrong, and words for it."""
        try:
            header = check(record, self.key, step)
            found = self._look_further(header, record)
        except CheckpointDamaged as err:
            kind, what = _kind(record, self.key, step, err), str(err)
            if isinstance(err, CheckpointUnsupported) and kind != "unsupported":
                what += "; or it is damaged, for its bytes do not match its digest"
            header, found = None, [(kind, what)]
        if found:
            again = loaded(self._backend, Loaded(self.key, step))
            if again.record != record and not again.refused:
                return []  # removed since it was read, and then its bases may be
        self._digests[step] = digest_of(record) if header else None
        if header:
            self._writers.add(header.writer)
            bases = {base for base, _ in header.bases}
            self._recent = {base: there for base, there in self._recent.items() if base in bases} | {step: record}
        return found

    def _look_further(self, header: Header, record: bytes) -> list[tuple[str, str]]:
        """What is wrong with an intact record in its place."""
        reads = [
            Loaded(self.key, base, self._recent[base])
            if base in self._recent
            else loaded(self._backend, Loaded(self.key, base))
            for base, _ in header.bases
        ]
        for read in reads:
            if read.refused:
                return [("unreadable", f"{self.key} step {header.step} builds on step {read.step}: {read.refused}")]
        bases = [read.record for read in reads]
        try:
            state = decode(record, self.key, header.step, lambda _: bases).state
        except CheckpointUnsupported:
            raise
        except CheckpointDamaged as err:
            are_there = all(
                there is not None and digest_of(there) == digest and is_intact(there)
                for there, (_, digest) in zip(bases, header.bases, strict=True)
            )
            return [("malformed" if are_there else "base", str(err))]
        return [*self._look_back(header), *self._look_at_episode(header, state)]

    def _look_back(self, header: Header) -> Iterator[tuple[str, str]]:
        """Whether the record before it is the one that it was written after, or has been pruned."""
        if header.prev is None:
            return
        step, digest = header.prev
        if self._digests.get(step) not in (None, digest):
            yield "replaced", f"{self.key} step {step} is not the record that step {header.step} was written after"
        keeps_everything = not header.live and header.writer in self._writers
        if keeps_everything and step > self._last:
            gone = f"step {step}" if step == self._last + 1 else f"steps {self._last + 1} to {step}"
            yield "gap", f"{self.key}: {gone} gone, though the run that wrote step {header.step} kept everything"

    def _look_at_episode(self, header: Header, state: Any) -> Iterator[tuple[str, str]]:
        """Whether the store's record of an episode tells of one; and whether all that lead to it were started."""
        goal, number = self.key.goal_id, self.key.episode_id
        if self.key.checkpoint_id == EPISODE_ID:
            if episodes.told(number, state) is None:
                yield "episode", f"{self.key} step {header.step} does not tell about an episode"
            needed = [number - 1, number] if number else [number]
        else:
            is_of_a_run = header.prev is not None or header.closing is not None
            needed = [number] if is_of_a_run and not self._knows_its_episode else []
            self._knows_its_episode = self._knows_its_episode or is_of_a_run
        for each in needed:
            if each in self._started:
                continue
            start = loaded(self._backend, Loaded(CheckpointKey(goal, each, EPISODE_ID), episodes.STARTED))
            if start.record is None and not start.refused:  # refused, it is told by itself
                yield "episode", f"{self.key} is there, and the record that episode {each} was started is not"
            else:
                self._started.add(each)


def _kind(record: bytes, key: CheckpointKey, step: int, err: CheckpointDamaged) -> str:
    """Of damage that a record shows by itself."""
    if not record:
        return "empty"
    if not is_intact(record):
        return "truncated" if _is_cut(record) else "flipped"
    if isinstance(err, CheckpointUnsupported):
        return "unsupported"
    try:
        fields = orjson.loads(record[DIGEST + 1 :].partition(b"\n")[0])
        place = [fields[name] for name in ("goal", "episode", "checkpoint", "step")]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "malformed"
    return "malformed" if place == [key.goal_id, key.episode_id, key.checkpoint_id, step] else "misplaced"


def _is_cut(record: bytes) -> bool:
    """Whether its end is missing, as far as its header or its encoding tell."""
    head, newline, body = record.partition(b"\n")
    if not newline:
        return bool(_BEGINS_LIKE_A_RECORD.match(record)) and len(record) <= HEAD
    try:
        fields = orjson.loads(head[DIGEST + 1 :])
        encoding, size = list(fields["encoding"]), int(fields["size"])
        if not encoding:
            return len(body) < size
        if encoding[-1] == "zstd":
            decompressor = ZstdDecompressor()
            decompressor.decompress(body, max_length=min(max(size, 0), MAX_STATE) + 2**20)
            return decompressor.needs_input
        line, _, literals = body.partition(b"\n")
        return sum(piece for piece in orjson.loads(line) if isinstance(piece, int)) > len(literals)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, ZstdError):
        return False
