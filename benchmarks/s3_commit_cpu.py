"""Where the client's CPU time of one commit to S3 goes, and what saves some of it (docs/notes/0004).

    python -m benchmarks.s3_commit_cpu [ROUNDS]

The server is SeaweedFS on loopback. Counted is the CPU time of the thread that commits: nothing of the server's. The
variants take turns in each round, and of their rounds the medians count, since machines drift and ratios hold.
"""

import base64
import socket
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore
import orjson
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

from durable_store import Store, open_store
from durable_store_backends.s3 import S3Backend
from durable_store_backends.s3_bucket import Connection
from tests.servers import BUCKET, REGION, credentials, seaweedfs

EACH = 4  # requests of a variant in each round
DELAY = 0.005  # seconds, each way, on the long line
STATE = {"messages": [{"role": "user", "content": f"{number:3}: {'a word or two, ' * 9}"} for number in range(25)]}

Change = Callable[[Any], None]


def as_it_comes(endpoint: str | None, *changes: Change, **config: Any) -> Any:
    """A client with the SDK's own settings, apart from retries and from the checksums that some services refuse."""
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        **config,
    }
    client: Any = boto3.client(  # pyright: ignore[reportUnknownMemberType]
        "s3", region_name=REGION, endpoint_url=endpoint, config=Config(**settings)
    )
    for change in changes:
        change(client)
    return client


def the_store_s(endpoint: str, *changes: Change) -> Any:
    """A client as the store makes it for itself."""
    client: Any = Connection(endpoint, REGION).client()
    for change in changes:
        change(client)
    return client


def answered(client: Any) -> None:
    """Leaves out the HTTP: every request is answered, before it is sent, by what SeaweedFS answers to a PUT."""

    class Nothing:
        def stream(self) -> list[bytes]:
            return []

    headers = HTTPHeaders()
    for name in ("Content-Length", "ETag", "Accept-Ranges", "Vary", "Date", "x-amz-request-id"):
        headers[name] = "0"

    def answer(request: Any, **_: object) -> AWSResponse:
        return AWSResponse(request.url, 200, headers, Nothing())

    client.meta.events.register("before-send.s3", answer)


def unsigned(client: Any) -> None:
    """Leaves out the signing."""

    def signer(**_: object) -> object:
        return botocore.UNSIGNED

    client.meta.events.register("choose-signer.s3", signer)


def no_go_ahead(client: Any) -> None:
    """Sends the body without waiting for a "100 Continue"."""

    def drop(params: Any, **_: object) -> None:
        params["headers"].pop("Expect", None)

    client.meta.events.register_last("before-call.s3", drop)


def plain_body(client: Any) -> None:
    """The same, and the body as the bytes that it is instead of a file of them."""

    def unwrap(params: Any, **_: object) -> None:
        params["headers"].pop("Expect", None)
        if isinstance(params["body"], BytesIO):
            params["body"] = params["body"].getvalue()

    client.meta.events.register_last("before-call.s3", unwrap)


VARIANTS: dict[str, Callable[[str], Any]] = {
    "as the SDK comes": as_it_comes,
    "the same once more, for the noise": as_it_comes,
    "no wait for a go-ahead": lambda endpoint: as_it_comes(endpoint, no_go_ahead),
    "the same, and the body as bytes": lambda endpoint: as_it_comes(endpoint, plain_body),
    "a fixed user agent": lambda endpoint: as_it_comes(endpoint, user_agent="durable-store"),
    "no validation of parameters": lambda endpoint: as_it_comes(endpoint, parameter_validation=False),
    "path-style addresses": lambda endpoint: as_it_comes(endpoint, s3={"addressing_style": "path"}),
    "payload not signed": lambda endpoint: as_it_comes(endpoint, s3={"payload_signing_enabled": False}),
    "with the SDK's checksum": lambda endpoint: as_it_comes(endpoint, request_checksum_calculation="when_supported"),
    "as the store does it": the_store_s,
}


def puts(client: Any, body: bytes, place: str) -> Callable[[], object]:
    """What a commit asks of the SDK."""
    number = count()
    return lambda: client.put_object(Bucket=BUCKET, Key=f"{place}/{next(number)}", Body=body, IfNoneMatch="*")


def commits(store: Store) -> Callable[[], object]:
    """One commit after the other, of a run that keeps all of them."""
    run = store.resume("cpu", "agent-0", keep=None)
    return lambda: run.commit(STATE)


def measured(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, list[float]]:
    """Microseconds of one, in each round."""
    for call in variants.values():
        call()  # connects
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            started = clock()
            for _ in range(EACH):
                call()
            times[name].append((clock() - started) / EACH * 1e6)
    return times


def table(title: str, times: dict[str, list[float]]) -> None:
    """Prints the medians, and those of the ratios to the first."""
    print(f"\n{title:46} {'µs of CPU time':>18} {'ratio':>22}")
    first = next(iter(times.values()))
    for name, found in times.items():
        ratio = statistics.median(one / other for one, other in zip(found, first, strict=True))
        print(f"{name:46} {statistics.median(found):18.0f} {ratio:22.2f}")


