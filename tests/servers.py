"""Real S3 servers on loopback, each a process of its own that ends with the test session, however that ends."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

BUCKET = "durable-store"
REGION = "us-east-1"
READ_ONLY_KEY = "durable-store-reader"
READ_ONLY_SECRET = "may-look-but-not-touch"  # noqa: S105 - opens a server that lives for one test session

DEADLINE = 60.0  # seconds until a server answers; SeaweedFS takes 1, and 5 when its parts find each other late


def credentials() -> None:
    """Gives the SDKs test credentials through the environment, and none of the developer's own files to look into."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "durable-store-admin")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "only-for-tests")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    os.environ.setdefault("AWS_CONFIG_FILE", os.devnull)
    os.environ.setdefault("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    os.environ.pop("AWS_PROFILE", None)  # a name in the files that are no longer read: an error in every client


def store_url(endpoint: str, prefix: str, *, bucket: str = BUCKET, **options: str) -> str:
    """The URL of a store below this prefix, at this endpoint."""
    query = urlencode({"endpoint_url": endpoint, "region": REGION, **options})
    return f"s3://{bucket}/{prefix}?{query}"


def s3_client(endpoint: str, access_key: str | None = None, secret: str | None = None) -> Any:
    """A boto3 client that sends each request once; without a key it takes the credentials of the environment."""
    config = import_module("botocore.config").Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return import_module("boto3").client(  # imported here: 0.2 s that only tests of S3 shall pay
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=config,
    )


class Server:
    """A server process with one bucket; what it says goes to `log`.

    It dies with the thread that called `start` (Linux), so that not even a SIGKILL of the tests leaves it behind.
    """

    bucket = BUCKET

    def __init__(self, command: Sequence[str | Path], port: int, log: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str, **options: str) -> str:
        """The URL of a store below this prefix."""
        return store_url(self.endpoint, prefix, **options)

    def url_of_a_new_bucket(self) -> str:
        """The URL of a store in a bucket that nobody else uses: moto looks at all of a bucket for each listing."""
        bucket = uuid4().hex
        self._client.create_bucket(Bucket=bucket)
        return store_url(self.endpoint, "", bucket=bucket)

    @cached_property
    def _client(self) -> Any:
        return s3_client(self.endpoint)

    def start(self) -> None:
        """Returns when objects can be stored and read. Raises RuntimeError, with the end of the log, if that fails."""
        leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_serves(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Sends SIGKILL to the server and its children, and returns when it is gone. A dead server is left alone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._client.close()

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        client = self._client
        not_yet = import_module("botocore.exceptions")
        problem: Exception | None = None
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):  # it was started before
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="is-it-up", Body=b"yes")
                client.get_object(Bucket=BUCKET, Key="is-it-up")  # SeaweedFS, started anew, reads 4 s after it writes
                client.delete_object(Bucket=BUCKET, Key="is-it-up")
            except (not_yet.BotoCoreError, not_yet.ClientError) as error:
                problem = error
            else:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"the server ended with {process.wait(timeout=0.05)}:\n{self._end_of_log()}")
        raise RuntimeError(f"no S3 at {self.endpoint} after {DEADLINE} s: {problem}\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        return self._log.read_bytes()[-4000:].decode(errors="replace")


@contextlib.contextmanager
def moto() -> Generator[Server]:
    """Moto in a process of its own: fast to start, believes everything."""
    credentials()
    with tempfile.TemporaryDirectory() as directory:
        [port] = free_ports(1)
        server = Server([sys.executable, __file__, str(port)], port, Path(directory, "moto.log"))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def seaweedfs(directory: Path) -> Generator[Server]:
    """SeaweedFS on this directory; `kill` and `start` keep the directory and the ports.

    READ_ONLY_KEY and READ_ONLY_SECRET open the bucket for reading and listing only.
    """
    credentials()
    config = directory / "s3.json"
    config.write_text(json.dumps(_identities()))
    ports = dict(zip(("master", "volume", "filer", "s3", "admin"), free_ports(5), strict=True))
    command: list[str | Path] = [
        Path(sys.executable).with_name("weed"),
        "mini",  # up in 0.8 s; `weed server` takes 3.3
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{part}.port={port}" for part, port in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        f"-s3.config={config}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-master.electionTimeout=1s",  # by default a restart takes 10 s more
    ]
    server = Server(command, ports["s3"], directory / "weed.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        for port in ports.values():
            _remove_sockets(port)


def _remove_sockets(port: int) -> None:
    """Removes what SeaweedFS leaves in /tmp, which it does wherever its directory is."""
    for number in (port, port + 10000):
        for left_over in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108 - the name is SeaweedFS's
            left_over.unlink(missing_ok=True)


def _identities() -> dict[str, Any]:
    """Who may do what at SeaweedFS: the environment's credentials everything, the reader little."""
    admin = {"accessKey": os.environ["AWS_ACCESS_KEY_ID"], "secretKey": os.environ["AWS_SECRET_ACCESS_KEY"]}
    reader = {"accessKey": READ_ONLY_KEY, "secretKey": READ_ONLY_SECRET}
    return {
        "identities": [
            {"name": "admin", "credentials": [admin], "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "reader", "credentials": [reader], "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"]},
        ]
    }


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free, and so is each one's port + 10000, where SeaweedFS puts its gRPC.

    Both lie below the ports that Linux gives to outgoing connections, so that none of those can take them meanwhile.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10240, 22768)
        if port not in found and _is_free(port) and _is_free(port + 10000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _serve_moto(port: int) -> None:
    """Serves moto for ever, one request at a time: in moto a conditional PUT is two steps, a look and a write.

    Cheroot keeps connections open, as S3 does; moto's own server ends each with its answer, which makes a request that
    waits for the one before a seventh slower.
    """
    from cheroot.wsgi import Server as WSGIServer  # noqa: PLC0415 - these are for the server's own process
    from moto.moto_server import werkzeug_app  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

    s3 = werkzeug_app.create_backend_app("s3")  # finding out that it is S3 is a third of moto's time for a request
    turn = Lock()

    def in_turn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()  # before the turn: an upload that stalls holds up nobody
        if len(body) < int(environ.get("CONTENT_LENGTH") or 0):
            raise ConnectionError("the upload was cut off")
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["RAW_URI"] = environ["REQUEST_URI"]  # the path as it was sent, by the name that moto looks for
        with turn:
            return [b"".join(s3(environ, start_response))]

    WSGIServer(("127.0.0.1", port), in_turn, numthreads=32, request_queue_size=128).start()


@pytest.fixture(scope="session")
def moto_server() -> Generator[Server]:
    """One moto for all tests of a session, or of a worker; each test takes a prefix of its own."""
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """One SeaweedFS for all tests of a session, or of a worker; each test takes a prefix of its own."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


if __name__ == "__main__":
    _serve_moto(int(sys.argv[1]))
