"""What only the S3 backend promises, while faults befall single requests; the rest is in the exam."""

import base64
import hashlib
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from urllib3 import HTTPResponse

from durable_store import CheckpointConflict, CheckpointKey, InvalidURL, Store, StoreUnavailable, open_store
from durable_store.key import MAX_EPISODE, MAX_STEP, object_name, storage_path
from durable_store_backends import s3_bucket
from durable_store_backends.s3 import S3Backend
from tests.fault_proxy import (
    Answer,
    AnswerAfter,
    CutRequest,
    CutResponse,
    Delay,
    Fault,
    FaultProxy,
    Kind,
    Late,
    Line,
    LostAnswer,
    Meeting,
    Plan,
    Request,
    Rewrite,
    Stall,
    Strip,
    Twice,
)
from tests.servers import BUCKET, REGION, Server, credentials, s3_client

sdk: Any = boto3  # its stubs know a client only by the name of its service
KEY = CheckpointKey("g-42", 0, "orchestrator-0")
DIRECTORY_BUCKET = "x--use1-az4--x-s3"

INTERNAL_ERROR = Answer(500, "InternalError")
SLOW_DOWN = Answer(503, "SlowDown")
UNDECIDED = Answer(409, "ConditionalRequestConflict")
DENIED = Answer(403, "AccessDenied")
DONE_ALL_THE_SAME = AnswerAfter(500, "InternalError")

FAULTS = [
    # after the record was created
    LostAnswer(),
    DONE_ALL_THE_SAME,
    AnswerAfter(503, "SlowDown"),
    Twice(),
    CutResponse(),
    # before, or never
    INTERNAL_ERROR,
    SLOW_DOWN,
    UNDECIDED,
    Answer(409, "OperationAborted"),
    Answer(429, "TooManyRequests"),
    Answer(400, "RequestTimeout"),
    CutRequest(),
    Late(0.02),
]


@dataclass(frozen=True)
class Meanwhile(Fault):
    """This is done first; then the request goes on, or to its fault."""

    action: Callable[[], object]
    fault: Fault | None = None

    def befall(self, line: Line) -> None:
        self.action()
        if self.fault:
            self.fault.befall(line)
        else:
            line.answer(line.forward())


@dataclass(frozen=True)
class Held(Fault):
    """The client's connection is reset at once; the request reaches the server when a test lets it."""

    until: threading.Event

    def befall(self, line: Line) -> None:
        line.reset()
        self.until.wait(10)
        line.forward()


def told(fault: object) -> str:
    """A fault in the name of a test."""
    return f"{type(fault).__name__}-{fault.code}" if isinstance(fault, Answer) else type(fault).__name__


