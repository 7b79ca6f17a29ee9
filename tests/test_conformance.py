"""The exam on the backends of this repository, and the control: memory must fail whatever needs another process."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import durable_store_conformance
from durable_store import DurableStoreError
from durable_store_conformance import StoreConformance
from durable_store_conformance.clauses import Clauses
from durable_store_conformance.fresh import FreshProcessClauses


class TestFiles(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/store"


class TestSqlite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"


class TestMemory(StoreConformance):
    """In one process it keeps every promise; each clause that asks for another process is expected to fail.

    Strictly: one that passes is an error, and so is one that fails by anything but an assertion or an error of
    durable_store, `ProcessFailed` above all.
    """

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"memory://{tmp_path.name}"

    @pytest.fixture(autouse=True)
    def control(self, request: pytest.FixtureRequest) -> None:
        if "another_process" in request.fixturenames:
            broken = (AssertionError, DurableStoreError, pytest.fail.Exception)
            reason = "memory is this process's own"
            request.applymarker(pytest.mark.xfail(reason=reason, raises=broken, strict=True))


def clauses_of(group: type) -> dict[str, Callable[..., Any]]:
    return {name: clause for name, clause in inspect.getmembers(group, inspect.isfunction) if name.startswith("test_")}


def test_each_fresh_process_clause_is_part_of_the_control() -> None:
    """What TestMemory must fail follows from the fixtures that a clause asks for; no list of it is kept."""
    clauses = clauses_of(FreshProcessClauses)
    assert clauses
    for name, clause in clauses.items():
        assert "another_process" in inspect.signature(clause).parameters, name


def test_each_clause_of_the_package_is_in_the_exam() -> None:
    """A group that nobody inherits, or a name that two groups have, would be an exam that shrank unseen."""
    groups = Clauses.__subclasses__()
    package = Path(str(durable_store_conformance.__file__)).parent
    written = re.findall(r"^    def (test_\w+)", "".join(map(Path.read_text, package.glob("*.py"))), re.MULTILINE)
    assert sorted(written) == sorted(clauses_of(StoreConformance))
    assert {group for group in groups if group is not StoreConformance} <= set(StoreConformance.__mro__)


@pytest.mark.parametrize("name", ["test_steps_are_newest_first", "another_process", "backend", "_helper"])
def test_a_clause_or_fixture_that_is_replaced_is_refused(name: str) -> None:
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
    assert "test_steps_are_newest_first" in ran.stdout
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
