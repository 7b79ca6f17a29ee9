"""What the fault proxy is asked to do to a request it does to that request, and to no other."""

import http.client
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ResponseStreamingError

from tests.fault_proxy import (
    Answer,
    AnswerAfter,
    CutRequest,
    CutResponse,
    Delay,
    Fault,
    FaultProxy,
    Late,
    LostAnswer,
    Request,
    Rewrite,
    Stall,
    Strip,
    Twice,
)
from tests.servers import BUCKET, Server, free_ports, s3_client

BODY = bytes(range(256)) * 16


class Objects:
    """The objects of a bucket at one endpoint, under a prefix of the test's own."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.client: Any = s3_client(endpoint)
        self.prefix = prefix

    def put(self, name: str, body: bytes = BODY, **conditions: str) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=body, **conditions)

    def get(self, name: str) -> bytes:
        answer = self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")
        return b"".join(answer["Body"].iter_chunks())

    def names(self) -> list[str]:
        answer = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in answer.get("Contents", [])]


@pytest.fixture
def proxy(moto_server: Server) -> Generator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy, request: pytest.FixtureRequest) -> Objects:
    """Behind the proxy."""
    return Objects(proxy.endpoint, request.node.name)


@pytest.fixture
def server(moto_server: Server, request: pytest.FixtureRequest) -> Objects:
    """The same objects, past the proxy."""
    return Objects(moto_server.endpoint, request.node.name)


def statuses(proxy: FaultProxy) -> list[int | None]:
    return [request.status for request in proxy.requests]


def stall_everything(proxy: FaultProxy) -> threading.Event:
    """Returns an event that is set when a request has come."""
    stalled = threading.Event()

    def plan(_: Request) -> Fault:
        stalled.set()
        return Stall()

    proxy.plan = plan
    return stalled


def test_without_a_fault_everything_passes(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    client.put("odd name +%/ü")
    assert client.get("odd name +%/ü") == server.get("odd name +%/ü") == BODY
    assert client.names() == ["odd name +%/ü"]
    client.client.head_object(Bucket=BUCKET, Key=f"{client.prefix}/odd name +%/ü")
    client.client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"{client.prefix}/odd name +%/ü"}]})
    client.client.delete_object(Bucket=BUCKET, Key="long gone")
    client.client.list_buckets()
    assert [request.kind for request in proxy.requests] == [
        "PUT",
        "GET",
        "LIST",
        "HEAD",
        "DELETE-MANY",
        "DELETE",
        "GET",
    ]
    assert statuses(proxy) == [200, 200, 200, 200, 200, 204, 200]
    assert server.names() == []


def test_a_request_is_recorded_as_the_client_meant_it(proxy: FaultProxy, client: Objects) -> None:
    client.put("a key", IfNoneMatch="*")
    client.names()
    put, listing = proxy.requests
    assert (put.method, put.path) == ("PUT", f"/{BUCKET}/{client.prefix}/a key")
    assert put.headers["if-none-match"] == "*"
    assert listing.query["list-type"] == "2"
    assert listing.query["prefix"] == f"{client.prefix}/"
    assert proxy.count() == {"PUT": 1, "LIST": 1}
    proxy.forget()
    assert proxy.count() == {}


def test_a_lost_answer_has_committed(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    proxy.next("PUT", LostAnswer())
    with pytest.raises(ConnectionClosedError):
        client.put("a")
    assert statuses(proxy) == [None]
    assert server.get("a") == BODY


def test_a_stalled_request_is_never_answered_and_never_arrives(proxy: FaultProxy, server: Objects) -> None:
    stalled = stall_everything(proxy)
    impatient = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=0.1)
    impatient.request("PUT", f"/{BUCKET}/{server.prefix}/a", body=BODY)
    with pytest.raises(TimeoutError):
        impatient.getresponse()
    assert stalled.wait(30)
    impatient.close()
    proxy.settle()
    assert statuses(proxy) == [None]
    assert server.names() == []


def test_a_late_request_arrives_after_its_client_was_reset(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    proxy.next("PUT", Late(0.1))
    with pytest.raises(ConnectionClosedError):
        client.put("a")
    assert statuses(proxy) == [None]
    proxy.settle()
    assert server.get("a") == BODY


def test_a_late_request_does_not_arrive_before_its_time(moto_server: Server, server: Objects) -> None:
    with FaultProxy(moto_server.endpoint) as proxy:
        proxy.next("PUT", Late(3600))
        with pytest.raises(ConnectionClosedError):
            Objects(proxy.endpoint, server.prefix).put("a")
        with pytest.raises(TimeoutError, match="still under way"):
            proxy.settle(timeout=0.01)
    assert server.names() == []


def test_a_cut_request_has_not_committed(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    proxy.next("PUT", CutRequest())
    with pytest.raises(ConnectionClosedError):
        client.put("a")
    assert statuses(proxy) == [None]
    assert server.names() == []


def test_a_cut_response_ends_within_its_body(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    server.put("a")
    proxy.next("GET", CutResponse())
    response = client.client.get_object(Bucket=BUCKET, Key=f"{client.prefix}/a")
    assert response["ContentLength"] == len(BODY)
    with pytest.raises(ResponseStreamingError):
        response["Body"].read()
    assert client.get("a") == BODY


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (409, "ConditionalRequestConflict"), (400, "ExpiredToken")],
)
def test_an_answered_request_never_arrives(
    status: int, code: str, proxy: FaultProxy, client: Objects, server: Objects
) -> None:
    proxy.next("PUT", Answer(status, code, "not <now>", {"Retry-After": "7"}))
    with pytest.raises(ClientError) as error:
        client.put("a")
    answer: Any = error.value.response
    assert answer["Error"] == {"Code": code, "Message": "not <now>"}
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"
    assert statuses(proxy) == [status]
    assert server.names() == []


def test_an_answered_head_has_no_body_and_the_connection_goes_on(proxy: FaultProxy) -> None:
    proxy.next("HEAD", Answer(403, "AccessDenied"))
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
    connection.request("HEAD", f"/{BUCKET}")
    response = connection.getresponse()
    assert (response.status, response.read(), response.will_close) == (403, b"", False)
    connection.auto_open = False
    connection.request("HEAD", f"/{BUCKET}")
    assert connection.getresponse().status == 200
    connection.close()


def test_an_answer_after_the_fact_has_committed(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    proxy.next("PUT", AnswerAfter(500, "InternalError"))
    with pytest.raises(ClientError, match="InternalError"):
        client.put("a")
    assert statuses(proxy) == [500]
    assert server.get("a") == BODY


def test_a_delayed_request_is_answered_as_usual(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    proxy.next("PUT", Delay(0.1))
    start = time.monotonic()
    client.put("a")
    assert time.monotonic() - start >= 0.1
    assert server.get("a") == BODY


def test_a_request_sent_twice_gets_the_first_answer(proxy: FaultProxy, server: Objects) -> None:
    with FaultProxy(proxy.endpoint) as doubling:
        doubling.next("PUT", Twice())
        Objects(doubling.endpoint, server.prefix).put("a", IfNoneMatch="*")
    assert statuses(proxy) == [200, 412]


def test_a_rewritten_answer_is_what_the_client_reads(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    server.put("a")
    proxy.next("GET", Rewrite(lambda body: body[::-1] + b"and more"))
    assert client.get("a") == BODY[::-1] + b"and more"
    assert client.get("a") == server.get("a") == BODY


def test_a_header_that_is_stripped_never_arrives(proxy: FaultProxy, client: Objects, server: Objects) -> None:
    server.put("a", b"first")
    proxy.next("PUT", Strip("if-none-match"))
    client.put("a", b"second", IfNoneMatch="*")
    assert proxy.requests[0].headers["if-none-match"] == "*"
    assert server.get("a") == b"second"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put("a", b"third", IfNoneMatch="*")


def test_faults_come_in_order_and_none_lets_a_request_pass(proxy: FaultProxy, client: Objects) -> None:
    proxy.next("PUT", None, Answer(503, "SlowDown"), Answer(500, "InternalError"))
    client.put("a")
    assert client.get("a") == BODY
    for code in ("SlowDown", "InternalError"):
        with pytest.raises(ClientError, match=code):
            client.put("a")
    client.put("a")


def test_a_plan_sees_each_request_that_has_no_fault_yet(proxy: FaultProxy, client: Objects) -> None:
    def plan(request: Request) -> Fault | None:
        return Answer(503, "SlowDown") if request.path.endswith("/b") else None

    proxy.plan = plan
    proxy.next("PUT", None)
    client.put("b")
    client.put("a")
    with pytest.raises(ClientError, match="SlowDown"):
        client.put("b")


def test_many_clients_at_once_do_not_mix(proxy: FaultProxy, request: pytest.FixtureRequest) -> None:
    def work(worker: int) -> bool:
        mine = Objects(proxy.endpoint, f"{request.node.name}/{worker}")
        for number in range(10):
            mine.put(str(number), body=f"{worker} {number}".encode())
        return all(mine.get(str(number)) == f"{worker} {number}".encode() for number in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert proxy.count() == {"PUT": 80, "GET": 80}


def test_a_chunked_body_arrives_whole(proxy: FaultProxy, server: Objects) -> None:
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
    for name in ("a", "b"):
        parts = iter([BODY[:100], BODY[100:]])
        connection.request("PUT", f"/{BUCKET}/{server.prefix}/{name}", body=parts, encode_chunked=True)
        assert connection.getresponse().read() == b""
    connection.close()
    assert server.get("a") == server.get("b") == BODY


def test_a_server_connection_that_ended_in_between_is_replaced(proxy: FaultProxy, server: Objects) -> None:
    with FaultProxy(proxy.endpoint) as outer:
        proxy.next("PUT", CutResponse())  # an answer without a body arrives whole; then the connection ends
        connection = http.client.HTTPConnection(outer.endpoint.removeprefix("http://"))
        for name in ("a", "b"):
            connection.request("PUT", f"/{BUCKET}/{server.prefix}/{name}", body=BODY)
            assert connection.getresponse().read() == b""
            proxy.settle()
        connection.close()
    assert server.names() == ["a", "b"]


def test_a_server_that_is_down_looks_like_a_reset() -> None:
    with FaultProxy(f"http://127.0.0.1:{free_ports(1)[0]}") as proxy:
        with pytest.raises(ConnectionClosedError):
            Objects(proxy.endpoint, "").put("a")
        assert statuses(proxy) == [None]


def test_closing_ends_stalled_clients_and_leaves_no_thread(moto_server: Server) -> None:
    before = set(threading.enumerate())
    with FaultProxy(moto_server.endpoint) as proxy:
        idle, busy = (http.client.HTTPConnection(proxy.endpoint.removeprefix("http://")) for _ in range(2))
        proxy.next("HEAD", Answer(404, "NoSuchBucket"))
        idle.request("HEAD", "/none")
        idle.getresponse().read()
        stalled = stall_everything(proxy)
        busy.request("PUT", f"/{BUCKET}/stalled", body=BODY)
        assert stalled.wait(30)
    assert set(threading.enumerate()) <= before
    with pytest.raises(http.client.RemoteDisconnected):
        busy.getresponse()
    idle.close()
    busy.close()
    with pytest.raises(EndpointConnectionError):
        Objects(proxy.endpoint, "").put("a")