class Objects:
    """The objects below a prefix, without any of our code."""

    def __init__(self, client: Any, prefix: str, bucket: str = BUCKET) -> None:
        self.client = client
        self.prefix = prefix
        self.bucket = bucket

    def put(self, name: str, content: bytes = b"") -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return [item["Key"].removeprefix(f"{self.prefix}/") for page in pages for item in page.get("Contents", [])]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts."""
    monkeypatch.setattr(s3_bucket, "_FIRST_WAIT", 0.001)


@pytest.fixture
def proxy(moto_server: Server) -> Generator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
def backend(proxy: FaultProxy, prefix: str) -> Iterator[S3Backend]:
    """Behind the proxy, and past its probe."""
    backend = behind(proxy, prefix)
    backend._make_sure_of_conditions()
    proxy.forget()
    yield backend
    backend.close()


@pytest.fixture
def direct(moto_server: Server, prefix: str) -> Iterator[S3Backend]:
    """The same records, past the proxy."""
    backend = behind(moto_server, prefix)
    yield backend
    backend.close()


@pytest.fixture
def objects(moto_server: Server, prefix: str) -> Objects:
    return Objects(s3_client(moto_server.endpoint), prefix)


def behind(place: FaultProxy | Server, prefix: str, **options: str) -> S3Backend:
    """A backend with three attempts for a request."""
    backend = open_store(place.url(prefix, **{"max_attempts": "3", **options})).backend
    assert isinstance(backend, S3Backend)
    return backend


def name_of(step: int, key: CheckpointKey = KEY) -> str:
    """Where a record lies below the prefix."""
    return f"{storage_path(key)}/{object_name(step)}"


def every(kind: Kind, fault: Fault) -> Plan:
    return lambda request: fault if request.kind == kind else None


def no_fault(_: Request) -> None: ...


def kinds(proxy: FaultProxy) -> list[Kind]:
    return [request.kind for request in proxy.requests]


def impatient_of_pages(endpoint: str, most: int, **options: Any) -> Any:
    """A client that is given pages of so few names: a service may give fewer than it is asked for."""

    def shorten(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = min(most, params.get("MaxKeys", most))

    s3: Any = {"addressing_style": "path", **options}
    config = Config(retries={"total_max_attempts": 1}, s3=s3)
    client: Any = sdk.client("s3", endpoint_url=endpoint, region_name=REGION, config=config)
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", shorten)
    return client


# A conditional create while a fault befalls it


@pytest.mark.parametrize("fault", FAULTS, ids=told)
def test_a_save_under_a_fault_is_ours_and_no_conflict(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    proxy.next("PUT", fault)
    assert backend.save(KEY, 0, b"ours") == b"ours"
    proxy.settle()
    assert direct.latest(KEY) == (0, b"ours")


@pytest.mark.parametrize("fault", FAULTS, ids=told)
def test_a_save_under_a_fault_gives_back_the_record_of_another_writer(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    direct.save(KEY, 0, b"theirs")
    proxy.next("PUT", fault)
    assert backend.save(KEY, 0, b"ours") == b"theirs"
    proxy.settle()
    assert direct.latest(KEY) == (0, b"theirs")


def test_a_record_that_another_writer_creates_between_two_attempts_is_given_back(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    proxy.next("PUT", SLOW_DOWN, Meanwhile(lambda: direct.save(KEY, 0, b"theirs")))
    assert backend.save(KEY, 0, b"ours") == b"theirs"
    assert kinds(proxy) == ["PUT", "PUT", "GET"]


def test_a_stalled_save_is_repeated_and_ours(proxy: FaultProxy, backend: S3Backend, prefix: str) -> None:
    impatient = behind(proxy, prefix, read_timeout="0.3", max_attempts="10")  # probed by the other
    proxy.next("PUT", Stall())
    assert impatient.save(KEY, 0, b"ours") == b"ours"
    assert backend.latest(KEY) == (0, b"ours")
    impatient.close()


def test_every_attempt_is_conditional_and_sends_the_same_bytes(
    proxy: FaultProxy, prefix: str, direct: S3Backend
) -> None:
    sent: list[bytes] = []

    def take_down(request: Any, **_: object) -> None:
        sent.append(request.body.read())
        request.body.seek(0)

    client = s3_client(proxy.endpoint)
    backend = S3Backend(client=client, bucket=BUCKET, prefix=prefix)
    backend.save(KEY, 0, b"zero")
    proxy.forget()
    client.meta.events.register("before-send.s3.PutObject", take_down)
    proxy.next("PUT", SLOW_DOWN, UNDECIDED, CutRequest(), LostAnswer())
    record = os.urandom(70_000)
    assert backend.save(KEY, 1, record) == record
    assert sent == [record] * 5
    assert [request.headers["if-none-match"] for request in proxy.requests[:-1]] == ["*"] * 5
    assert kinds(proxy) == ["PUT"] * 5 + ["GET"]
    assert direct.load(KEY, 1) == record


def test_the_bases_of_a_delta_are_fetched_at_the_same_time(proxy: FaultProxy, backend: S3Backend) -> None:
    records = [backend.save(KEY, step, b"%d" % step) for step in range(8)]
    proxy.next("GET", *[Meeting(threading.Barrier(8))] * 8)
    assert backend.load_all(KEY, range(8)) == records
    assert proxy.count()["GET"] == 8
    assert backend.load_all(KEY, [8, 0]) == [None, records[0]]


def test_up_to_64_kib_are_sent_at_once_and_more_when_the_service_says_so(proxy: FaultProxy, backend: S3Backend) -> None:
    """The go-ahead is a round trip; what is refused without it may break the connection on its way."""
    backend.save(KEY, 0, bytes(64 * 1024))
    backend.save(KEY, 1, bytes(64 * 1024 + 1))
    assert [request.headers.get("expect") for request in proxy.requests] == [None, "100-continue"]


def test_waits_between_attempts_are_random_and_grow_to_five_seconds(
    proxy: FaultProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.undo()
    monkeypatch.setattr(time, "sleep", waits.append)
    backend = behind(proxy, prefix, max_attempts="40")
    proxy.plan = every("PUT", UNDECIDED)
    with pytest.raises(StoreUnavailable):
        backend.save(KEY, 0, b"ours")
    longest = [min(5.0, 0.2 * 2**n) for n in range(39)]
    assert all(0 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) == 39
    assert min(waits[5:]) < 2.5 < max(waits)
    backend.close()


@pytest.mark.parametrize("size", [7, 5000, 300_000])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_of_a_request_that_is_cut_off_nothing_is_kept(
    request: pytest.FixtureRequest, server: str, share: float, size: int, prefix: str
) -> None:
    """As by the kill of a process that saves. What came would be taken for the record, for good."""
    with FaultProxy(request.getfixturevalue(server).endpoint) as proxy:
        backend = behind(proxy, prefix, max_attempts="1")
        backend.save(KEY, 0, b"zero")
        proxy.next("PUT", CutRequest(share))
        with pytest.raises(StoreUnavailable) as error:
            backend.save(KEY, 1, os.urandom(size))
        assert error.value.maybe_saved
        time.sleep(0.1)  # SeaweedFS has not stored it yet when the connection ends, if it stores it
        assert backend.latest(KEY) == (0, b"zero")
        assert backend.save(KEY, 1, b"one") == b"one"
        backend.close()


# When no attempt succeeds


def test_an_undecided_conflict_at_every_attempt_is_unavailable_and_nothing_was_saved(
    proxy: FaultProxy, backend: S3Backend, objects: Objects
) -> None:
    proxy.plan = every("PUT", UNDECIDED)
    with pytest.raises(StoreUnavailable, match="ConditionalRequestConflict") as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert kinds(proxy) == ["PUT"] * 3
    assert objects.names() == []


@pytest.mark.parametrize("fault", [SLOW_DOWN, INTERNAL_ERROR], ids=told)
def test_a_server_error_at_every_attempt_may_be_saved(proxy: FaultProxy, backend: S3Backend, fault: Fault) -> None:
    """It looks the same when a gateway has lost the answer of a server that did what it was asked."""
    proxy.plan = every("PUT", fault)
    with pytest.raises(StoreUnavailable, match=r"too busy|failed|InternalError") as caught:
        backend.save(KEY, 0, b"ours")
    assert caught.value.maybe_saved
    assert kinds(proxy) == ["PUT"] * 3 + ["GET"]


def test_a_service_that_answers_nothing_keeps_a_save_busy_for_its_attempts_and_one_look(
    proxy: FaultProxy, backend: S3Backend, prefix: str
) -> None:
    impatient = behind(proxy, prefix, read_timeout="0.2", max_attempts="2")  # probed by the other
    proxy.plan = lambda _: Stall()
    with pytest.raises(StoreUnavailable, match="no answer in time") as caught:
        impatient.save(KEY, 0, b"ours")
    assert caught.value.maybe_saved
    assert isinstance(caught.value.__cause__, ReadTimeoutError)
    assert kinds(proxy) == ["PUT", "PUT", "GET"]
    proxy.plan = no_fault
    assert backend.steps(KEY) == []
    impatient.close()


def test_a_service_that_answers_nothing_keeps_a_probe_busy_no_longer(proxy: FaultProxy, prefix: str) -> None:
    backend = behind(proxy, prefix, read_timeout="0.2", max_attempts="2")
    proxy.plan = lambda _: Stall()
    with pytest.raises(StoreUnavailable, match="no answer in time") as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert kinds(proxy) == ["PUT", "PUT", "DELETE"]
    backend.close()


def test_a_save_that_is_under_way_ends_when_its_store_is_closed(
    proxy: FaultProxy, backend: S3Backend, prefix: str
) -> None:
    patient = behind(proxy, prefix, max_attempts="10")  # probed by the other
    proxy.next("PUT", INTERNAL_ERROR, Meanwhile(patient.close, INTERNAL_ERROR))
    proxy.plan = every("PUT", INTERNAL_ERROR)
    with pytest.raises(StoreUnavailable, match="closed") as caught:
        patient.save(KEY, 0, b"ours")
    assert backend.steps(KEY) == []
    assert caught.value.maybe_saved
    assert kinds(proxy) == ["PUT", "PUT", "LIST"]


@pytest.mark.parametrize("fault", [LostAnswer(), DONE_ALL_THE_SAME], ids=told)
def test_a_save_whose_every_answer_is_lost_is_found_by_a_look_at_what_is_there(
    proxy: FaultProxy, backend: S3Backend, fault: Fault
) -> None:
    proxy.plan = every("PUT", fault)
    assert backend.save(KEY, 0, b"ours") == b"ours"
    assert kinds(proxy) == ["PUT"] * 3 + ["GET"]


def test_a_save_that_lands_after_its_last_attempt_may_be_saved(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    go_on = threading.Event()
    proxy.plan = every("PUT", Held(go_on))
    with pytest.raises(StoreUnavailable) as caught:
        backend.save(KEY, 0, b"ours")
    assert caught.value.maybe_saved
    assert direct.load(KEY, 0) is None
    go_on.set()
    proxy.settle()
    assert direct.load(KEY, 0) == b"ours"
    proxy.plan = no_fault
    assert backend.save(KEY, 0, b"ours") == b"ours"


def test_a_refused_connection_is_unavailable_and_nothing_was_saved(moto_server: Server, prefix: str) -> None:
    with FaultProxy(moto_server.endpoint) as proxy:
        backend = behind(proxy, prefix)
        backend.save(KEY, 0, b"zero")
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        backend.save(KEY, 1, b"ours")
    assert not caught.value.maybe_saved
    assert isinstance(caught.value.__cause__, EndpointConnectionError)
    backend.close()


def test_a_save_that_is_denied_is_not_repeated_and_nothing_was_saved(proxy: FaultProxy, backend: S3Backend) -> None:
    proxy.plan = every("PUT", DENIED)
    with pytest.raises(StoreUnavailable, match="access denied") as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert kinds(proxy) == ["PUT"]


def test_a_denial_does_not_undo_an_earlier_attempt_whose_answer_was_lost(proxy: FaultProxy, backend: S3Backend) -> None:
    proxy.next("PUT", LostAnswer(), DENIED)
    proxy.plan = every("GET", DENIED)
    with pytest.raises(StoreUnavailable, match="access denied") as caught:
        backend.save(KEY, 0, b"ours")
    assert caught.value.maybe_saved


def test_a_lost_answer_is_not_hidden_by_the_retries_of_a_client_that_was_handed_in(
    proxy: FaultProxy, prefix: str, direct: S3Backend
) -> None:
    """Such a client repeats by itself, and tells only of its last attempt."""
    client: Any = sdk.client("s3", endpoint_url=proxy.endpoint, region_name=REGION)
    backend = S3Backend(client=client, bucket=BUCKET, prefix=prefix)
    backend.save(KEY, 0, b"zero")
    proxy.next("PUT", LostAnswer(), DENIED)
    proxy.next("GET", DENIED)
    with pytest.raises(StoreUnavailable, match="access denied") as caught:
        backend.save(KEY, 1, b"ours")
    assert direct.load(KEY, 1) == b"ours"
    assert caught.value.maybe_saved
    assert backend.save(KEY, 1, b"ours") == b"ours"
    client.close()


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, DENIED, LostAnswer()], ids=told)
def test_a_taken_step_that_cannot_be_read_back_may_be_ours(proxy: FaultProxy, backend: S3Backend, fault: Fault) -> None:
    proxy.next("PUT", LostAnswer())
    proxy.plan = every("GET", fault)
    with pytest.raises(StoreUnavailable) as caught:
        backend.save(KEY, 0, b"ours")
    assert caught.value.maybe_saved
    proxy.plan = no_fault
    assert backend.save(KEY, 0, b"ours") == b"ours"


# Taken, and pruned by its owner since


def test_a_record_that_was_taken_and_then_pruned_by_its_owner_is_a_conflict(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    direct.save(KEY, 0, b"theirs")
    proxy.next("GET", Meanwhile(lambda: direct.prune(KEY, [0])))
    with pytest.raises(CheckpointConflict, match="step 0 was taken, and its owner has pruned it since"):
        backend.save(KEY, 0, b"ours")
    assert kinds(proxy) == ["PUT", "GET"]
    assert direct.steps(KEY) == []


def test_a_store_that_saves_what_was_taken_and_then_pruned_says_conflict(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    Store(direct).save(KEY, 0, "theirs")
    proxy.next("GET", Meanwhile(lambda: direct.prune(KEY, [0])))
    with pytest.raises(CheckpointConflict, match="was taken"):
        Store(backend).save(KEY, 0, "ours")


def test_a_run_whose_step_was_taken_and_then_pruned_is_refused_and_stays_refused(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    owner = Store(direct).resume("g-42", "orchestrator-0", keep=1)
    for step in range(3):
        owner.commit(step)
    newcomer = Store(backend).resume("g-42", "orchestrator-0", keep=1)
    owner.commit(3)
    # Between the newcomer's PUT of step 3 and its look at what is there, the owner goes on and prunes step 3.
    proxy.next("GET", Meanwhile(lambda: owner.commit(4)))
    with pytest.raises(CheckpointConflict, match="step 3 was taken"):
        newcomer.commit("ours")
    proxy.forget()
    for _ in range(2):
        with pytest.raises(CheckpointConflict, match="step 3 was taken"):
            newcomer.commit("ours")
    assert kinds(proxy) == []
    assert direct.steps(KEY) == [4, 0]
    assert owner.commit(5) == 5


# A run


def test_commits_whose_answers_are_lost_just_return_their_steps(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    run = Store(backend).resume("g-42", "orchestrator-0", keep=None)
    for step, fault in enumerate(FAULTS):
        proxy.next("PUT", fault)
        assert run.commit(step) == step
    proxy.settle()
    history = Store(direct).history(KEY)
    assert [info.step for info in history] == [*reversed(range(len(FAULTS)))]
    assert {info.writer for info in history} == {run.writer}


@pytest.mark.parametrize("fault", [DONE_ALL_THE_SAME, INTERNAL_ERROR], ids=["saved", "not-saved"])
def test_after_an_unknown_outcome_the_same_commit_just_returns_its_step(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    run = Store(backend).resume("g-42", "orchestrator-0")
    run.commit("zero")
    proxy.plan = lambda request: fault if request.kind == "PUT" else INTERNAL_ERROR
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            run.commit("one")
        assert caught.value.maybe_saved
    proxy.plan = no_fault
    assert run.commit("one") == 1
    assert run.commit("two") == 2
    assert [Store(direct).load(KEY, step).state for step in direct.steps(KEY)] == ["two", "one", "zero"]


@pytest.mark.parametrize("fault", [DONE_ALL_THE_SAME, INTERNAL_ERROR], ids=["saved", "not-saved"])
def test_after_an_unknown_outcome_another_commit_settles_it_first(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    run = Store(backend).resume("g-42", "orchestrator-0")
    run.commit("zero")
    proxy.plan = lambda request: fault if request.kind == "PUT" else INTERNAL_ERROR
    with pytest.raises(StoreUnavailable):
        run.commit("one")
    proxy.plan = no_fault
    assert run.commit("two") == 2
    assert [Store(direct).load(KEY, step).state for step in direct.steps(KEY)] == ["two", "one", "zero"]


# The probe


def test_a_service_that_ignores_the_condition_is_refused_with_an_explanation(
    proxy: FaultProxy, prefix: str, objects: Objects
) -> None:
    backend = behind(proxy, prefix)
    proxy.plan = every("PUT", Strip("if-none-match"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"has no conditional PUT .*: use another service") as caught:
            backend.save(KEY, 0, b"ours")
        assert not caught.value.maybe_saved
        assert f"s3://{BUCKET}/{prefix}" in str(caught.value)
    assert objects.names() == []
    backend.close()


def test_a_service_without_conditional_puts_is_refused_with_an_explanation(
    proxy: FaultProxy, prefix: str, objects: Objects
) -> None:
    backend = behind(proxy, prefix)
    proxy.plan = every("PUT", Answer(501, "NotImplemented"))
    with pytest.raises(StoreUnavailable, match="has no conditional PUT") as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert kinds(proxy) == ["PUT"]
    assert objects.names() == []
    backend.close()


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, SLOW_DOWN, DONE_ALL_THE_SAME, DENIED], ids=told)
@pytest.mark.parametrize("which", ["first", "second"])
def test_an_error_during_the_probe_says_nothing_about_the_service_and_the_next_save_probes_again(
    proxy: FaultProxy, prefix: str, objects: Objects, which: str, fault: Fault
) -> None:
    backend = behind(proxy, prefix)
    proxy.next("PUT", *([None] if which == "second" else []), fault, fault, fault)
    with pytest.raises(StoreUnavailable) as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert "conditional" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert objects.names() == []
    proxy._next.clear()
    proxy.forget()
    assert backend.save(KEY, 0, b"ours") == b"ours"
    assert kinds(proxy) == ["PUT", "PUT", "GET", "DELETE", "PUT"]
    backend.close()


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        ("PUT", [LostAnswer()]),
        ("PUT", [None, LostAnswer()]),
        ("PUT", [DONE_ALL_THE_SAME, LostAnswer(), DONE_ALL_THE_SAME]),
        ("GET", [LostAnswer(), CutResponse()]),
        ("DELETE", [LostAnswer(), INTERNAL_ERROR]),
    ],
    ids=["first-put", "second-put", "puts", "get", "delete"],
)
def test_a_probe_whose_answers_are_lost_leaves_nothing_behind(
    proxy: FaultProxy, prefix: str, objects: Objects, kind: Kind, faults: list[Fault | None]
) -> None:
    backend = behind(proxy, prefix, max_attempts="4")
    proxy.next(kind, *faults)
    assert backend.save(KEY, 0, b"ours") == b"ours"
    assert objects.names() == [name_of(0)]
    backend.close()


def test_a_probe_whose_every_answer_is_lost_leaves_nothing_behind(
    proxy: FaultProxy, prefix: str, objects: Objects
) -> None:
    backend = behind(proxy, prefix)
    proxy.plan = every("PUT", LostAnswer())
    with pytest.raises(StoreUnavailable) as caught:
        backend.save(KEY, 0, b"ours")
    assert not caught.value.maybe_saved
    assert objects.names() == []
    backend.close()


def test_what_a_probe_cannot_remove_is_named_and_stops_no_save(
    proxy: FaultProxy, prefix: str, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    backend = behind(proxy, prefix)
    proxy.plan = every("DELETE", DENIED)
    with caplog.at_level(logging.WARNING, "durable_store"):
        assert backend.save(KEY, 0, b"ours") == b"ours"
    [left] = set(objects.names()) - {name_of(0)}
    assert left in caplog.text
    backend.close()


def test_a_process_probes_once_for_each_bucket_and_prefix(proxy: FaultProxy, prefix: str, objects: Objects) -> None:
    backends = [behind(proxy, prefix), behind(proxy, prefix)]
    proxy.next("PUT", Delay(0.1))
    together = threading.Barrier(8)

    def save(number: int) -> bytes:
        together.wait()
        return backends[number % 2].save(CheckpointKey("g", number, "c"), 0, b"ours")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(save, range(8))) == [b"ours"] * 8
    assert proxy.count() == {"PUT": 2 + 8, "GET": 1, "DELETE": 1}
    assert len(objects.names()) == 8
    for each in backends:
        each.save(KEY, 0, b"ours")
    assert proxy.count() == {"PUT": 2 + 8 + 2, "GET": 2, "DELETE": 1}
    elsewhere = behind(proxy, f"{prefix}-2")
    elsewhere.save(KEY, 0, b"ours")
    assert proxy.count() == {"PUT": 2 + 8 + 2 + 3, "GET": 3, "DELETE": 2}
    for each in (*backends, elsewhere):
        each.close()


def test_threads_that_wait_for_a_probe_share_its_failure(proxy: FaultProxy, prefix: str) -> None:
    backend = behind(proxy, prefix)
    has_come = threading.Semaphore(0)

    def save(number: int) -> bytes:
        has_come.release()
        return backend.save(CheckpointKey("g", number, "c"), 0, b"ours")

    with ThreadPoolExecutor(7) as others:
        saves: list[Future[bytes]] = []

        def let_the_others_come() -> None:
            saves.extend(others.submit(save, number) for number in range(7))
            for _ in saves:
                has_come.acquire()

        proxy.next("PUT", Meanwhile(let_the_others_come, SLOW_DOWN))
        proxy.plan = every("PUT", SLOW_DOWN)
        with pytest.raises(StoreUnavailable):
            backend.save(KEY, 0, b"ours")
    for each in saves:
        error = each.exception()
        assert isinstance(error, StoreUnavailable)
        assert not error.maybe_saved
    assert proxy.count()["PUT"] <= 2 * 3, "one probe, and one more if a thread was so slow as to come after it"
    backend.close()


def test_a_read_never_probes_and_writes_nothing(proxy: FaultProxy, prefix: str, objects: Objects) -> None:
    backend = behind(proxy, prefix)
    assert backend.latest(KEY) is None
    assert backend.load(KEY, 0) is None
    assert backend.load(KEY, 0, first=10) is None
    assert backend.steps(KEY) == []
    assert list(backend.keys()) == list(backend.keys("g-42")) == []
    Store(backend).resume("g-42", "orchestrator-0")
    assert set(kinds(proxy)) == {"LIST", "GET"}
    backend.prune(KEY, [0])
    assert objects.names() == []
    backend.close()


# Reading


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, SLOW_DOWN, LostAnswer(), CutResponse()], ids=told)
def test_a_read_under_a_fault_is_repeated(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    direct.save(KEY, 0, b"x" * 5000)
    for kind in ("LIST", "GET"):
        proxy.next(kind, fault)
        assert backend.latest(KEY) == (0, b"x" * 5000)
        assert proxy.count()[kind] == 2
        proxy.forget()


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, LostAnswer(), CutResponse(), DENIED], ids=told)
def test_a_read_that_fails_is_unavailable_and_saved_nothing(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, fault: Fault
) -> None:
    direct.save(KEY, 0, b"zero")
    proxy.plan = lambda _: fault
    reads: list[Callable[[], object]] = [
        lambda: backend.latest(KEY),
        lambda: backend.load(KEY, 0),
        lambda: backend.steps(KEY),
        lambda: list(backend.keys()),
        lambda: list(backend.keys("g-42")),
    ]
    for read in reads:
        with pytest.raises(StoreUnavailable) as caught:
            read()
        assert not caught.value.maybe_saved
        assert caught.value.__cause__ is not None
        assert "\n" not in str(caught.value)


def test_a_missing_bucket_is_not_an_absent_record(moto_server: Server) -> None:
    backend = S3Backend(client=s3_client(moto_server.endpoint), bucket="no-such-bucket")
    reads: list[Callable[[], object]] = [
        lambda: backend.latest(KEY),
        lambda: backend.load(KEY, 0),
        lambda: list(backend.keys()),
    ]
    for read in reads:
        with pytest.raises(StoreUnavailable, match="there is no such bucket"):
            read()


def test_only_the_asked_part_of_a_record_is_loaded(proxy: FaultProxy, backend: S3Backend) -> None:
    record = os.urandom(5000)
    backend.save(KEY, 0, record)
    proxy.forget()
    assert backend.load(KEY, 0, first=100) == record[:100]
    assert backend.load(KEY, 0, first=10**9) == record
    assert [request.headers.get("range") for request in proxy.requests] == ["bytes=0-99", "bytes=0-999999999"]


@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_an_empty_object_is_read_as_it_is(request: pytest.FixtureRequest, server: str, prefix: str) -> None:
    backend = behind(request.getfixturevalue(server), prefix)
    assert backend.save(KEY, 0, b"") == b""
    assert backend.load(KEY, 0) == b""
    assert backend.load(KEY, 0, first=10) == b""
    assert backend.latest(KEY) == (0, b"")
    assert backend.save(KEY, 0, b"other") == b""
    backend.close()


# The latest of a key


def test_a_record_that_is_pruned_after_it_was_listed_is_looked_for_again(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend
) -> None:
    def go_on() -> None:
        direct.save(KEY, 1, b"one")
        direct.prune(KEY, [0])

    direct.save(KEY, 0, b"zero")
    proxy.next("GET", Meanwhile(go_on))
    assert backend.latest(KEY) == (1, b"one")
    assert kinds(proxy) == ["LIST", "GET", "LIST", "GET"]
    proxy.next("GET", Meanwhile(lambda: direct.prune(KEY, [1])))
    assert backend.latest(KEY) is None


def test_a_key_that_changes_faster_than_it_can_be_read_is_unavailable(
    proxy: FaultProxy, backend: S3Backend, objects: Objects
) -> None:
    steps = iter(range(1, 1000))

    def go_on() -> None:
        step = next(steps)
        objects.put(name_of(step))
        objects.delete(name_of(step - 1))

    objects.put(name_of(0))
    proxy.plan = every("GET", Meanwhile(go_on))
    with pytest.raises(StoreUnavailable, match="changes faster than it can be read"):
        backend.latest(KEY)
    assert proxy.count() == {"LIST": 16, "GET": 16}


FOREIGN = [
    "0",
    "0000000000000000-0",
    "ffffffffffffffff-0.tmp",
    "FFFFFFFFFFFFFFFF-0",
    "fffffffffffffffe-01",
    "fffffffffffffffe-2",
    "fffffffffffffffe-",
    "fffffffffffffff-1",
    "ffffffffffffffff-0 ",
    f"{2**64 - 1 - (MAX_STEP + 1):016x}-{MAX_STEP + 1}",
    "fffffffffffffffe-\u0661",
    "below/fffffffffffffffe-1",
    "zzz",
]


@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_an_object_whose_name_is_not_ours_is_no_record_and_no_key(
    request: pytest.FixtureRequest, server: str, prefix: str
) -> None:
    backend = behind(request.getfixturevalue(server), prefix)
    objects = Objects(s3_client(request.getfixturevalue(server).endpoint), prefix)
    for name in FOREIGN:
        objects.put(f"{storage_path(KEY)}/{name}")
    for name in ("g-42/000000000/zzz", "g-42/zzz", "zzz", "g-42/0/c/fffffffffffffffe-1", "G/000000000/c/x", "g-42/"):
        objects.put(name)
    objects.put(f"%67/000000000/c/{object_name(0)}")  # a second spelling of g
    objects.put(f"g-42/000000000/Critic/{object_name(0)}")
    assert backend.latest(KEY) is None
    assert backend.steps(KEY) == []
    assert list(backend.keys()) == list(backend.keys("g-42")) == []
    for step in (3, MAX_STEP, 4):
        backend.save(KEY, step, str(step).encode())
    assert backend.latest(KEY) == (MAX_STEP, str(MAX_STEP).encode())
    assert backend.steps(KEY) == [MAX_STEP, 4, 3]
    assert list(backend.keys()) == list(backend.keys("g-42")) == [KEY]
    backend.close()


@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_the_marker_of_a_folder_hides_no_record(request: pytest.FixtureRequest, server: str, prefix: str) -> None:
    """Consoles make them. Asked for one name, SeaweedFS gives the marker and says that there are no more."""
    backend = behind(request.getfixturevalue(server), prefix)
    objects = Objects(s3_client(request.getfixturevalue(server).endpoint), prefix)
    for folder in ("", "g-42/", "g-42/000000000/", f"{storage_path(KEY)}/", f"{storage_path(KEY)}/0/"):
        objects.put(folder)
    assert backend.latest(KEY) is None
    assert list(backend.keys()) == []
    for step in range(3):
        backend.save(KEY, step, str(step).encode())
    assert backend.latest(KEY) == (2, b"2")
    assert backend.steps(KEY) == [2, 1, 0]
    assert list(backend.keys()) == list(backend.keys("g-42")) == [KEY]
    backend.close()


def test_records_behind_pages_of_foreign_objects_are_found(
    proxy: FaultProxy, prefix: str, direct: S3Backend, objects: Objects
) -> None:
    backend = S3Backend(client=impatient_of_pages(proxy.endpoint, 3), bucket=BUCKET, prefix=prefix)
    others = [CheckpointKey("g-42", 0, name) for name in ("fixer-0", "z")]
    for key in (KEY, *others):
        for step in range(4):
            direct.save(key, step, b"")
    places = ("0", "fff", "z", "g-42/0", "g-42/fff", "g-42/000000000/0", "g-42/000000000/z", f"{storage_path(KEY)}/0")
    for place in places:
        for number in range(7):
            objects.put(f"{place}-{number:02}")
    for number in range(7):  # these look like the end of a key's history, one level too high
        objects.put(f"g-42/000000000/ffffffffffffff{255 - number:02x}-{number}")
    assert backend.latest(KEY) == (3, b"")
    assert backend.steps(KEY) == [3, 2, 1, 0]
    assert sorted(backend.keys("g-42")) == sorted(backend.keys()) == [others[0], KEY, others[1]]


def test_foreign_objects_that_sort_after_all_records_do_not_keep_a_listing_from_ending(
    proxy: FaultProxy, prefix: str, direct: S3Backend, objects: Objects
) -> None:
    backend = S3Backend(client=impatient_of_pages(proxy.endpoint, 5), bucket=BUCKET, prefix=prefix)
    direct.save(KEY, 0, b"zero")
    for number in range(12):
        objects.put(f"{storage_path(KEY)}/z{number:02}")
    proxy.plan = lambda _: None if len(proxy.requests) < 50 else DENIED  # instead of listing for ever
    assert list(backend.keys("g-42")) == [KEY]


# Directory buckets, whose listings have no order


@pytest.fixture
def unordered(moto_server: Server, proxy: FaultProxy, prefix: str) -> Iterator[tuple[S3Backend, Objects]]:
    """A directory bucket whose listings come in pages of ten, and its objects past the proxy."""
    without_sessions = {"disable_s3_express_session_auth": True}  # moto has none
    plain = impatient_of_pages(moto_server.endpoint, 1000, **without_sessions)
    plain.create_bucket(Bucket=DIRECTORY_BUCKET)
    client = impatient_of_pages(proxy.endpoint, 10, **without_sessions)
    backend = S3Backend(client=client, bucket=DIRECTORY_BUCKET, prefix=prefix)
    yield backend, Objects(plain, prefix, DIRECTORY_BUCKET)
    backend.close()


def in_order(objects: Objects, order: Callable[[list[str]], object]) -> Plan:
    """Gives the names of every listing in this order, over all of its pages, and none that is gone meanwhile."""
    rest: dict[str, list[str]] = {}

    def plan(request: Request) -> Fault | None:
        if request.kind != "LIST" or "delimiter" in request.query:
            return None
        prefix = request.query["prefix"].removeprefix(f"{objects.prefix}/")
        if "continuation-token" not in request.query:
            rest[prefix] = [name for name in objects.names() if name.startswith(prefix)]
            order(rest[prefix])
        return Rewrite(lambda body: page(body, rest[prefix]))

    def page(body: bytes, rest: list[str]) -> bytes:
        size = body.count(b"<Contents>") if b"<IsTruncated>true" in body else len(rest)
        given, rest[:] = rest[:size], rest[size:]
        there = set(objects.names())
        found = [f"<Contents><Key>{quote(f'{objects.prefix}/{n}')}</Key></Contents>" for n in given if n in there]
        return re.sub(rb"<Contents>.*</Contents>", "".join(found).encode(), body, flags=re.DOTALL)

    return plan


def oldest_first(names: list[str]) -> None:
    names.sort(reverse=True)


def test_in_a_directory_bucket_the_latest_is_the_highest_of_all_pages(
    unordered: tuple[S3Backend, Objects], proxy: FaultProxy
) -> None:
    backend, objects = unordered
    for step in range(25):
        objects.put(name_of(step), str(step).encode())
    proxy.plan = in_order(objects, oldest_first)
    assert backend.latest(KEY) == (24, b"24")
    proxy.plan = in_order(objects, random.Random(1).shuffle)
    assert backend.latest(KEY) == (24, b"24")
    assert backend.steps(KEY) == [*reversed(range(25))]


def test_in_a_directory_bucket_keys_come_once_each_in_whatever_order(
    unordered: tuple[S3Backend, Objects], proxy: FaultProxy
) -> None:
    backend, objects = unordered
    there = [CheckpointKey(goal, 0, name) for goal in ("g", "h") for name in ("a", "a-b", "a.b")]
    for key in there:
        for step in range(5):
            objects.put(name_of(step, key))
    proxy.plan = in_order(objects, random.Random(1).shuffle)
    assert sorted(backend.keys()) == sorted(there)
    assert sorted(backend.keys("h")) == sorted(there[3:])


def test_in_a_directory_bucket_a_batch_that_comes_and_goes_between_two_pages_hides_nothing(
    unordered: tuple[S3Backend, Objects], proxy: FaultProxy
) -> None:
    backend, objects = unordered
    for step in range(25):
        objects.put(name_of(step), str(step).encode())

    def go_on() -> None:
        """Step 24, on the last page, is pruned; step 25 would be on a page that is past."""
        objects.put(name_of(25), b"25")
        for step in range(20, 25):
            objects.delete(name_of(step))

    shuffled = in_order(objects, oldest_first)
    listed = iter([None, go_on])

    def plan(request: Request) -> Fault | None:
        happens = next(listed, None)
        if happens:
            happens()
        return shuffled(request)

    proxy.plan = plan
    assert backend.latest(KEY) == (25, b"25")


# The keys


@pytest.mark.parametrize("server", ["moto_server", "seaweedfs_server"])
def test_long_histories_are_not_listed_to_find_keys(request: pytest.FixtureRequest, server: str, prefix: str) -> None:
    """S3 lists a-b, a.b, a, because a slash sorts behind the two; SeaweedFS lists a first."""
    endpoint = request.getfixturevalue(server).endpoint
    there = [CheckpointKey("g", 0, name) for name in ("a", "a-b", "a.b")]
    objects = Objects(s3_client(endpoint), prefix)
    for key in there:
        for step in range(22):
            objects.put(name_of(step, key))
    with FaultProxy(endpoint) as proxy:
        backend = S3Backend(client=impatient_of_pages(proxy.endpoint, 5), bucket=BUCKET, prefix=prefix)
        assert sorted(backend.keys("g")) == there
        assert kinds(proxy) == ["LIST"] * 4
        assert sorted(backend.keys()) == there


def test_an_emptied_key_is_none_at_once(seaweedfs_server: Server, prefix: str) -> None:
    """SeaweedFS goes on to list the common prefix of what was removed."""
    backend = behind(seaweedfs_server, prefix)
    others = [CheckpointKey("g", 0, "c"), CheckpointKey("g-42", 1, "orchestrator-0")]
    for key in (KEY, *others):
        backend.save(key, 0, b"")
    backend.prune(KEY, [0])
    assert list(backend.keys("g-42")) == [others[1]]
    assert sorted(backend.keys()) == others
    backend.prune(others[1], [0])
    assert list(backend.keys("g-42")) == []
    assert list(backend.keys()) == [others[0]]
    backend.close()


def test_keys_that_nobody_reads_to_the_end_leave_no_thread_behind(backend: S3Backend, direct: S3Backend) -> None:
    for number in range(12):
        direct.save(CheckpointKey(f"g-{number}", 0, "c"), 0, b"")
    before = set(threading.enumerate())
    keys = backend.keys()
    next(keys)
    started = [thread for thread in set(threading.enumerate()) - before if "ThreadPool" in thread.name]
    assert started
    del keys
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


def test_a_listing_of_names_that_were_not_asked_for_is_not_read_as_nothing_there(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, prefix: str
) -> None:
    """Some services and gateways spell a name otherwise than they were given it."""
    direct.save(KEY, 0, b"zero")
    proxy.plan = every("LIST", Rewrite(lambda body: body.replace(f">{prefix}/".encode(), f">/{prefix}/".encode())))
    reads: list[Callable[[], object]] = [
        lambda: backend.latest(KEY),
        lambda: backend.steps(KEY),
        lambda: list(backend.keys()),
        lambda: list(backend.keys("g-42")),
    ]
    for read in reads:
        with pytest.raises(StoreUnavailable, match="asked for names that begin with"):
            read()


# Pruning


def test_many_steps_are_removed_by_one_request_and_the_one_that_may_be_the_newest_alone_and_last(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, prefix: str
) -> None:
    for step in range(10):
        direct.save(KEY, step, b"")
    backend.prune(KEY, range(10))
    assert kinds(proxy) == ["DELETE-MANY", "DELETE"]
    assert proxy.requests[-1].path == f"/{BUCKET}/{prefix}/{name_of(9)}"
    assert direct.steps(KEY) == []


def test_steps_below_one_that_stays_are_all_removed_by_one_request(proxy: FaultProxy, backend: S3Backend) -> None:
    for step in range(10):
        backend.save(KEY, step, b"")
    proxy.forget()
    backend.prune(KEY, range(9))
    assert kinds(proxy) == ["DELETE-MANY"]
    assert backend.steps(KEY) == [9]


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_steps_are_never_seen_to_go_in_another_order_than_the_one_given(
    proxy: FaultProxy, prefix: str, direct: S3Backend, *, seen: bool
) -> None:
    """Within one request the order is the service's, so none that may be the newest goes with others."""
    backend = behind(proxy, prefix)
    for step in range(10):
        direct.save(KEY, step, b"")
    if seen:
        assert backend.latest(KEY) == (9, b"")
    proxy.forget()
    backend.prune(KEY, [0, 1, 2, 9, 8, 3, 4, 5, 6, 7])
    assert kinds(proxy) == ["DELETE-MANY", "DELETE", "DELETE", "DELETE-MANY", "DELETE"]
    names = [request.path.rpartition("-")[2] for request in proxy.requests if request.kind == "DELETE"]
    assert names == ["9", "8", "7"]
    assert direct.steps(KEY) == []
    backend.close()


