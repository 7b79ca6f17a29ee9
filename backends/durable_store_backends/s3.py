"""Records as objects in a bucket of S3, or of a service that speaks its protocol.

Layout::

    <prefix>/<goal>/<episode, 9 digits>/<checkpoint>/<2**64 - 1 - step, 16 hex digits>-<step>

Goal and checkpoint are storage names. S3 lists in the order of bytes, so the newest step of a key is the first of its
listing: `latest` is a LIST of one name and a GET, however long the history. In a directory bucket (`…--x-s3`), whose
listings have no order, it is the highest of all. A name that is not spelled exactly like this is not ours.

How durable: as the service says, at the latest when the PUT is answered. A step is created by a PUT with
`If-None-Match: *`. Some services ignore that silently, so before its first save a process makes sure, once for each
bucket and prefix, with a small object of its own that it then removes; a service that fails there is refused.

A PUT whose answer is lost is sent again, the same bytes; when the second finds the step taken, the object is read back
and compared. Requests are sent up to `max_attempts` times (6), with random waits of up to 5 s in between. A service
that takes requests and answers none keeps a save busy for `max_attempts` + 1 times `read_timeout`: 3.5 minutes by
default, and at most that for a process's first, which probes.

Limits: a bucket with versioning keeps what was pruned, until a lifecycle rule of its own removes it. The order of
removal within one DeleteObjects is the service's: a step that may be the newest is therefore removed by itself, after
all that come before it, so that `latest` never shows an order other than the one given.
"""

import logging
import os
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from secrets import token_hex
from typing import TYPE_CHECKING, ClassVar, Self, cast
from urllib.parse import SplitResult, unquote

from durable_store.errors import CheckpointConflict, InvalidURL, StoreUnavailable
from durable_store.key import (
    CheckpointKey,
    id_from_storage_name,
    object_name,
    step_of_object_name,
    storage_name,
    storage_path,
)
from durable_store_backends.s3_bucket import MOST_NAMES, Bucket, Connection
from durable_store_backends.s3_errors import answer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef as Page

_TRIES = 16  # how often a record that was listed a moment ago and then pruned is looked for again
_AT_ONCE = 8  # listings that are under way at the same time while keys are looked for
_MOST_REMEMBERED = 10_000  # keys, some 300 bytes each
_LONGEST_PREFIX = 1024 - 446  # bytes: S3's limit for a name, less the longest key and step
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}"
_DIRECTORY_BUCKETS = ("--x-s3", "--xa-s3")  # and their access points: nothing is promised about the order of listings


