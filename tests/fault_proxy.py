"""A proxy in front of an S3 server that does to single requests what networks and services do to them."""

import contextlib
import html
import select
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from io import BufferedReader
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.servers import BUCKET, store_url

Kind = Literal["PUT", "GET", "HEAD", "LIST", "DELETE", "DELETE-MANY", "other"]


class Request(NamedTuple):
    """What a client asked, and the status it was answered: None if no answer was sent."""

    kind: Kind
    method: str
    path: str  # "/bucket/key", unquoted
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    status: int | None = None


class Reply(NamedTuple):
    """An answer as it goes to the client."""

    status: int
    head: list[bytes]  # the status line and the headers, each with its line end
    body: bytes
    last: bool = False  # the connection is closed behind it

    def with_body(self, body: bytes) -> Self:
        """The same answer with this body, and the headers that fit it."""
        kept = [line for line in self.head if _name(line) not in {"content-length", "transfer-encoding"}]
        return self._replace(head=[*kept, b"Content-Length: %d\r\n" % len(body)], body=body)


class Fault(ABC):
    """What happens to one request instead of just being passed on."""

    @abstractmethod
    def befall(self, line: "Line") -> None:
        """Happens to the request that is under way on this line."""


@dataclass(frozen=True)
class LostAnswer(Fault):
    """The server does what is asked; then the client's connection is reset without a byte of answer."""

    def befall(self, line: "Line") -> None:
        line.forward()
        line.reset()


@dataclass(frozen=True)
class Stall(Fault):
    """The server never hears of the request; nothing is answered until the client gives up or the proxy closes."""

    def befall(self, line: "Line") -> None:
        line.wait_until_the_client_leaves()


@dataclass(frozen=True)
class Late(Fault):
    """The client's connection is reset at once; the request reaches the server these seconds later all the same.

    `FaultProxy.settle` returns when it has. A proxy that closes earlier forgets the request.
    """

    seconds: float

    def befall(self, line: "Line") -> None:
        line.reset()
        if not line.proxy.closing.wait(self.seconds):
            line.forward()


@dataclass(frozen=True)
class CutRequest(Fault):
    """The server gets the head and this share of the body, or of the head if there is no body. Both ends are closed."""

    share: float = 0.5

    def befall(self, line: "Line") -> None:
        line.forward_part(self.share)
        line.hang_up()