def test_what_was_the_newest_before_a_prune_is_not_the_newest_after_it(proxy: FaultProxy, backend: S3Backend) -> None:
    for step in range(10):
        backend.save(KEY, step, b"")
    backend.prune(KEY, [9])
    proxy.forget()
    backend.prune(KEY, range(9))
    assert kinds(proxy) == ["DELETE-MANY", "DELETE"]


def test_of_2500_steps_a_thousand_are_removed_by_each_request(proxy: FaultProxy, backend: S3Backend) -> None:
    backend.save(KEY, 2500, b"")
    proxy.forget()
    backend.prune(KEY, range(2500))
    assert kinds(proxy) == ["DELETE-MANY"] * 3


def errors(code: str, *steps: int) -> Rewrite:
    """An answer of success that says that these were not removed."""
    rows = "".join(
        f"<Error><Key>{name_of(step)}</Key><Code>{code}</Code><Message>not this one</Message></Error>" for step in steps
    )
    return Rewrite(lambda _: f"<DeleteResult>{rows}</DeleteResult>".encode())


def test_what_an_answer_of_success_says_was_not_removed_is_raised(proxy: FaultProxy, backend: S3Backend) -> None:
    backend.save(KEY, 9, b"")
    proxy.forget()
    proxy.next("DELETE-MANY", errors("AccessDenied", 3, 4))
    with pytest.raises(StoreUnavailable, match="2 of 9 records were not removed") as caught:
        backend.prune(KEY, range(9))
    assert "not this one" in str(caught.value)
    assert not caught.value.maybe_saved
    assert kinds(proxy) == ["DELETE-MANY"]


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_what_was_not_removed_for_a_passing_reason_is_removed_again(
    proxy: FaultProxy, backend: S3Backend, code: str
) -> None:
    backend.save(KEY, 9, b"")
    proxy.forget()
    proxy.next("DELETE-MANY", errors(code, 3))
    backend.prune(KEY, range(9))
    assert kinds(proxy) == ["DELETE-MANY"] * 2


