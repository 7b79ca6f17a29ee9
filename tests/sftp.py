"""A real SFTP server on loopback: OpenSSH's sshd, with keys of its own, for one test session."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.servers import DEADLINE, free_ports

SSHD = "/usr/sbin/sshd"  # it insists on its absolute path

_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/client_key.pub
PidFile none
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
LogLevel ERROR
Subsystem sftp internal-sftp
"""


def make_key(path: Path) -> None:
    """A key without a passphrase; its public half is beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "durable-store tests", "-f", str(path)]
    subprocess.run(command, check=True)


class SftpServer:
    """An sshd that lets the user of the tests in, by one key, and to nothing but files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        [self.port] = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "client_key"):
            make_key(directory / name)
        (directory / "sshd_config").write_text(_CONFIG.format(port=self.port, directory=directory))

    def url(self, path: Path, **options: str) -> str:
        """The URL of a store in this directory."""
        query = {
            "username": getpass.getuser(),
            "key_filename": f"{self._directory}/client_key",
            "allow_agent": "false",
            "look_for_keys": "false",
            **options,
        }
        return f"sftp://127.0.0.1:{self.port}{quote(str(path))}?{urlencode(query)}"

    def start(self) -> None:
        """Returns when it takes connections. It dies with the thread that called this (Linux)."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where systemd, which makes it, has not started one
        leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with (self._directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, SSHD, "-D", "-e", "-f", self._directory / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.settimeout(5)
                if connection.recv(4) == b"SSH-":
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
                break
        raise RuntimeError(f"no sshd on port {self.port}: {(self._directory / 'sshd.log').read_text()}")

    @contextlib.contextmanager
    def hanging(self) -> Generator[None]:
        """Stops it and all that serve a connection: they stay, and nobody answers, for half a minute at most."""
        if self._process is None:
            raise RuntimeError("it was not started")
        serving = [self._process.pid, *_descendants(self._process.pid)]

        def go_on() -> None:
            for process in serving:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

        at_most = threading.Timer(30, go_on)
        at_most.start()
        for process in serving:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            at_most.cancel()
            go_on()

    def stop(self) -> None:
        """Ends the sshd that listens; those that serve a connection end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _descendants(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(children.get(ancestor, []))
    for process in found:
        found += children.get(process, [])
    return found


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[SftpServer]:
    """One sshd for all tests of a session, or of a worker; each test takes a directory of its own."""
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("needs sshd: apt-get install openssh-server")
    server = SftpServer(tmp_path_factory.mktemp("sshd"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