class S3Backend:
    """Keeps records in a bucket, shared by all processes that reach it.

    Threads share one client, made at the first verb; a forked child makes its own. A `client` of the caller's (a boto3
    S3 client, configured and closed by him) takes the place of all options of the connection; it belongs to the process
    that made it, and in a forked child every verb is StoreUnavailable.

    Raises:
        InvalidURL: a name or an option that cannot be; nothing was sent.
    """

    # Of each (endpoint, bucket, prefix) that this process has saved to: the probe that was made there, or is under way.
    _probes: ClassVar[dict[tuple[str, str, str], Future[None]]] = {}

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        client: "S3Client | None" = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        addressing_style: str = "auto",
        connect_timeout: float = 5,
        read_timeout: float = 30,
        max_attempts: int = 6,
        pool: int = 32,
        sse: str | None = None,
        sse_kms_key_id: str | None = None,
    ) -> None:
        prefix = prefix.strip("/")
        connection = Connection(
            endpoint_url, region, profile, addressing_style, connect_timeout, read_timeout, max_attempts, pool
        )
        _check_place(bucket, prefix)
        if client is not None and connection != Connection(max_attempts=max_attempts):
            raise InvalidURL("a client that is handed in is configured already: leave out the connection's options")
        endpoint = client.meta.endpoint_url if client else endpoint_url
        self._where = f"s3://{bucket}/{prefix}" + (f" at {endpoint}" if endpoint else "")
        self._base = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(
            bucket,
            self._where,
            client,
            connection,
            encryption=_encryption(sse, sse_kms_key_id),
        )
        self._is_ordered = not bucket.endswith(_DIRECTORY_BUCKETS)
        self._at_once = min(pool, _AT_ONCE)
        self._newest: dict[CheckpointKey, int] = {}  # the highest step seen of a key; single operations need no lock

    @classmethod
    def from_url(
        cls,
        url: SplitResult,
        *,
        endpoint_url: str = "",
        region: str = "",
        profile: str = "",
        addressing_style: str = "auto",
        connect_timeout: str = "5",
        read_timeout: str = "30",
        max_attempts: str = "6",
        pool: str = "32",
        sse: str = "",
        sse_kms_key_id: str = "",
    ) -> Self:
        return cls(
            bucket=url.netloc,
            prefix=unquote(url.path, errors="surrogateescape"),
            endpoint_url=endpoint_url or None,
            region=region or None,
            profile=profile or None,
            addressing_style=addressing_style,
            connect_timeout=_number("connect_timeout", connect_timeout),
            read_timeout=_number("read_timeout", read_timeout),
            max_attempts=_whole_number("max_attempts", max_attempts),
            pool=_whole_number("pool", pool),
            sse=sse or None,
            sse_kms_key_id=sse_kms_key_id or None,
        )

    def __repr__(self) -> str:
        return f"S3Backend({self._where!r})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self._make_sure_of_conditions()
        name = self._name(key, step)
        try:
            created = self._bucket.create(name, record)
        except StoreUnavailable as err:
            there = self._glance_at(name) if err.maybe_saved else None
            if there is None:  # which does not prove that no PUT is still on its way
                raise
        else:
            there = record if created else self._read_back(key, step)
        self._remember(key, step)
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for _ in range(_TRIES):
            step = self._newest_step(key)
            if step is None:
                return None
            record = self._bucket.read(self._name(key, step))
            if record is not None:
                self._remember(key, step)
                return step, record
        raise StoreUnavailable(f"cannot read {self._where}: {key} changes faster than it can be read")

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._bucket.client("remove from")  # also with nothing to remove: a closed store says so
        batch: list[str] = []
        may_be_newest = _suffix_maxima(steps, self._newest.get(key, -1))
        for step in dict.fromkeys(steps):
            name = self._name(key, step)
            if step not in may_be_newest:
                batch.append(name)
                continue
            self._bucket.remove(batch)
            self._newest.pop(key, None)
            self._bucket.remove([name])
            batch = []
        self._bucket.remove(batch)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        return self._bucket.read(self._name(key, step), first=first)

    def load_all(self, key: CheckpointKey, steps: Sequence[int]) -> list[bytes | None]:
        """As `load`, of several at the same time: the bases of a delta come in one round."""
        with ThreadPoolExecutor(min(len(steps), self._at_once)) as pool:
            return list(pool.map(partial(self.load, key), steps))

    def steps(self, key: CheckpointKey) -> list[int]:
        return sorted(self._steps_on(self._pages_of_key(key), key), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        if goal_id is not None:
            yield from self._keys_on(self._pages_of_goal(storage_name(goal_id)))
            return
        for pages in _some_ahead(map(self._pages_of_goal, self._goals()), self._at_once):
            yield from self._keys_on(pages)

    def close(self) -> None:
        self._bucket.close()

    def _make_sure_of_conditions(self) -> None:
        """Once for each bucket and prefix: refuses a service that has no conditional PUT."""
        place = (self._bucket.client("save to").meta.endpoint_url, self._bucket.name, self._base)
        mine: Future[None] = Future()
        probe = self._probes.setdefault(place, mine)
        if probe is mine:
            try:
                self._probe()
            except BaseException as err:
                del self._probes[place]  # the next save probes again; those who wait for this one share its error
                if not isinstance(err, StoreUnavailable):
                    mine.set_exception(StoreUnavailable(f"cannot save to {self._where}: its probe was interrupted"))
                    raise
                mine.set_exception(err)
            else:
                mine.set_result(None)
        try:
            probe.result()
        except StoreUnavailable as err:
            raise StoreUnavailable(str(err)) from err.__cause__  # the record itself was not sent

    def _probe(self) -> None:
        """Raises when a PUT that must not replace an object does so, or when the service does not know such a thing."""
        name = f"{self._base}durable-store-probe-{token_hex(8)}"
        maybe_there, attempts = True, cast("int | None", 1)
        try:
            try:
                self._bucket.create(name, b"the first")
            except StoreUnavailable as err:
                maybe_there = err.maybe_saved
                raise
            honoured = not self._bucket.create(name, b"the second") and self._bucket.read(name) == b"the first"
            attempts = None
        except StoreUnavailable as err:
            if answer(err.__cause__)[0] != 501:
                raise
            honoured = False
        finally:
            if maybe_there:
                self._tidy_up(name, attempts)
        if not honoured:
            raise StoreUnavailable(
                f"cannot save to {self._where}: the service has no conditional PUT (If-None-Match: *), so that two"
                " processes could both create one step: use another service, or sqlite:// on one machine"
            )

    def _tidy_up(self, name: str, attempts: int | None) -> None:
        try:
            self._bucket.remove([name], attempts=attempts)
        except StoreUnavailable as err:
            logging.getLogger("durable_store").warning("%s (an object of a probe may be left: %s)", err, name)

    def _read_back(self, key: CheckpointKey, step: int) -> bytes:
        """What is in the place of a record that was not to be created."""
        try:
            there = self._bucket.read(self._name(key, step))
        except StoreUnavailable as err:  # it may be ours, of an attempt whose answer was lost
            raise StoreUnavailable(str(err), maybe_saved=True) from err.__cause__
        if there is None:
            raise CheckpointConflict(f"{key} step {step} was taken, and its owner has pruned it since")
        return there

    def _glance_at(self, name: str) -> bytes | None:
        with suppress(StoreUnavailable):
            return self._bucket.read(name, attempts=1)
        return None

    def _newest_step(self, key: CheckpointKey) -> int | None:
        if self._is_ordered:
            page = next(self._pages_of_key(key, 1))
            if not page.get("Contents"):
                return None
            step = next(self._steps_on([page], key), None)
            # Something else comes first. Of a folder's marker SeaweedFS says that nothing follows it: ask for more.
            return next(self._steps_on(self._pages_of_key(key), key), None) if step is None else step
        # Between two pages a whole batch may be committed and pruned, so that of all steps only an old one is seen.
        for _ in range(_TRIES):
            pages = list(self._pages_of_key(key))
            newest = max(self._steps_on(pages, key), default=None)
            if len(pages) == 1 or newest == max(self.steps(key), default=None):
                return newest
        raise StoreUnavailable(f"cannot read {self._where}: {key} changes faster than it can be listed")

    def _pages_of_key(self, key: CheckpointKey, first_page: int = MOST_NAMES) -> "Iterator[Page]":
        return self._bucket.pages(f"{self._base}{storage_path(key)}/", first_page=first_page)

    def _steps_on(self, pages: "Iterable[Page]", key: CheckpointKey) -> Iterator[int]:
        prefix = f"{self._base}{storage_path(key)}/"
        for page in pages:
            for item in page.get("Contents", []):
                step = step_of_object_name(item.get("Key", "").removeprefix(prefix))
                if step is not None:
                    yield step

    def _pages_of_goal(self, goal: str) -> "Iterator[Page]":
        # Names of objects tell what is there. Common prefixes do not: SeaweedFS lists those of objects that were
        # removed for two minutes more.
        return self._bucket.pages(f"{self._base}{goal}/", go_on_after=self._end_of_key)

    def _goals(self) -> Iterator[str]:
        for page in self._bucket.pages(self._base, delimiter="/"):
            for found in page.get("CommonPrefixes", []):
                name = found.get("Prefix", "").removeprefix(self._base)[:-1]
                if id_from_storage_name(name) is not None:
                    yield name

    def _keys_on(self, pages: "Iterable[Page]") -> Iterator[CheckpointKey]:
        """The keys of one goal, each once: their names come together, or in no order at all."""
        seen: set[str] = set()
        for page in pages:
            for item in page.get("Contents", []):
                path, _, name = item.get("Key", "").removeprefix(self._base).rpartition("/")
                if path in seen or step_of_object_name(name) is None:
                    continue
                if self._is_ordered:
                    seen.clear()
                seen.add(path)
                key = _key_at(path)
                if key is not None:
                    yield key

    def _end_of_key(self, page: "Page") -> str | None:
        """Where the names of a key end that a whole page was full of: the rest of its history need not be listed."""
        names = [item.get("Key", "") for item in page.get("Contents", [])]
        if not self._is_ordered or not names:
            return None
        first, last = names[0].rpartition("/"), names[-1].rpartition("/")
        is_ours = _key_at(last[0].removeprefix(self._base)) and step_of_object_name(last[2]) is not None
        if first[0] != last[0] or not is_ours:
            return None
        return f"{last[0]}/g"  # names of steps begin with f

    def _name(self, key: CheckpointKey, step: int) -> str:
        return f"{self._base}{storage_path(key)}/{object_name(step)}"

    def _remember(self, key: CheckpointKey, step: int) -> None:
        if len(self._newest) >= _MOST_REMEMBERED:
            self._newest.clear()
        self._newest[key] = max(step, self._newest.get(key, -1))

    @classmethod
    def _after_fork_in_child(cls) -> None:
        cls._probes = {}  # a thread that is probing stays with the parent


def _key_at(path: str) -> CheckpointKey | None:
    """The key with this path, or None: another spelling is not ours."""
    goal, episode, checkpoint = path.split("/") if path.count("/") == 2 else ("", "", "")
    goal_id, checkpoint_id = id_from_storage_name(goal), id_from_storage_name(checkpoint)
    if goal_id is None or checkpoint_id is None or not re.fullmatch("[0-9]{9}", episode):
        return None
    return CheckpointKey(goal_id, int(episode), checkpoint_id)


def _some_ahead(listings: "Iterable[Iterator[Page]]", at_once: int) -> "Iterator[Iterable[Page]]":
    """The same listings in the same order; the first pages of some are fetched before their turn comes."""
    ahead: deque[tuple[Future[Page] | None, Iterator[Page]]] = deque()
    process = os.getpid()
    pool = ThreadPoolExecutor(at_once)
    try:
        for pages in chain(listings, [None] * at_once):
            if pages is not None:
                first = None
                with suppress(RuntimeError):  # no more threads: too many, or the interpreter is going down
                    first = pool.submit(next, pages)
                ahead.append((first, pages))
            if ahead and (pages is None or len(ahead) == at_once):
                first, rest = ahead.popleft()
                if os.getpid() != process:
                    raise StoreUnavailable("this listing was begun before the fork, in the parent: begin another")
                yield chain([first.result()], rest) if first else rest
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _suffix_maxima(steps: Collection[int], known: int) -> set[int]:
    """The steps above the one known, and above all that come after them: each may be the newest when its turn comes."""
    found: set[int] = set()
    if known in steps:  # it goes too, and protects nothing
        known = -1
    for step in reversed(list(steps)):
        if step > known:
            found.add(step)
            known = step
    return found


def _check_place(bucket: str, prefix: str) -> None:
    if not re.fullmatch(_BUCKET, bucket):
        raise InvalidURL(f"s3:// needs the name of a bucket, as in s3://bucket/prefix, not {bucket!r}")
    parts = prefix.split("/") if prefix else []
    # Nothing that somebody on the way to the service could take for another path.
    if not prefix.isprintable() or "\\" in prefix or not all(part.strip(".") for part in parts):
        raise InvalidURL(
            f"an S3 prefix has no control character, no backslash and no part that is empty or of dots: not {prefix!a}"
        )
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise InvalidURL(f"an S3 prefix has at most {_LONGEST_PREFIX} bytes of UTF-8, not {len(prefix.encode())}")


def _encryption(sse: str | None, key_id: str | None) -> dict[str, str]:
    if sse not in (None, "AES256", "aws:kms", "aws:kms:dsse"):
        raise InvalidURL(f"sse is AES256, aws:kms or aws:kms:dsse, not {sse!r}")
    if key_id and not (sse or "").startswith("aws:kms"):
        raise InvalidURL("sse_kms_key_id goes with sse=aws:kms")
    options = {"ServerSideEncryption": sse, "SSEKMSKeyId": key_id}
    return {name: value for name, value in options.items() if value}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidURL(f"{name} is a number, not {text!r}") from None


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidURL(f"{name} is a whole number, not {text!r}") from None


os.register_at_fork(after_in_child=S3Backend._after_fork_in_child)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