def test_what_was_gone_before_it_was_removed_is_no_error(proxy: FaultProxy, backend: S3Backend) -> None:
    backend.save(KEY, 9, b"")
    proxy.next("DELETE-MANY", errors("NoSuchKey", 3, 4))
    backend.prune(KEY, range(9))


@pytest.mark.parametrize("fault", [LostAnswer(), DONE_ALL_THE_SAME, SLOW_DOWN, CutResponse()], ids=told)
def test_a_prune_under_a_fault_is_repeated(proxy: FaultProxy, backend: S3Backend, fault: Fault) -> None:
    for step in range(4):
        backend.save(KEY, step, b"")
    proxy.next("DELETE-MANY", fault)
    proxy.next("DELETE", fault)
    backend.prune(KEY, [0, 1])
    backend.prune(KEY, [2])
    assert backend.steps(KEY) == [3]


@pytest.mark.parametrize("kind", ["DELETE", "DELETE-MANY"])
def test_a_prune_that_is_denied_is_raised(proxy: FaultProxy, backend: S3Backend, kind: Kind) -> None:
    for step in range(4):
        backend.save(KEY, step, b"")
    proxy.next(kind, DENIED)
    with pytest.raises(StoreUnavailable, match=r"cannot .*access denied") as caught:
        backend.prune(KEY, [0, 1] if kind == "DELETE-MANY" else [0])
    assert not caught.value.maybe_saved


