"""The objects of one bucket: created, read, removed, listed through boto3, each request repeated while that may help.

The SDK's own retries are off: they would repeat a conditional PUT whose answer was lost, and report its second answer,
that the object exists, as if somebody else had made it.
"""

# ruff: noqa: SLF001 - what is done around a fork is done to all buckets at once

import base64
import codecs
import hashlib
import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.loaders import Loader, create_loader

from durable_store.errors import InvalidURL, StoreUnavailable
from durable_store_backends.s3_advice import cause, reason
from durable_store_backends.s3_errors import (
    ERRORS,
    answer,
    end_of_redirects,
    from_s3,
    may_be_done,
    may_pass,
    no_content,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef as Page

T = TypeVar("T")

MOST_NAMES = 1000
"""The most that S3 gives in one page of a listing, and removes by one request."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds; each wait is a random part of it, doubled from one to the next
_SENT_AT_ONCE = 64 * 1024  # bytes; a refusal of a larger body may close the connection while it is on its way
# Services without DeleteObjects, and those that want it with another checksum than the SDK sends.
_NO_DELETE_OBJECTS = {"NotImplemented", "MethodNotAllowed", "MalformedXML", "InvalidRequest", "MissingContentMD5"}


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client is made with, beside the credentials: those come from the SDK's usual places."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing_style: str = "auto"
    connect_timeout: float = 5
    read_timeout: float = 30
    max_attempts: int = 6
    pool: int = 32

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and not re.fullmatch(r"https?://[^/?#@\s]+/?", self.endpoint_url):
            raise InvalidURL("endpoint_url is like https://host:port, without a path, a user or a password")
        if self.addressing_style not in ("auto", "path", "virtual"):
            raise InvalidURL(f"addressing_style is auto, path or virtual, not {self.addressing_style!r}")
        for name, most in (("connect_timeout", 3600), ("read_timeout", 3600)):
            if not 0 < getattr(self, name) <= most:
                raise InvalidURL(f"{name} is a number of seconds, above 0 and at most {most}")
        for name, most in (("max_attempts", 100), ("pool", 1000)):
            if not 1 <= getattr(self, name) <= most:
                raise InvalidURL(f"{name} is a whole number from 1 to {most}")

    def client(self) -> "S3Client":
        """A new client, with connections of its own. Raises BotoCoreError, ValueError."""
        s3: Any = {"addressing_style": self.addressing_style}
        config = Config(
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            max_pool_connections=self.pool,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3=s3,
            # Several compatible services refuse the checksums that the SDK would add; `_put` names what each can check.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # The SDK would put one together, twice for each request, of parts that never change (docs/notes/0004).
            user_agent=f"durable-store Boto3/{boto3.__version__}",
        )
        core = botocore.session.Session()
        core.register_component("data_loader", _loader())  # pyright: ignore[reportUnknownMemberType]
        session: Any = boto3.session.Session(botocore_session=core, profile_name=self.profile, region_name=self.region)
        client: S3Client = session.client("s3", endpoint_url=self.endpoint_url, config=config)
        client.meta.events.register_last("before-call.s3", _send_at_once)
        return client


class Bucket:
    """Objects by their names. Threads share one client; a forked child makes one of its own.

    Every error is StoreUnavailable, and says where: `where` is the bucket as people are told about it. A client that is
    handed in stays its owner's, and of no use in a forked child.
    """

    _everyone: ClassVar["weakref.WeakSet[Bucket]"] = weakref.WeakSet()
    _connecting: ClassVar = threading.RLock()  # re-entrant: a signal handler may fork
    _of_parents: ClassVar[list["S3Client | None"]] = []

    def __init__(
        self,
        name: str,
        where: str,
        client: "S3Client | None",
        connection: Connection,
        *,
        encryption: dict[str, str],
    ) -> None:
        self.name = name
        self._where = where
        self._client = client and _without_endless_redirects(client)
        self._owns_client = client is None
        self._connection = connection
        self._encryption: Any = encryption
        self._over = ""  # why no request can be sent any more
        self._removes_many = True
        self._everyone.add(self)

    def client(self, doing: str) -> "S3Client":
        """This process's client, made when it is first needed."""
        client = self._client
        if client is None:
            with self._connecting:  # an SDK session is not made by two threads at once
                self._refuse_when_over(doing)
                try:
                    client = self._client = self._client or _without_endless_redirects(self._connection.client())
                except ERRORS as err:
                    raise self._unavailable(doing, err) from cause(err)
        self._refuse_when_over(doing)
        return client

    def create(self, name: str, content: bytes) -> bool:
        """Creates an object, by the same bytes at each attempt; False when there is one, which may be ours.

        Raises:
            StoreUnavailable: with `maybe_saved` if it may have been created, or may still be.
        """
        return self._send("save to", partial(self._put, name, content), saving=True)

    def read(self, name: str, *, first: int | None = None, attempts: int | None = None) -> bytes | None:
        """The content of an object, or with `first` at least so many leading bytes of it; None when there is none."""
        return self._send("read", partial(self._get, name, first), attempts=attempts)

    def remove(self, names: list[str], *, attempts: int | None = None) -> None:
        """Removes objects, batch by batch in the order given; raises what could not be removed."""
        for start in range(0, len(names), MOST_NAMES):
            batch = names[start : start + MOST_NAMES]
            if len(batch) > 1 and self._removes_many:
                self._removes_many = self._send("remove from", partial(self._delete_many, batch))
            if len(batch) == 1 or not self._removes_many:
                for name in batch:
                    self._send("remove from", partial(self._delete, name), attempts=attempts)

    def pages(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        first_page: int = MOST_NAMES,
        go_on_after: Callable[["Page"], str | None] = lambda _: None,
    ) -> Iterator["Page"]:
        """The pages of a listing; `go_on_after` may name, for a page, where behind its end the next one begins."""
        request: Any = {"Bucket": self.name, "Prefix": prefix, "MaxKeys": first_page}
        if delimiter:
            request["Delimiter"] = delimiter
        while True:
            page = self._send("list", lambda s3: from_s3(s3.list_objects_v2(**request), "KeyCount", "IsTruncated"))
            names = [item.get("Key", "") for item in page.get("Contents", [])]
            names += [found.get("Prefix", "") for found in page.get("CommonPrefixes", [])]
            foreign = next((name for name in names if not name.startswith(prefix)), None)
            if foreign is not None:  # passed over, it would be read as nothing there
                asked = f"asked for names that begin with {prefix!r}, the service gives {foreign!r}"
                raise StoreUnavailable(f"cannot list {self._where}: {asked}")
            yield page
            if not page.get("IsTruncated"):
                return
            after, token = go_on_after(page), page.get("NextContinuationToken")
            if not after and not token:
                raise StoreUnavailable(f"cannot list {self._where}: the service does not say how the listing goes on")
            for option in ("StartAfter", "ContinuationToken"):
                request.pop(option, None)
            request.update({"StartAfter": after} if after else {"ContinuationToken": token}, MaxKeys=MOST_NAMES)

    def close(self) -> None:
        """Lets go of the connections; from then on every request is StoreUnavailable."""
        with self._connecting:
            self._over = self._over or "it is closed"
            client, self._client = self._client, None
        if client is not None and self._owns_client:
            client.close()

    def _put(self, name: str, content: bytes, s3: "S3Client") -> bool:
        checked: Any = {"ChecksumAlgorithm": "CRC32"} if _is_aws(s3) else {"ContentMD5": _md5(content)}
        try:
            done = s3.put_object(
                Bucket=self.name, Key=name, Body=content, IfNoneMatch="*", **checked, **self._encryption
            )
        except ClientError as err:
            if answer(err)[0] == 412:
                return False
            raise
        from_s3(done, "ETag")
        return True

    def _get(self, name: str, first: int | None, s3: "S3Client") -> bytes | None:
        part: Any = {} if first is None else {"Range": f"bytes=0-{max(first - 1, 0)}"}
        checked: Any = {"ChecksumMode": "ENABLED"} if _is_aws(s3) else {}
        try:
            found = s3.get_object(Bucket=self.name, Key=name, **part, **checked)
            content = found["Body"].read()  # first of all: whatever is left unread keeps its connection
        except ClientError as err:
            match answer(err):
                case 404, "NoSuchKey":  # and nothing else: not a missing bucket, not another kind of server
                    return None
                case 416, _:  # a part of nothing: the object is empty
                    return b""
                case _:
                    raise
        from_s3(found, "ETag")
        return content

    def _delete(self, name: str, s3: "S3Client") -> None:
        try:
            done = s3.delete_object(Bucket=self.name, Key=name)
        except ClientError as err:
            if answer(err) != (404, "NoSuchKey"):
                raise
        else:
            no_content(done)

    def _delete_many(self, names: list[str], s3: "S3Client") -> bool:
        """False when the service does not do this."""
        objects: Any = [{"Key": name} for name in names]
        try:
            done = s3.delete_objects(Bucket=self.name, Delete={"Objects": objects})
        except ClientError as err:
            status, code = answer(err)
            if status in (405, 501) or code in _NO_DELETE_OBJECTS:
                return False
            raise
        from_s3(done, "Deleted", "Errors")
        failed = [error for error in done.get("Errors", []) if error.get("Code") != "NoSuchKey"]
        if failed:  # in an answer of status 200
            said = f"{len(failed)} of {len(names)} records were not removed: {failed[0].get('Message', '')}"
            raise ClientError({"Error": {"Code": failed[0].get("Code", ""), "Message": said}}, "DeleteObjects")
        return True

    def _send(
        self, doing: str, request: Callable[["S3Client"], T], *, attempts: int | None = None, saving: bool = False
    ) -> T:
        """What a request gives, repeated while that may help."""
        s3 = self.client(doing)
        maybe_done = False
        for attempt in count(1):
            self._refuse_when_over(doing, maybe_saved=saving and maybe_done)
            try:
                return request(s3)
            except ERRORS as err:
                maybe_done = maybe_done or may_be_done(err) or self._may_be_repeated(err)
                if self._owns_client and isinstance(err, NoCredentialsError):
                    self._client = None  # which would never look for them again
                if attempt >= (attempts or self._connection.max_attempts) or not may_pass(err):
                    raise self._unavailable(doing, err, maybe_saved=saving and maybe_done) from cause(err)
                logging.getLogger("durable_store").info(
                    "tried again: cannot %s %s: %s", doing, self._where, reason(err)
                )
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
            time.sleep(random.uniform(0, longest))  # noqa: S311 - spreads the load, guards nothing
        raise AssertionError

    def _may_be_repeated(self, err: BaseException) -> bool:
        """Whether a client that is not ours may have sent a request before the one that this error tells about."""
        if self._owns_client:
            return False
        metadata: Any = err.response.get("ResponseMetadata", {}) if isinstance(err, ClientError) else {}
        return bool(metadata.get("RetryAttempts", 1))

    def _refuse_when_over(self, doing: str, *, maybe_saved: bool = False) -> None:
        if self._over:
            raise StoreUnavailable(f"cannot {doing} {self._where}: {self._over}", maybe_saved=maybe_saved)

    def _unavailable(self, doing: str, err: BaseException, *, maybe_saved: bool = False) -> StoreUnavailable:
        return StoreUnavailable(f"cannot {doing} {self._where}: {reason(err)}", maybe_saved=maybe_saved)

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
        for bucket in cls._everyone:
            if bucket._owns_client:
                cls._of_parents.append(bucket._client)  # or the garbage collector would close it, and take its locks
                bucket._client = None
            else:
                bucket._over = bucket._over or (
                    "its client was handed in, and belongs to the process that made it: make another in this one"
                )


@cache
def _loader() -> Loader:
    """The SDK's models of S3, read once in a process: a tenth of a second; the rest of a client takes 10 ms."""
    return create_loader()


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """A handler of `before-call.s3`: small bodies are sent without waiting for the service's go-ahead, a round trip."""
    body = params.get("body")
    if isinstance(body, BytesIO) and body.getbuffer().nbytes <= _SENT_AT_ONCE:
        params["headers"].pop("Expect", None)


def _without_endless_redirects(client: "S3Client") -> "S3Client":
    client.meta.events.register_first("needs-retry.s3.HeadBucket", end_of_redirects, "durable_store")
    return client


def _md5(content: bytes) -> str:
    """The oldest check of S3, which services know that refuse the newer ones.

    Without it SeaweedFS 4.48 makes an empty object of a request that ends behind its head, as a kill can end it.
    """
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _is_aws(s3: "S3Client") -> bool:
    return ".amazonaws." in s3.meta.endpoint_url


codecs.lookup("idna")  # or the first connection would import it, and a child that is forked meanwhile never could
os.register_at_fork(
    before=Bucket._before_fork,  # pyright: ignore[reportPrivateUsage]
    after_in_parent=Bucket._after_fork_in_parent,  # pyright: ignore[reportPrivateUsage]
    after_in_child=Bucket._after_fork_in_child,  # pyright: ignore[reportPrivateUsage]
)