def split(endpoint: str, rounds: int) -> None:
    """Prints the parts of a commit. What is left out is subtracted, so the parts need not make up the whole."""
    body = orjson.dumps(STATE) + b" " * 600  # about a record
    ways = {"as the SDK comes": as_it_comes, "as the store does it": the_store_s}
    variants = {"encoding and record": commits(open_store("memory://"))}
    for way, make in ways.items():
        backend = S3Backend(bucket=BUCKET, prefix=f"whole/{way}", client=make(endpoint))
        variants |= {
            f"{way}: whole": commits(Store(backend)),
            f"{way}: PUT": puts(make(endpoint), body, f"put/{way}"),
            f"{way}: without HTTP": puts(make(endpoint, answered), body, ""),
            f"{way}: without HTTP and signing": puts(make(endpoint, answered, unsigned), body, ""),
        }
    times = {name: statistics.median(found) for name, found in measured(variants, rounds).items()}
    print(f"{'µs of CPU time':46} {'as the SDK comes':>18} {'as the store does it':>22}")
    rows: dict[str, list[float]] = {}
    for way in ways:
        sdk, signed = times[f"{way}: without HTTP and signing"], times[f"{way}: without HTTP"]
        parts = {
            "encoding, record, run": times["encoding and record"],
            "SDK: rules, events, headers, parsing": sdk,
            "signing": signed - sdk,
            "HTTP and socket": times[f"{way}: PUT"] - signed,
            "a whole commit": times[f"{way}: whole"],
        }
        for name, part in parts.items():
            rows.setdefault(name, []).append(part)
    for name, (before, after) in rows.items():
        print(f"{name:46} {before:18.0f} {after:22.0f}")


def gains(endpoint: str, rounds: int) -> None:
    """Prints what each measure does to a commit."""
    stores = {
        name: Store(S3Backend(bucket=BUCKET, prefix=name, client=make(endpoint))) for name, make in VARIANTS.items()
    }
    table("a whole commit", measured({name: commits(store) for name, store in stores.items()}, rounds))


def checksums(rounds: int) -> None:
    """Prints what a CRC32 costs at AWS, by the two ways to ask for it; nothing is sent."""
    body = orjson.dumps(STATE)
    client = as_it_comes(None, answered)

    def put(checksum: Callable[[], dict[str, str]]) -> Callable[[], object]:
        return lambda: client.put_object(Bucket=BUCKET, Key="key", Body=body, IfNoneMatch="*", **checksum())

    crc = "ChecksumCRC32"
    variants = {
        "by name": put(lambda: {"ChecksumAlgorithm": "CRC32"}),
        "as a value": put(lambda: {crc: base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}),
        "none": put(dict),
    }
    table("a PUT to AWS with a CRC32, without HTTP", measured(variants, rounds))


@contextmanager
def long_line(endpoint: str) -> Generator[tuple[str, list[socket.socket]]]:
    """An endpoint `DELAY` away from the server, and the connections that were made to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = urlsplit(endpoint)
    made: list[socket.socket] = []

    def take(source: socket.socket, under_way: Queue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while sent := source.recv(1 << 16):
                under_way.put((time.perf_counter() + DELAY, sent))
        under_way.put((0, b""))

    def give(target: socket.socket, under_way: Queue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while (next_one := under_way.get())[1]:
                time.sleep(max(0, next_one[0] - time.perf_counter()))
                target.sendall(next_one[1])

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((server.hostname, server.port))
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.append(near)
                for source, target in ((near, far), (far, near)):
                    under_way: Queue[tuple[float, bytes]] = Queue()
                    threading.Thread(target=take, args=(source, under_way), daemon=True).start()
                    threading.Thread(target=give, args=(target, under_way), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def round_trips(endpoint: str, rounds: int) -> None:
    """Prints how long a PUT takes where the server is far away."""
    body = orjson.dumps(STATE)
    with long_line(endpoint) as (line, made):
        variants = {
            "as the SDK comes": puts(as_it_comes(line), body, "line/1"),
            "as the store does it": puts(the_store_s(line), body, "line/2"),
        }
        times = measured(variants, rounds, time.perf_counter)
    print(f"\na PUT over a line of {DELAY * 2e3:.0f} ms there and back, {len(made)} connections in all")
    for name, found in times.items():
        print(f"{name:46} {statistics.median(found) / 1000:15.1f} ms")


def main(rounds: int) -> None:
    """Prints four tables."""
    credentials()
    print(f"boto3 {boto3.__version__}, Python {sys.version.split()[0]}, {len(orjson.dumps(STATE))} bytes of state\n")
    with tempfile.TemporaryDirectory() as directory, seaweedfs(Path(directory)) as server:
        split(server.endpoint, rounds)
        gains(server.endpoint, rounds)
        checksums(rounds)
        round_trips(server.endpoint, max(5, rounds // 20))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 301)