@pytest.mark.parametrize(
    "refusal",
    [Answer(501, "NotImplemented"), Answer(405, "MethodNotAllowed"), Answer(400, "MissingContentMD5")],
    ids=told,
)
def test_a_service_that_removes_no_lists_of_objects_gets_single_requests_from_then_on(
    proxy: FaultProxy, backend: S3Backend, direct: S3Backend, refusal: Answer
) -> None:
    for step in range(8):
        direct.save(KEY, step, b"")
    backend.latest(KEY)
    proxy.forget()
    proxy.plan = every("DELETE-MANY", refusal)
    backend.prune(KEY, range(3))
    assert kinds(proxy) == ["DELETE-MANY", "DELETE", "DELETE", "DELETE"]
    backend.prune(KEY, range(3, 7))
    assert kinds(proxy)[4:] == ["DELETE"] * 4
    assert [request.path.rpartition("-")[2] for request in proxy.requests if request.kind == "DELETE"] == [*"0123456"]
    assert direct.steps(KEY) == [7]


# Clients, threads and processes


def test_threads_share_one_client(proxy: FaultProxy, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make = sdk.session.Session.client

    def counted(session: object, *args: object, **options: object) -> object:
        made.append(session)
        return make(session, *args, **options)

    monkeypatch.setattr(boto3.session.Session, "client", counted)
    backend = behind(proxy, prefix)
    together = threading.Barrier(8)

    def use(number: int) -> list[int]:
        together.wait()
        key = CheckpointKey("g", number, "c")
        for step in range(3):
            assert backend.save(key, step, b"ours") == b"ours"
        return backend.steps(key)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [[2, 1, 0]] * 8
    assert len(made) == 1
    backend.close()


def test_a_client_that_was_handed_in_is_used_and_is_not_closed(
    proxy: FaultProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_client(proxy.endpoint)
    closed: list[bool] = []
    monkeypatch.setattr(client, "close", lambda: closed.append(True))
    store = Store(S3Backend(client=client, bucket=BUCKET, prefix=prefix))
    assert store.save(KEY, 0, "state").step == 0
    assert proxy.endpoint in repr(store)
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.latest(KEY)
    assert not closed
    proxy.forget()
    assert Objects(client, prefix).names() == [name_of(0)]
    assert kinds(proxy) == ["LIST"]


@pytest.mark.parametrize(
    "options",
    [{"endpoint_url": "http://localhost"}, {"region": "us-east-1"}, {"read_timeout": 5}, {"pool": 8}],
    ids=lambda options: str(*options),
)
def test_options_of_a_connection_beside_a_client_that_was_handed_in_are_refused(
    moto_server: Server, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidURL, match="configured already"):
        S3Backend(client=s3_client(moto_server.endpoint), bucket=BUCKET, **options)


def test_after_close_every_verb_is_unavailable_and_sends_nothing(proxy: FaultProxy, backend: S3Backend) -> None:
    backend.save(KEY, 0, b"zero")
    backend.close()
    backend.close()
    proxy.forget()
    verbs: list[Callable[[], object]] = [
        lambda: backend.save(KEY, 1, b"one"),
        lambda: backend.latest(KEY),
        lambda: backend.load(KEY, 0),
        lambda: backend.steps(KEY),
        lambda: backend.prune(KEY, [0]),
        lambda: backend.prune(KEY, []),
        lambda: list(backend.keys()),
        lambda: list(backend.keys("g-42")),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable, match="it is closed") as caught:
            verb()
        assert not caught.value.maybe_saved
    assert kinds(proxy) == []


PRELUDE = """
import json, os, signal, sys, threading
from durable_store import CheckpointKey, StoreUnavailable, open_store
from durable_store_backends.s3 import S3Backend
from tests.servers import s3_client
KEY = CheckpointKey("g-42", 0, "orchestrator-0")
url = sys.argv[1]

def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            work()
            os._exit(0)
        except BaseException as err:
            print(repr(err), file=sys.stderr, flush=True)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
"""


def answer(program: str, *args: str) -> Any:
    """The JSON that a program printed; it fails when the program did."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_child_forked_while_a_thread_is_in_a_request_has_a_client_of_its_own(
    seaweedfs_server: Server, prefix: str
) -> None:
    """SeaweedFS keeps connections open: two processes on one of them would read each other's answers."""
    last = answer(
        """
backend = open_store(url).backend
backend.save(KEY, 0, b"zero")
record, over, last = os.urandom(200_000), threading.Event(), 0
def go_on():
    global last
    while not over.is_set():
        assert backend.save(KEY, last + 1, record) == record
        last += 1
thread = threading.Thread(target=go_on)
thread.start()
for number in range(6):
    def work():
        key = CheckpointKey("child", number, "c")
        for step in range(3):
            assert backend.save(key, step, str(step).encode()) == str(step).encode()
            assert backend.latest(key) == (step, str(step).encode())
    in_child(work)
over.set()
thread.join()
assert backend.load(KEY, 1) == record
print(last)
""",
        seaweedfs_server.url(prefix, max_attempts="2", read_timeout="10"),
    )
    backend = behind(seaweedfs_server, prefix)
    assert backend.steps(KEY) == [*reversed(range(last + 1))]
    assert len(list(backend.keys("child"))) == 6
    backend.close()


def test_a_child_forked_during_a_probe_probes_for_itself(proxy: FaultProxy, prefix: str, objects: Objects) -> None:
    proxy.next("PUT", Delay(1))
    answer(
        """
backend = open_store(url).backend
thread = threading.Thread(target=backend.save, args=(KEY, 0, b"parent"))
thread.start()
while not S3Backend._probes:
    pass
def work():
    assert backend.save(KEY, 1, b"child") == b"child"
in_child(work)
thread.join()
print(backend.steps(KEY))
""",
        proxy.url(prefix),
    )
    assert objects.names() == [name_of(1), name_of(0)]
    assert proxy.count()["PUT"] == 2 * 2 + 2


def test_a_listing_is_not_continued_in_a_forked_child(moto_server: Server, prefix: str) -> None:
    """The threads that fetch its pages stay with the parent."""
    answer(
        """
backend = open_store(url).backend
there = [CheckpointKey(f"g-{number:02}", 0, "c") for number in range(20)]
for key in there:
    backend.save(key, 0, b"")
keys = backend.keys()
first = next(keys)
def work():
    try:
        list(keys)
    except StoreUnavailable as err:
        assert "before the fork" in str(err), err
    else:
        raise AssertionError("it goes on")
    assert sorted(backend.keys()) == there
in_child(work)
assert sorted([first, *keys]) == there
print("null")
""",
        moto_server.url(prefix),
    )


def test_a_client_that_was_handed_in_is_refused_in_a_forked_child(moto_server: Server, prefix: str) -> None:
    said = answer(
        """
backend = S3Backend(client=s3_client(url), bucket=sys.argv[2], prefix=sys.argv[3])
backend.save(KEY, 0, b"parent")
there, here = os.pipe()
def work():
    said = []
    for verb in (lambda: backend.latest(KEY), lambda: backend.save(KEY, 1, b"child"), lambda: list(backend.keys())):
        try:
            verb()
        except StoreUnavailable as err:
            said.append(str(err))
    os.write(here, json.dumps(said).encode())
in_child(work)
assert backend.save(KEY, 1, b"parent") == b"parent"
print(os.read(there, 10_000).decode())
""",
        moto_server.endpoint,
        BUCKET,
        prefix,
    )
    assert len(said) == 3
    for line in said:
        assert "its client was handed in, and belongs to the process that made it: make another in this one" in line


# Checksums, encryption, addresses


class Aws:
    """Answers requests in the place of AWS, which the tests cannot reach."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.damages = 0  # how many GETs give other bytes than were PUT

    def __call__(self, request: Any, **_: object) -> AWSResponse:
        self.requests.append(request)
        body, status = b"", 200
        headers: Any = {"ETag": '"1"'}
        match request.method:
            case "PUT" if len(self.requests) == 2:
                body, status = b"<Error><Code>PreconditionFailed</Code></Error>", 412
            case "PUT":
                sent = request.body
                self.sent = sent if isinstance(sent, bytes) else sent.read()
            case "GET":
                body = content = b"the first" if len(self.requests) == 3 else b"state"
                headers["x-amz-checksum-crc32"] = crc32(content).decode()
                if self.damages:
                    self.damages -= 1
                    body = body[::-1]
            case _:
                status = 204
        raw: Any = HTTPResponse(body=BytesIO(body), status=status, preload_content=False)
        return AWSResponse(request.url, status, headers, raw)

    def headers(self, method: str) -> list[dict[str, str]]:
        """Of the requests with this method; names in lower case."""
        return [
            {
                name.lower(): value.decode() if isinstance(value, bytes) else value
                for name, value in each.headers.items()
            }
            for each in self.requests
            if each.method == method
        ]


def crc32(content: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))


@pytest.fixture
def aws() -> Aws:
    credentials()
    return Aws()


def at_aws(aws: Aws, *, region: str = "us-east-1", **options: Any) -> S3Backend:
    """A backend with a client of its own whose requests are answered here."""
    backend = S3Backend(bucket="bucket", prefix=uuid4().hex, region=region, **options)
    client: Any = backend._bucket.client("answer")
    client.meta.events.register("before-send.s3", aws)
    return backend


@pytest.mark.parametrize("endpoint_url", [None, "https://s3.us-east-1.amazonaws.com"])
def test_at_aws_what_is_sent_and_what_is_read_is_checked_by_a_crc(aws: Aws, endpoint_url: str | None) -> None:
    backend = at_aws(aws, endpoint_url=endpoint_url)
    assert backend.save(KEY, 0, b"state") == b"state"
    assert b"x-amz-checksum-crc32:" + crc32(b"state") in aws.sent
    assert [headers["x-amz-trailer"] for headers in aws.headers("PUT")] == ["x-amz-checksum-crc32"] * 3
    assert backend.load(KEY, 0) == b"state"
    assert [headers["x-amz-checksum-mode"] for headers in aws.headers("GET")] == ["ENABLED"] * 2
    backend.close()


def test_a_client_for_aws_that_was_handed_in_sends_and_reads_with_a_crc(aws: Aws) -> None:
    config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    client: Any = sdk.client(
        "s3", region_name="us-east-1", endpoint_url="https://s3.us-east-1.amazonaws.com", config=config
    )
    client.meta.events.register("before-send.s3", aws)
    backend = S3Backend(client=client, bucket="bucket", prefix=uuid4().hex)
    backend.save(KEY, 0, b"state")
    assert b"x-amz-checksum-crc32:" + crc32(b"state") in aws.sent
    assert aws.headers("GET")[0]["x-amz-checksum-mode"] == "ENABLED"
    client.close()


def test_a_record_that_does_not_match_the_crc_of_aws_is_not_given_back(aws: Aws) -> None:
    backend = at_aws(aws, max_attempts=3)
    backend.save(KEY, 0, b"state")
    aws.damages = 10
    with pytest.raises(StoreUnavailable, match=r"(?i)checksum"):
        backend.load(KEY, 0)
    backend.close()


def test_at_another_endpoint_what_is_sent_is_checked_by_its_md5_and_no_newer_checksum(
    proxy: FaultProxy, prefix: str
) -> None:
    """Several compatible services refuse the newer ones."""
    backend = behind(proxy, prefix)
    backend.save(KEY, 0, b"zero")
    backend.save(KEY, 1, b"one")
    backend.latest(KEY)
    sent = {name for request in proxy.requests for name in request.headers}
    assert {name for name in sent if "checksum" in name or "trailer" in name or name == "content-encoding"} == set()
    assert (
        proxy.requests[-3].headers["content-md5"]
        == base64.b64encode(hashlib.md5(b"one", usedforsecurity=False).digest()).decode()
    )
    backend.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"sse": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            {"sse": "aws:kms", "sse_kms_key_id": "alias/mine"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/mine",
            },
        ),
        ({}, {}),
    ],
    ids=["AES256", "kms", "kms-key", "none"],
)
def test_what_is_written_is_encrypted_as_the_url_says_the_probe_too(
    proxy: FaultProxy, prefix: str, options: dict[str, str], expected: dict[str, str]
) -> None:
    backend = behind(proxy, prefix, **options)
    backend.save(KEY, 0, b"zero")
    puts = [request.headers for request in proxy.requests if request.kind == "PUT"]
    assert len(puts) == 3
    for headers in puts:
        assert {name: value for name, value in headers.items() if "encryption" in name} == expected
    backend.close()


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({"addressing_style": "virtual"}, "https://bucket.s3.eu-central-1.amazonaws.com/"),
        ({"addressing_style": "path"}, "https://s3.eu-central-1.amazonaws.com/bucket/"),
        ({"addressing_style": "auto"}, "https://bucket.s3.eu-central-1.amazonaws.com/"),
        ({"addressing_style": "virtual", "endpoint_url": "http://s3.test:9000"}, "http://bucket.s3.test:9000/"),
        ({"addressing_style": "path", "endpoint_url": "http://s3.test:9000"}, "http://s3.test:9000/bucket/"),
        ({"addressing_style": "auto", "endpoint_url": "http://s3.test:9000"}, "http://s3.test:9000/bucket/"),
        ({"addressing_style": "auto", "endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/bucket/"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_bucket_is_addressed_as_the_url_says(aws: Aws, options: dict[str, str], address: str) -> None:
    backend = at_aws(aws, region="eu-central-1", **options)
    backend.load(KEY, 0)
    assert aws.requests[0].url.startswith(address)
    backend.close()


# The URL


def url(place: str = "s3://bucket/prefix", **options: str) -> str:
    return f"{place}?{urlencode(options)}"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("s3://", "needs the name of a bucket"),
        ("s3:///prefix", "needs the name of a bucket"),
        ("s3://bucket:80/prefix", "needs the name of a bucket"),
        ("s3://-bucket/prefix", "needs the name of a bucket"),
        (url(endpoint_url="localhost:9000"), "endpoint_url is like https://host:port"),
        (url(endpoint_url="ftp://localhost"), "endpoint_url is like https://host:port"),
        (url(endpoint_url="http://localhost/path"), "endpoint_url is like https://host:port"),
        (url(endpoint_url="http://localhost?a=b"), "endpoint_url is like https://host:port"),
        (url(endpoint_url="http://"), "endpoint_url is like https://host:port"),
        (url(addressing_style="dns"), "addressing_style is auto, path or virtual"),
        (url(sse="aes256"), "sse is AES256, aws:kms or aws:kms:dsse"),
        (url(sse_kms_key_id="alias/mine"), "sse_kms_key_id goes with sse=aws:kms"),
        (url(sse="AES256", sse_kms_key_id="alias/mine"), "sse_kms_key_id goes with sse=aws:kms"),
        (url(retries="3"), "no option 'retries'; the options are addressing_style, connect_timeout, endpoint_url"),
        ("s3://bucket/a//b", "no part that is empty or of dots"),
        ("s3://bucket/a/../b", "no part that is empty or of dots"),
        ("s3://bucket/./b", "no part that is empty or of dots"),
        ("s3://bucket/a%2f..", "no part that is empty or of dots"),
        ("s3://bucket/a%00b", "no control character"),
        ("s3://bucket/a%0ab", "no control character"),
        ("s3://bucket/a%ffb", "no control character"),
        (f"s3://bucket/{'p' * 579}", "at most 578 bytes"),
        (f"s3://bucket/{'ü' * 290}", "at most 578 bytes"),
        *[
            (url(**{name: value}), f"{name} is a number")
            for name in ("connect_timeout", "read_timeout")
            for value in ("", "soon", "0", "-1", "nan", "inf", "3601", "30s")
        ],
        *[(url(max_attempts=value), "max_attempts is a whole number") for value in ("", "0", "101", "1.5")],
        *[(url(pool=value), "pool is a whole number") for value in ("", "0", "1001", "many")],
    ],
)
def test_a_url_with_a_wrong_part_is_refused_in_one_line_that_says_what_is_right(wrong: str, why: str) -> None:
    with pytest.raises(InvalidURL, match=re.escape(why)) as caught:
        open_store(wrong)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint_url", ["http://me:hunter2@localhost:9000", "https://hunter2@localhost", "http://me:hun/hunter2@host"]
)
def test_credentials_in_the_endpoint_are_refused_and_not_repeated(endpoint_url: str) -> None:
    makers: list[Callable[[], object]] = [
        lambda: open_store(url(endpoint_url=endpoint_url)),
        lambda: S3Backend.from_url(urlsplit("s3://bucket/prefix"), endpoint_url=endpoint_url),
        lambda: S3Backend(bucket="bucket", endpoint_url=endpoint_url),
    ]
    for make in makers:
        with pytest.raises(InvalidURL) as caught:
            make()
        assert "hunter2" not in str(caught.value)


def test_the_repr_tells_where_records_are_and_no_secret(
    moto_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2")
    backend = behind(moto_server, prefix)
    backend.save(KEY, 0, b"zero")
    assert repr(backend) == f"S3Backend('s3://{BUCKET}/{prefix} at {moto_server.endpoint}')"
    assert repr(backend) in repr(Store(backend))
    for each in (backend, Store(backend), *vars(backend).values(), *vars(backend._bucket).values()):
        assert "hunter2" not in repr(each)
    backend.close()


def test_the_slashes_around_a_prefix_mean_nothing_and_its_escapes_are_undone(
    moto_server: Server, prefix: str, objects: Objects
) -> None:
    backend = behind(moto_server, f"/{prefix}/a%20b%c3%bc/")
    backend.save(KEY, 0, b"zero")
    assert objects.names() == [f"a bü/{name_of(0)}"]
    backend.close()


def test_a_bucket_can_be_used_without_a_prefix(moto_server: Server, prefix: str) -> None:
    client = s3_client(moto_server.endpoint)
    client.create_bucket(Bucket=prefix)
    backend = S3Backend(client=client, bucket=prefix)
    backend.save(KEY, 0, b"zero")
    assert backend.latest(KEY) == (0, b"zero")
    assert list(backend.keys()) == [KEY]
    assert [item["Key"] for item in client.list_objects_v2(Bucket=prefix)["Contents"]] == [name_of(0)]


def test_the_longest_key_below_the_longest_prefix_has_a_name_that_s3_takes(proxy: FaultProxy, prefix: str) -> None:
    backend = behind(proxy, prefix.ljust(578, "p"))
    key = CheckpointKey("g" * 200, MAX_EPISODE, "c" * 200)
    assert backend.save(key, MAX_STEP, b"state") == b"state"
    assert backend.latest(key) == (MAX_STEP, b"state")
    assert max(len(request.path.removeprefix(f"/{BUCKET}/")) for request in proxy.requests) <= 1024
    backend.close()
