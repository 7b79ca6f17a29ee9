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
and compared. Requests are repeated up to `max_attempts` times (8), with random waits of up to 5 s in between.

Limits: a bucket with versioning keeps what was pruned, until a lifecycle rule of its own removes it. The order of
removal within one DeleteObjects is the service's: a step that may be the newest is therefore removed by itself, after
all that come before it, so that `latest` never shows an order other than the one given.
"""

# ruff: noqa: SLF001 - what is done after a fork is done to all backends at once

import codecs
import logging
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, count
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from urllib.parse import SplitResult, unquote

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader

from durable_store.errors import CheckpointConflict, InvalidURL, StoreUnavailable
from durable_store.key import (
    CheckpointKey,
    id_from_storage_name,
    object_name,
    step_of_object_name,
    storage_name,
    storage_path,
)
from durable_store_backends.s3_errors import ERRORS, answer, may_be_done, may_pass, reason

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef as _Page

T = TypeVar("T")

_PAGE = 1000  # the most names that S3 gives in one listing, or removes by one request
_TRIES = 16  # how often a record that was listed a moment ago and then pruned is looked for again
_AT_ONCE = 8  # listings that are under way at the same time while keys are looked for
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds; each wait is a random part of it, doubled from one to the next
_MOST_REMEMBERED = 10_000  # keys, some 300 bytes each
_LONGEST_PREFIX = 1024 - 446  # bytes: S3's limit for a name, less the longest key and step
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}"
# Services without DeleteObjects, and those that want it with another checksum than the SDK sends.
_NO_DELETE_OBJECTS = {"NotImplemented", "MethodNotAllowed", "MalformedXML", "InvalidRequest", "MissingContentMD5"}


class S3Backend:
    """Keeps records in a bucket, shared by all processes that reach it.

    With a `client` (a boto3 S3 client, configured and owned by the caller) nothing is left for the options of a
    connection to say. It belongs to the process that made it: in a forked child every verb is StoreUnavailable. Of
    clients of its own a backend has one in each process, made at the first verb; threads share it.
    """

    _everyone: ClassVar["weakref.WeakSet[S3Backend]"] = weakref.WeakSet()
    _honoured: ClassVar[set[tuple[str, str, str]]] = set()  # (endpoint, bucket, prefix) where conditions are
    _probing: ClassVar = threading.Lock()
    _connecting: ClassVar = threading.RLock()  # re-entrant: a signal handler may fork
    _of_parents: ClassVar[list["S3Client | None"]] = []

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
        max_attempts: int = 8,
        pool: int = 32,
        sse: str | None = None,
        sse_kms_key_id: str | None = None,
    ) -> None:
        prefix = prefix.strip("/")
        if not _is_plain(prefix) or len(prefix.encode()) > _LONGEST_PREFIX:
            raise InvalidURL(
                f"an S3 prefix has at most {_LONGEST_PREFIX} bytes of UTF-8, no control characters, and no part that is"
                f" empty or made of dots: not {prefix!a}"
            )
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._max_attempts = max_attempts
        self._at_once = min(pool, _AT_ONCE)
        self._is_ordered = not bucket.endswith("--x-s3")
        self._encryption: Any = {}
        if sse:
            self._encryption["ServerSideEncryption"] = sse
        if sse_kms_key_id:
            self._encryption["SSEKMSKeyId"] = sse_kms_key_id
        self._connection = _Connection(
            endpoint_url, region, profile, addressing_style, connect_timeout, read_timeout, pool
        )
        self._where = f"s3://{bucket}/{prefix}" + (f" at {endpoint_url}" if endpoint_url else "")
        self._client = client
        self._owns_client = client is None
        self._over = ""  # why no verb can work any more
        self._newest: dict[CheckpointKey, int] = {}  # the highest step seen of a key; single operations need no lock
        self._removes_many = True
        self._everyone.add(self)

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
        max_attempts: str = "8",
        pool: str = "32",
        sse: str = "",
        sse_kms_key_id: str = "",
    ) -> Self:
        if not re.fullmatch(_BUCKET, url.netloc):
            raise InvalidURL(f"s3:// needs the name of a bucket, as in s3://bucket/prefix, not {url.netloc!r}")
        if endpoint_url and not re.fullmatch(r"https?://[^/?#@\s]+/?", endpoint_url):
            raise InvalidURL(f"endpoint_url is like https://host:port, not {endpoint_url!r}")
        if addressing_style not in ("auto", "path", "virtual"):
            raise InvalidURL(f"addressing_style is auto, path or virtual, not {addressing_style!r}")
        if sse not in ("", "AES256", "aws:kms", "aws:kms:dsse"):
            raise InvalidURL(f"sse is AES256, aws:kms or aws:kms:dsse, not {sse!r}")
        if sse_kms_key_id and not sse.startswith("aws:kms"):
            raise InvalidURL("sse_kms_key_id goes with sse=aws:kms")
        return cls(
            bucket=url.netloc,
            prefix=unquote(url.path, errors="surrogateescape"),
            endpoint_url=endpoint_url or None,
            region=region or None,
            profile=profile or None,
            addressing_style=addressing_style,
            connect_timeout=_seconds("connect_timeout", connect_timeout),
            read_timeout=_seconds("read_timeout", read_timeout),
            max_attempts=_count("max_attempts", max_attempts, 100),
            pool=_count("pool", pool, 1000),
            sse=sse or None,
            sse_kms_key_id=sse_kms_key_id or None,
        )

    def __repr__(self) -> str:
        return f"S3Backend({self._where!r})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self._make_sure_of_conditions()
        name = self._name(key, step)
        there: bytes | None
        try:
            there = record if self._put("save to", name, record) else self._read_back(key, step)
        except StoreUnavailable as err:
            there = self._glance_at(name) if err.maybe_saved else None
            if there is None:  # which does not prove that no PUT is still on its way
                raise
        self._remember(key, step)
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for _ in range(_TRIES):
            step = self._newest_step(key)
            if step is None:
                return None
            record = self._get("read", self._name(key, step))
            if record is not None:
                self._remember(key, step)
                return step, record
        raise StoreUnavailable(f"cannot read {self._where}: {key} changes faster than it can be read")

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._connected("prune")
        batch: list[str] = []
        may_be_newest = _suffix_maxima(steps, self._newest.get(key, -1))
        for step in dict.fromkeys(steps):
            name = self._name(key, step)
            if step in may_be_newest:
                self._remove(batch)
                self._remove([name])
                batch = []
            else:
                batch.append(name)
        self._remove(batch)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        return self._get("read", self._name(key, step), first)

    def steps(self, key: CheckpointKey) -> list[int]:
        return sorted(self._list_steps(key), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        self._connected("list")
        goals = self._goals() if goal_id is None else [storage_name(goal_id)]
        # The first pages of several goals are fetched at once. Names alone tell what is there: some services list the
        # common prefix of objects that are gone for two minutes more.
        ahead: deque[tuple[Future[_Page], Iterator[_Page]]] = deque()
        with ThreadPoolExecutor(self._at_once) as pool:
            for goal in chain(goals, [None] * self._at_once):
                if goal is not None:
                    pages = self._pages(f"{self._base}{goal}/", skip=self._is_ordered)
                    ahead.append((pool.submit(next, pages), pages))
                if ahead and (goal is None or len(ahead) == self._at_once):
                    first, rest = ahead.popleft()
                    yield from self._keys_on(chain([first.result()], rest))

    def close(self) -> None:
        self._over = self._over or "it is closed"
        client, self._client = self._client, None
        if client is not None and self._owns_client:
            client.close()

    def _connected(self, doing: str) -> "S3Client":
        if self._over:
            raise StoreUnavailable(f"cannot {doing} {self._where}: {self._over}")
        client = self._client
        if client is None:
            with self._connecting:
                client = self._client = self._client or self._connect(doing)
        return client

    def _connect(self, doing: str) -> "S3Client":
        try:
            return self._connection.client()
        except (BotoCoreError, ValueError) as err:
            raise self._unavailable(doing, err) from err

    def _make_sure_of_conditions(self) -> None:
        """Once for each bucket and prefix: refuses a service that has no conditional PUT."""
        place = (self._connected("save to").meta.endpoint_url, self._bucket, self._base)
        if place in self._honoured:
            return
        with self._probing:
            if place in self._honoured:
                return
            try:
                honoured = self._probe()
            except StoreUnavailable as err:
                raise StoreUnavailable(str(err)) from err  # the record itself was not sent
            if not honoured:
                raise StoreUnavailable(
                    f"cannot save to {self._where}: the service has no conditional PUT (If-None-Match: *), so that two"
                    " processes could both create one step: use another service, or sqlite:// on one machine"
                )
            self._honoured.add(place)

    def _probe(self) -> bool:
        """Whether a PUT that must not replace an object is refused when there is one."""
        name = f"{self._base}durable-store-probe-{token_hex(8)}"
        try:
            self._put("save to", name, b"the first")
        except StoreUnavailable as err:
            if err.maybe_saved:
                self._tidy_up(name)
            if answer(err.__cause__)[0] == 501:
                return False
            raise
        try:
            return not self._put("save to", name, b"the second") and self._get("read", name) == b"the first"
        finally:
            self._tidy_up(name)

    def _tidy_up(self, name: str) -> None:
        try:
            self._remove([name])
        except StoreUnavailable as err:
            logging.getLogger("durable_store").warning("%s, which a probe for conditional PUTs left there", err)

    def _put(self, doing: str, name: str, record: bytes) -> bool:
        """Creates an object; False when there is one."""

        def put(s3: "S3Client") -> bool:
            checked: Any = {"ChecksumAlgorithm": "CRC32"} if _is_aws(s3) else {}
            try:
                s3.put_object(
                    Bucket=self._bucket, Key=name, Body=record, IfNoneMatch="*", **checked, **self._encryption
                )
            except ClientError as err:
                if answer(err)[0] == 412:
                    return False
                raise
            return True

        return self._send(doing, put)

    def _read_back(self, key: CheckpointKey, step: int) -> bytes:
        """What is in the place of a record that was not to be created."""
        try:
            there = self._get("read back from", self._name(key, step))
        except StoreUnavailable as err:  # it may be ours, of an attempt whose answer was lost
            raise StoreUnavailable(str(err), maybe_saved=True) from err
        if there is None:
            raise CheckpointConflict(f"{key} step {step} was taken, and its owner has pruned it since")
        return there

    def _glance_at(self, name: str) -> bytes | None:
        with suppress(StoreUnavailable):
            return self._get("read back from", name)
        return None

    def _get(self, doing: str, name: str, first: int | None = None) -> bytes | None:
        part: Any = {} if first is None else {"Range": f"bytes=0-{max(first - 1, 0)}"}

        def get(s3: "S3Client") -> bytes | None:
            checked: Any = {"ChecksumMode": "ENABLED"} if _is_aws(s3) else {}
            try:
                return s3.get_object(Bucket=self._bucket, Key=name, **part, **checked)["Body"].read()
            except ClientError as err:
                match answer(err):
                    case 404, "NoSuchKey":  # and nothing else: not a missing bucket, not another kind of server
                        return None
                    case 416, _:  # a part of nothing: the object is empty
                        return b""
                    case _:
                        raise

        return self._send(doing, get)

    def _remove(self, names: list[str]) -> None:
        """Removes objects in as few requests as the service takes; raises what could not be removed."""
        for start in range(0, len(names), _PAGE):
            some = names[start : start + _PAGE]
            if len(some) > 1 and self._removes_many:
                self._removes_many = self._send("prune", partial(self._delete_many, some))
            if len(some) == 1 or not self._removes_many:
                for name in some:
                    self._send("prune", partial(self._delete, name))

    def _delete(self, name: str, s3: "S3Client") -> None:
        s3.delete_object(Bucket=self._bucket, Key=name)

    def _delete_many(self, names: list[str], s3: "S3Client") -> bool:
        """False when the service does not do this."""
        try:
            done = s3.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
            )
        except ClientError as err:
            status, code = answer(err)
            if status in (405, 501) or code in _NO_DELETE_OBJECTS:
                return False
            raise
        failed = [error for error in done.get("Errors", []) if error.get("Code") != "NoSuchKey"]
        if failed:  # in an answer of status 200
            said = f"{len(failed)} of {len(names)} records were not removed: {failed[0].get('Message', '')}"
            raise ClientError({"Error": {"Code": failed[0].get("Code", ""), "Message": said}}, "DeleteObjects")
        return True

    def _newest_step(self, key: CheckpointKey) -> int | None:
        if self._is_ordered:
            return next(self._list_steps(key, most=1), None)
        # Between two pages a whole batch may be committed and pruned, so that of all steps only an old one is seen.
        for _ in range(_TRIES):
            steps = list(self._list_steps(key))
            if len(steps) < _PAGE or max(steps) == max(self._list_steps(key), default=None):
                return max(steps, default=None)
        raise StoreUnavailable(f"cannot read {self._where}: {key} changes faster than it can be listed")

    def _list_steps(self, key: CheckpointKey, *, most: int = _PAGE) -> Iterator[int]:
        prefix = f"{self._base}{storage_path(key)}/"
        for page in self._pages(prefix, most=most):
            for item in page.get("Contents", []):
                step = step_of_object_name(item.get("Key", "").removeprefix(prefix))
                if step is not None:
                    yield step

    def _goals(self) -> Iterator[str]:
        for page in self._pages(self._base, delimiter="/"):
            for found in page.get("CommonPrefixes", []):
                name = found.get("Prefix", "").removeprefix(self._base)[:-1]
                if id_from_storage_name(name) is not None:
                    yield name

    def _keys_on(self, pages: Iterable["_Page"]) -> Iterator[CheckpointKey]:
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

    def _pages(self, prefix: str, *, delimiter: str = "", most: int = _PAGE, skip: bool = False) -> Iterator["_Page"]:
        """The pages of a listing, the first of them with at most so many names; `skip` leaves out most of long keys."""
        part: Any = {"Bucket": self._bucket, "Prefix": prefix, "MaxKeys": most}
        if delimiter:
            part["Delimiter"] = delimiter
        while True:
            page = self._send("list", lambda s3: s3.list_objects_v2(**part))
            yield page
            if not page.get("IsTruncated"):
                return
            part.pop("StartAfter", None)
            part.pop("ContinuationToken", None)
            names = [item.get("Key", "") for item in page.get("Contents", [])] if skip else []
            if names and names[0].rpartition("/")[0] == names[-1].rpartition("/")[0]:
                part["StartAfter"] = f"{names[-1].rpartition('/')[0]}/g"  # names of steps begin with f
            elif "NextContinuationToken" in page:
                part["ContinuationToken"] = page["NextContinuationToken"]
            else:
                raise StoreUnavailable(f"cannot list {self._where}: the service does not say how the listing goes on")
            part["MaxKeys"] = _PAGE

    def _send(self, doing: str, request: Callable[["S3Client"], T]) -> T:
        """What a request gives, repeated while that may help.

        Raises:
            StoreUnavailable: with `maybe_saved` if the service may have done what was asked, or may still do it.
        """
        s3 = self._connected(doing)
        maybe_done = False
        for attempt in count(1):
            try:
                return request(s3)
            except ERRORS as err:
                maybe_done = maybe_done or may_be_done(err)
                if attempt == self._max_attempts or not may_pass(err):
                    raise self._unavailable(doing, err, maybe_saved=maybe_done) from err
            time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))  # noqa: S311 - spreads the load, guards nothing
        raise AssertionError

    def _unavailable(self, doing: str, err: BaseException, *, maybe_saved: bool = False) -> StoreUnavailable:
        return StoreUnavailable(f"cannot {doing} {self._where}: {reason(err)}", maybe_saved=maybe_saved)

    def _name(self, key: CheckpointKey, step: int) -> str:
        return f"{self._base}{storage_path(key)}/{object_name(step)}"

    def _remember(self, key: CheckpointKey, step: int) -> None:
        if len(self._newest) >= _MOST_REMEMBERED:
            self._newest.clear()
        self._newest[key] = max(step, self._newest.get(key, -1))

    # fork(). Nobody may be making a client meanwhile, which imports modules: the child would inherit their locks. The
    # clients themselves stay with the parent, whose threads may be using their connections.

    @classmethod
    def _before_fork(cls) -> None:
        cls._connecting.acquire()

    @classmethod
    def _after_fork_in_parent(cls) -> None:
        cls._connecting.release()

    @classmethod
    def _after_fork_in_child(cls) -> None:
        cls._connecting = threading.RLock()
        cls._probing = threading.Lock()
        for backend in cls._everyone:
            if backend._owns_client:
                cls._of_parents.append(backend._client)  # or the garbage collector would close it, and take its locks
                backend._client = None
            else:
                backend._over = backend._over or (
                    "its client was handed in, and belongs to the process that made it: make another in this one"
                )


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a client is made with, beside the credentials: those come from the SDK's usual places."""

    endpoint_url: str | None
    region: str | None
    profile: str | None
    addressing_style: str
    connect_timeout: float
    read_timeout: float
    pool: int

    def client(self) -> "S3Client":
        s3: Any = {"addressing_style": self.addressing_style}
        config = Config(
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            max_pool_connections=self.pool,
            retries={"mode": "standard", "total_max_attempts": 1},  # `_send` repeats, and knows what is safe
            s3=s3,
            # Several compatible services refuse the checksums that the SDK would add; for AWS we ask for them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        core = botocore.session.Session()
        core.register_component("data_loader", _loader())  # pyright: ignore[reportUnknownMemberType]
        session: Any = boto3.session.Session(botocore_session=core, profile_name=self.profile, region_name=self.region)
        client: S3Client = session.client("s3", endpoint_url=self.endpoint_url, config=config)
        return client


@cache
def _loader() -> Loader:
    """The SDK's models of S3, read once in a process: a tenth of a second; the rest of a client takes 10 ms."""
    return create_loader()


def _key_at(path: str) -> CheckpointKey | None:
    """The key with this path, or None: another spelling is not ours."""
    goal, episode, checkpoint = path.split("/") if path.count("/") == 2 else ("", "", "")
    goal_id, checkpoint_id = id_from_storage_name(goal), id_from_storage_name(checkpoint)
    if goal_id is None or checkpoint_id is None or not re.fullmatch("[0-9]{9}", episode):
        return None
    return CheckpointKey(goal_id, int(episode), checkpoint_id)


def _is_aws(s3: "S3Client") -> bool:
    return ".amazonaws." in s3.meta.endpoint_url


def _suffix_maxima(steps: Collection[int], known: int) -> set[int]:
    """The steps above the one known and above all that come after them: each may be the newest when its turn comes."""
    found: set[int] = set()
    for step in reversed(list(steps)):
        if step > known:
            found.add(step)
            known = step
    return found


def _is_plain(prefix: str) -> bool:
    """Whether no one on the way to the service will take the path for another one."""
    parts = prefix.split("/") if prefix else []
    return prefix.isprintable() and all(part.strip(".") for part in parts)


def _seconds(name: str, text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 3600:
            return float(text)
    raise InvalidURL(f"{name} is a number of seconds, above 0 and at most 3600, not {text!r}")


def _count(name: str, text: str, most: int) -> int:
    with suppress(ValueError):
        if 1 <= int(text) <= most:
            return int(text)
    raise InvalidURL(f"{name} is a number from 1 to {most}, not {text!r}")


codecs.lookup("idna")  # or the first connection would import it, and a child that is forked meanwhile never could
os.register_at_fork(
    before=S3Backend._before_fork,  # pyright: ignore[reportPrivateUsage]
    after_in_parent=S3Backend._after_fork_in_parent,  # pyright: ignore[reportPrivateUsage]
    after_in_child=S3Backend._after_fork_in_child,  # pyright: ignore[reportPrivateUsage]
)
