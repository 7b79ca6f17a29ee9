"""The conformance suite on a Redis server of its own: `pip install -e '.[test]'` and `pytest`, in this directory."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from durable_store_conformance import StoreConformance

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def serving(directory: Path, port: int, *settings: str) -> Generator["subprocess.Popen[bytes]"]:
    """A server on 127.0.0.1 that keeps its files in this directory; it dies with the thread that started it (Linux)."""
    if SERVER is None:
        pytest.skip("needs Redis or Valkey: apt-get install redis-server")
    leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--logfile", "redis.log"]
    with subprocess.Popen([*leash, SERVER, *place, *settings], stdin=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while not answers(port):
                assert server.poll() is None, (directory / "redis.log").read_text()
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.02)
            yield server
        finally:
            server.kill()


def answers(port: int) -> bool:
    """Whether a server on this port has its data in memory and takes commands."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100)[:5] not in {b"", b"-LOAD"}  # an error is an answer: it may want a password
    except ConnectionError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database on a server of this session's own."""
    port = free_port()
    with serving(tmp_path_factory.mktemp("redis"), port, *DURABLE):
        yield f"redis://127.0.0.1:{port}/0"


class TestRedis(StoreConformance):
    """The exam, each clause below a prefix of its own."""

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        """A URL that another process can open, of a store that nobody has written to."""
        return f"{redis_url}/{uuid4().hex}"