@dataclass(frozen=True)
class CutResponse(Fault):
    """The client gets the headers and half of the body, then its connection is closed."""

    def befall(self, line: "Line") -> None:
        reply = line.forward()
        line.answer(reply._replace(body=reply.body[: len(reply.body) // 2], last=True))


@dataclass(frozen=True)
class Answer(Fault):
    """The server never hears of the request; the client gets this S3 error."""

    status: int
    code: str
    message: str = "A test asked for this error."
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def befall(self, line: "Line") -> None:
        line.answer(_error(line.request, self))


@dataclass(frozen=True)
class AnswerAfter(Answer):
    """The server does what is asked; the client gets this S3 error all the same."""

    def befall(self, line: "Line") -> None:
        line.forward()
        super().befall(line)


@dataclass(frozen=True)
class Delay(Fault):
    """The request is passed on these seconds later."""

    seconds: float

    def befall(self, line: "Line") -> None:
        line.proxy.closing.wait(self.seconds)
        line.answer(line.forward())


@dataclass(frozen=True)
class Meeting(Fault):
    """The request is passed on when as many are under way as the barrier counts, and fails when some stay away."""

    barrier: threading.Barrier

    def befall(self, line: "Line") -> None:
        try:
            self.barrier.wait(10)
        except threading.BrokenBarrierError:
            line.reset()
        else:
            line.answer(line.forward())


@dataclass(frozen=True)
class Twice(Fault):
    """The server gets the request twice, one after the other; the client gets the first answer."""

    def befall(self, line: "Line") -> None:
        first = line.forward()
        line.forward()
        line.answer(first)


@dataclass(frozen=True)
class Rewrite(Fault):
    """The body of the answer goes through this function."""

    function: Callable[[bytes], bytes]

    def befall(self, line: "Line") -> None:
        reply = line.forward()
        line.answer(reply.with_body(self.function(reply.body)))


@dataclass(frozen=True)
class Strip(Fault):
    """The server gets the request without this header, as from a client that never sent it."""

    header: str

    def befall(self, line: "Line") -> None:
        line.strip(self.header)
        line.answer(line.forward())


Plan = Callable[[Request], Fault | None]


class FaultProxy:
    """Passes every request on as it is, except those that a fault is meant for. A context manager.

    The faults given to `next` come first; for every other request `plan` is asked, which can be replaced at any time.
    A request is in `requests` before its client hears of its end. While the server is down, clients are reset.
    """

    bucket = BUCKET

    def __init__(self, upstream_endpoint: str) -> None:
        upstream = urlsplit(upstream_endpoint)
        self.plan: Plan = lambda _: None
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._upstream = (str(upstream.hostname), upstream.port)
        self._next: defaultdict[Kind, deque[Fault | None]] = defaultdict(deque)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)
        self._threads: list[threading.Thread] = []
        self._peers: set[Peer] = set()
        self._under_way = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends every connection, and returns when the last thread has ended."""
        self.closing.set()
        socket.create_connection(self._listener.getsockname()).close()  # wakes accept()
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            for peer in self._peers:
                peer.shut()
        for thread in self._threads:
            thread.join()

    def url(self, prefix: str, **options: str) -> str:
        """The URL of a store below this prefix, through this proxy."""
        return store_url(self.endpoint, prefix, **options)

    def next(self, kind: Kind, *faults: Fault | None) -> None:
        """Puts these faults, in this order, on the next requests of this kind; None lets one pass."""
        self._next[kind].extend(faults)

    def count(self) -> Counter[Kind]:
        """How many requests of each kind there were."""
        return Counter(request.kind for request in self.requests)

    def forget(self) -> None:
        """Empties the record of requests."""
        self.requests.clear()

    def settle(self, timeout: float = 30) -> None:
        """Returns when no request is under way, so that late ones have landed. Raises TimeoutError otherwise."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._under_way == 0, timeout):
                raise TimeoutError(f"requests still under way after {timeout} s: {self._under_way}")

    def fault_for(self, request: Request) -> Fault | None:
        """The fault that is meant for this request."""
        try:
            return self._next[request.kind].popleft()
        except IndexError:
            return self.plan(request)

    @contextlib.contextmanager
    def under_way(self) -> Generator[None]:
        """Lets `settle` wait for what is done meanwhile."""
        with self._changed:
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def connect(self) -> "Peer":
        """A new connection to the server."""
        return self.adopt(socket.create_connection(self._upstream))

    def adopt(self, connection: socket.socket) -> "Peer":
        """A peer whose connection ends with the proxy at the latest."""
        peer = Peer(connection)
        with self._changed:
            self._peers.add(peer)
            if self.closing.is_set():
                peer.shut()
        return peer

    def release(self, peer: "Peer", *, reset: bool = False) -> None:
        """Closes this peer's connection, if it is still open."""
        with self._changed:
            self._peers.discard(peer)
        peer.close(reset=reset)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.closing.is_set():
                connection.close()
                return
            thread = threading.Thread(target=Line(self, self.adopt(connection)).serve)
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
            thread.start()


class Peer:
    """The client's or the server's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.reader = connection.makefile("rb")

    @property
    def is_open(self) -> bool:
        """Whether it was not closed here."""
        return not self.reader.closed

    def is_stale(self) -> bool:
        """Whether an idle connection was ended from the other side."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def shut(self) -> None:
        """Wakes a thread that reads from it."""
        with contextlib.suppress(OSError):  # the other side was faster
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self, *, reset: bool = False) -> None:
        """Ends the connection, in good order or with a RST."""
        if reset and self.is_open:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.reader.close()
        self.connection.close()


class Line:
    """A client's connection, the server's that goes with it, and the request that is under way."""

    request: Request

    def __init__(self, proxy: FaultProxy, client: Peer) -> None:
        self.proxy = proxy
        self._client = client
        self._server: Peer | None = None
        self._head = b""
        self._body = b""
        self._recorded = True

    def serve(self) -> None:
        """Takes one request after the other until either side has enough."""
        try:
            while self._client.is_open and self._receive():
                with self.proxy.under_way():
                    fault = self.proxy.fault_for(self.request)
                    if fault:
                        fault.befall(self)
                    else:
                        self.answer(self.forward())
        except (OSError, EOFError):  # one of the two is gone: the other sees the same
            self.reset()
        finally:
            self.hang_up()

    def forward(self) -> Reply:
        """Sends the request to the server and returns its answer."""
        server = self._connected()
        server.connection.sendall(self._head + self._body)
        reply = _read_reply(server.reader, self.request.method)
        if reply.last:
            self.proxy.release(server)
        return reply

    def forward_part(self, share: float) -> None:
        """Sends the server the head and this share of the body, or of the head if there is no body."""
        head = len(self._head)
        sent = head + int(len(self._body) * share) if self._body else int(head * share)
        self._connected().connection.sendall((self._head + self._body)[:sent])

    def strip(self, header: str) -> None:
        """Takes a header out of the request."""
        lines = self._head.splitlines(keepends=True)
        self._head = b"".join(line for line in lines if _name(line) != header)

    def answer(self, reply: Reply) -> None:
        """Gives the client this answer."""
        self._record(reply.status)
        self._client.connection.sendall(b"".join(reply.head) + b"\r\n" + reply.body)
        if reply.last:
            self.proxy.release(self._client)

    def wait_until_the_client_leaves(self) -> None:
        """Returns when it has, or when the proxy closes."""
        self._record(None)
        self._client.reader.read(1)
        self.hang_up()

    def reset(self) -> None:
        """Ends the client's connection with a RST."""
        self._record(None)
        self.proxy.release(self._client, reset=True)

    def hang_up(self) -> None:
        """Ends both connections."""
        self._record(None)
        if self._server:
            self.proxy.release(self._server)
        self.proxy.release(self._client)

    def _receive(self) -> bool:
        """Takes the client's next request; False if there is none."""
        lines = _read_head(self._client.reader)
        if not lines:
            return False
        headers = _headers(lines)
        if headers.get("expect", "").lower() == "100-continue":
            self._client.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = [line for line in lines if _name(line) != "expect"]
        self._head = b"".join(lines) + b"\r\n"
        self._body, _ = _read_body(self._client.reader, headers)
        self.request = _request(lines[0].decode(), headers)
        self._recorded = False
        return True

    def _record(self, status: int | None) -> None:
        """Notes how the request ended for its client; what happens to it afterwards is not told again."""
        if not self._recorded:
            self._recorded = True
            self.proxy.requests.append(self.request._replace(status=status))

    def _connected(self) -> Peer:
        """The server, on the last request's connection if that is still alive."""
        if self._server and (not self._server.is_open or self._server.is_stale()):
            self.proxy.release(self._server)
            self._server = None
        self._server = self._server or self.proxy.connect()
        return self._server


def _name(line: bytes) -> str:
    """The header's name in lower case."""
    return line.partition(b":")[0].strip().lower().decode()


def _headers(lines: list[bytes]) -> dict[str, str]:
    return {_name(line): line.partition(b":")[2].strip().decode("latin-1") for line in lines[1:]}


def _request(line: str, headers: dict[str, str]) -> Request:
    method, target, _ = line.split()
    path, _, query_string = target.partition("?")
    query = dict(parse_qsl(query_string, keep_blank_values=True))
    kind: Kind
    match method:
        case "GET":
            kind = "LIST" if "list-type" in query else "GET"
        case "POST":
            kind = "DELETE-MANY" if "delete" in query else "other"
        case "PUT" | "HEAD" | "DELETE":
            kind = method
        case _:
            kind = "other"
    return Request(kind, method, unquote(path), query, headers)


def _error(request: Request, fault: Answer) -> Reply:
    """The answer that S3 gives for an error; to HEAD it gives no body."""
    body = f"<Error><Code>{fault.code}</Code><Message>{html.escape(fault.message)}</Message></Error>".encode()
    headers = {"Content-Type": "application/xml", **fault.headers}
    head = [f"HTTP/1.1 {fault.status} {fault.code}\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items())]
    reply = Reply(fault.status, [line.encode() for line in head], b"")
    return reply.with_body(b"" if request.method == "HEAD" else body)


def _read_reply(reader: BufferedReader, method: str) -> Reply:
    lines = _read_head(reader)
    if not lines:
        raise EOFError("the server ended the connection without an answer")
    status = int(lines[0].split()[1])
    if status == 100:
        return _read_reply(reader, method)
    headers = _headers(lines)
    last = lines[0].startswith(b"HTTP/1.0") or headers.get("connection", "").lower() == "close"
    reply = Reply(status, lines, b"", last)
    if method == "HEAD" or status in {204, 304}:
        return reply
    if "content-length" in headers or "transfer-encoding" in headers:
        return reply.with_body(_read_body(reader, headers)[1])
    return reply._replace(body=reader.read(), last=True)


def _read_head(reader: BufferedReader) -> list[bytes]:
    """The lines up to the blank one; none if the connection was ended before them."""
    lines = list[bytes]()
    while (line := reader.readline()) not in {b"\r\n", b""}:
        lines.append(line)
    if lines and not line:
        raise EOFError("the connection ended within a head")
    return lines


def _read_body(reader: BufferedReader, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """The body as it came, and without the marks of its chunks."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        body = _read(reader, int(headers.get("content-length", 0)))
        return body, body
    raw, content = list[bytes](), list[bytes]()
    size = -1
    while size != 0:
        mark = reader.readline()
        if not mark:
            raise EOFError("the connection ended between chunks")
        size = int(mark.split(b";")[0], 16)
        chunk = _read(reader, size) if size else b""
        end = b"".join([*_read_head(reader), b"\r\n"])  # behind the last chunk there may be trailers
        raw += [mark, chunk, end]
        content.append(chunk)
    return b"".join(raw), b"".join(content)


def _read(reader: BufferedReader, size: int) -> bytes:
    """So many bytes and no fewer."""
    found = reader.read(size)
    if len(found) < size:
        raise EOFError("the connection ended within a body")
    return found
