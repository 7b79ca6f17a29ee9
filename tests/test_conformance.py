"""The exam on the backends of this repository, and the control: memory must fail whatever needs another process."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

import durable_store_conformance.clauses
from durable_store import DurableStoreError, open_store
from durable_store_conformance import StoreConformance
from durable_store_conformance.exam import CASES, CLAUSES, Case
from durable_store_conformance.registry import GROUPS, Clause
from tests.servers import Server
from tests.sftp import SftpServer


def expect_failure(request: pytest.FixtureRequest, reason: str) -> None:
    broken = (AssertionError, DurableStoreError, pytest.fail.Exception)  # what pytest.raises ends with is the last
    request.applymarker(pytest.mark.xfail(reason=reason, raises=broken, strict=True))


THOUSANDS = ("DS-SIZE-02", "DS-SIZE-03")
"""Ten thousand steps and keys: a minute each where every record is a request. There they are left to `make prove`."""

AWAY = ("DS-OUT-04",)
"""Storage that is away, and a client that tries again for seconds, eight times over."""

MEETINGS = tuple(clause.id for clause in CLAUSES if clause.needs & {"a kill", "a race", "a fork"})
"""For each change on the real server, with the same client. Moto serves one request at a time: `make prove` asks it."""


class TestFiles(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/store"


class TestSqlite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"


class TestMoto(StoreConformance):
    prove = tuple({*THOUSANDS, *AWAY, *MEETINGS})

    @pytest.fixture
    def url(self, moto_server: Server) -> str:
        return moto_server.url_of_a_new_bucket()


class TestSeaweedFs(StoreConformance):
    prove = THOUSANDS + AWAY

    @pytest.fixture
    def url(self, seaweedfs_server: Server) -> str:
        return seaweedfs_server.url(uuid4().hex)


if "DURABLE_STORE_TEST_S3_URL" in os.environ:  # and without it there is nothing to be skipped

    class TestServiceOfYourOwn(StoreConformance):
        @pytest.fixture
        def url(self) -> Iterator[str]:
            """A prefix of its own below the one given, and nothing left in it."""
            given = urlsplit(os.environ["DURABLE_STORE_TEST_S3_URL"])
            url = given._replace(path=f"{given.path.rstrip('/')}/{uuid4().hex}").geturl()
            yield url
            with open_store(url) as store:
                for key in list(store.backend.keys()):
                    store.backend.prune(key, store.backend.steps(key))


class TestMemory(StoreConformance):
    """In one process it keeps every promise; each clause that asks for another process is expected to fail.

    Strictly: one that passes is an error, and so is one that fails by anything but an assertion or an error of
    durable_store, `ProcessFailed` above all.
    """

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"memory://{tmp_path.name}"

    @pytest.fixture(autouse=True)
    def control(self, request: pytest.FixtureRequest, case: Case) -> None:
        if "another process" in case.clause.needs:
            expect_failure(request, "memory is this process's own")


class TestFsspecMemory(StoreConformance):
    """As TestMemory: in one process it keeps every promise. The control is a long proof here: a minute of processes."""

    prove = THOUSANDS + tuple(clause.id for clause in CLAUSES if "another process" in clause.needs)

    @pytest.fixture
    def url(self, tmp_path: Path) -> Iterator[str]:
        yield f"memory+fsspec://{tmp_path.name}"
        fsspec_memory = import_module("fsspec.implementations.memory").MemoryFileSystem
        fsspec_memory.store.clear()  # each listing looks at all there is
        fsspec_memory.pseudo_dirs[1:] = []

    @pytest.fixture(autouse=True)
    def control(self, request: pytest.FixtureRequest, case: Case) -> None:
        if "another process" in case.clause.needs:
            expect_failure(request, "memory is this process's own")


@pytest.fixture(scope="session")
def s3fs_url(moto_server: Server) -> Iterator[str]:
    """Its connection stays open, and all stores of this process share it: one for each clause takes a minute."""
    url = f"s3+fsspec://{moto_server.bucket}/{{}}?endpoint_url={moto_server.endpoint}"
    with open_store(url.format("open")) as store:
        assert store.episodes("goal") == []
        yield url


class TestS3fs(StoreConformance):
    pytestmark = pytest.mark.prove  # two minutes; tests/test_fsspec.py has what is fsspec's own

    @pytest.fixture
    def url(self, s3fs_url: str) -> str:
        return s3fs_url.format(uuid4().hex)


class TestSftp(StoreConformance):
    """Without fencing: everything but who wins a race."""

    pytestmark = pytest.mark.prove  # two minutes

    @pytest.fixture
    def url(self, sftp_server: SftpServer, tmp_path: Path) -> str:
        return sftp_server.url(tmp_path / "store", fencing="off")

    @pytest.fixture(autouse=True)
    def control(self, request: pytest.FixtureRequest, case: Case) -> None:
        if "a race" in case.clause.needs:
            expect_failure(request, "SFTP cannot create a file only if it is absent")


def test_each_clause_of_the_package_is_in_the_exam() -> None:
    """A module that nobody names would be an exam that shrank unseen."""
    package = Path(str(durable_store_conformance.clauses.__file__)).parent
    written = re.findall(r'^@clause\(\s*"([^"]+)"', "".join(map(Path.read_text, package.glob("*.py"))), re.MULTILINE)
    assert sorted(written) == sorted(clause.id for clause in CLAUSES)
    assert len(CASES) == sum(len(clause.cases) for clause in CLAUSES) == len(set(map(str, CASES)))


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.id)
def test_each_clause_has_its_number_and_the_words_of_a_promise(clause: Clause) -> None:
    assert re.fullmatch(r"DS-[A-Z]+-\d\d", clause.id)
    assert clause.group.name in GROUPS
    assert clause.examine.__doc__
    said = (name for name in ("backend", "errors", "key", "reading", "record", "run", "store"))
    docstrings = [
        " ".join(text.split()) for name in said for text in docstrings_of(import_module(f"durable_store.{name}"))
    ]
    assert any(clause.promise in text for text in docstrings), clause.promise


def docstrings_of(module: ModuleType) -> Iterator[str]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("name", ["test_clause", "_helper"])
def test_a_part_of_the_exam_that_is_replaced_is_refused(name: str) -> None:
    def define() -> None:
        type("TestMine", (StoreConformance,), {name: None})

    if name == "_helper":
        define()
        return
    with pytest.raises(TypeError, match=name):
        define()


def test_an_outsider_sees_the_clause_that_failed_and_both_values(tmp_path: Path) -> None:
    """From an empty directory, with nothing but the suite: exit status 1, the clause's name, what was and what is."""
    (tmp_path / "test_mine.py").write_text(_MINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "steps_are_newest"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 1, ran.stdout
    assert "DS-STEPS-01-steps_are_newest_first" in ran.stdout
    assert "assert [0, 2, 9, 10, 11, 100] == [100, 11, 10, 9, 2, 0]" in ran.stdout


_MINE = """
import pytest
from durable_store_backends.memory import MemoryBackend
from durable_store_conformance import StoreConformance

class TestMine(StoreConformance):
    @pytest.fixture
    def url(self, monkeypatch):
        monkeypatch.setattr(MemoryBackend, "steps", lambda self, key: sorted(self._open().of_key.get(key, {})))
        return "memory://mine"
"""
